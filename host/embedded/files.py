"""Core nodes that read and write picture files."""
import json
import os
import re
import time
from pathlib import Path

import torch

from .context import current


def save_png(path: Path, picture: torch.Tensor, metadata: dict[str, str]) -> None:
    """Writes picture (H, W, 3) in [0, 1] with PNG text chunks; the file appears only once it is complete."""
    import numpy as np
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, text in metadata.items():
        info.add_text(key, text)
    pixels = np.clip(255.0 * picture.cpu().float().numpy(), 0, 255).astype(np.uint8)
    part = path.with_name(f".{path.name}.part")
    try:
        Image.fromarray(pixels).save(part, format="PNG", pnginfo=info, compress_level=4)
        part.replace(path)
    except OSError as error:
        raise ValueError(f"{path} could not be written ({error.strerror or error}); "
                         "choose another output folder") from error
    finally:
        part.unlink(missing_ok=True)


def numbered_path(folder: Path, prefix: str, width: int, height: int) -> Path:
    """The next free folder/prefix_00001_.png; prefix may name subfolders and ComfyUI's %width%, %year%, ... fields."""
    now = time.localtime()
    fields = {"width": width, "height": height, "year": now.tm_year, "month": f"{now.tm_mon:02}",
              "day": f"{now.tm_mday:02}", "hour": f"{now.tm_hour:02}", "minute": f"{now.tm_min:02}",
              "second": f"{now.tm_sec:02}"}
    for name, value in fields.items():
        prefix = prefix.replace(f"%{name}%", str(value))
    base = folder / prefix
    if not base.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"filename_prefix {prefix!r} leads out of the output folder {folder}; drop the '..'")
    make_folder(base.parent)
    taken = [re.fullmatch(re.escape(base.name) + r"_(\d+)_\.png", name.name) for name in base.parent.iterdir()]
    number = max((int(match[1]) for match in taken if match), default=0) + 1
    return base.with_name(f"{base.name}_{number:05}_.png")


def make_folder(folder: Path) -> None:
    """Makes sure that files can be written to folder, or says why not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".odeon-{os.getpid()}.part"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"output folder {folder} can't be written ({error.strerror or error}); "
                         "choose another with --out") from error


class SaveImage:
    RETURN_TYPES = ()
    FUNCTION = "save_images"
    OUTPUT_NODE = True
    SUBFOLDER = ""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"images": ("IMAGE",), "filename_prefix": ("STRING", {"default": "ComfyUI"})}}

    def save_images(self, images, filename_prefix="ComfyUI"):
        run = current()
        carried = {"prompt": run.prompt, "workflow": run.workflow}
        metadata = {key: json.dumps(value) for key, value in carried.items() if value}
        saved = []
        for picture in images:
            height, width = picture.shape[:2]
            path = numbered_path(run.output_folder / self.SUBFOLDER, filename_prefix, width, height)
            save_png(path, picture, metadata)
            run.events.saved(path)
            saved.append({"filename": path.name, "subfolder": str(path.parent), "type": "output"})
        return {"ui": {"images": saved}}


class PreviewImage(SaveImage):
    SUBFOLDER = "temp"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"images": ("IMAGE",)}}

    def save_images(self, images):
        return super().save_images(images, "preview")


class LoadImage:
    RETURN_TYPES = ("IMAGE", "MASK")
    FUNCTION = "load_image"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("STRING", {"image_upload": True})}}

    @classmethod
    def VALIDATE_INPUTS(cls, image):
        return True if find_input(image) else f"image file {image!r} was not found in {_searched()}; put it there"

    def load_image(self, image):
        import numpy as np

        path = find_input(image)
        if path is None:
            raise ValueError(f"image file {image!r} was not found in {_searched()}; put it there")
        picture = open_picture(path)
        pixels = pixels_of(picture)
        transparent = "A" in picture.getbands() or "transparency" in picture.info
        if not transparent:
            return (pixels[None], torch.zeros(1, 64, 64))
        alpha = np.asarray(picture.convert("RGBA").getchannel("A"), dtype=np.float32) / 255.0
        return (pixels[None], 1.0 - torch.from_numpy(alpha)[None])


def open_picture(path: Path):
    """A Pillow image, upright. Raises ValueError for what Pillow can't read."""
    from PIL import Image, ImageOps

    try:
        picture = ImageOps.exif_transpose(Image.open(path))
        picture.load()
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} is no picture that Pillow can read ({error}); choose another file") from error
    return picture


def pixels_of(picture) -> torch.Tensor:
    """A Pillow image as (H, W, 3) in [0, 1]."""
    import numpy as np

    return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255.0)


def find_input(name: str) -> Path | None:
    """The file a LoadImage widget names: in one of the run's input folders, or an absolute path."""
    name = re.sub(r" \[(input|output|temp)\]$", "", name)
    candidates = [folder / name for folder in current().input_folders] + [Path(name)]
    return next((path for path in candidates if path.is_file()), None)


def _searched() -> str:
    return ", ".join(str(folder) for folder in current().input_folders) or "any input folder"
