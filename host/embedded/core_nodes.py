"""ComfyUI's core nodes that Odeon's workflows use, with ComfyUI's ids, inputs and results."""
import torch

from .core_masks import MASK_NODES
from .core_sampling import SAMPLING_NODES
from .files import LoadImage, PreviewImage, SaveImage


class CLIPTextEncode:
    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"multiline": True, "dynamicPrompts": True}), "clip": ("CLIP",)}}

    def encode(self, text, clip):
        return (clip.encode_from_tokens_scheduled(clip.tokenize(text)),)


class ConditioningCombine:
    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "combine"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"conditioning_1": ("CONDITIONING",), "conditioning_2": ("CONDITIONING",)}}

    def combine(self, conditioning_1, conditioning_2):
        return (conditioning_1 + conditioning_2,)


class PreviewAny:
    RETURN_TYPES = ()
    FUNCTION = "main"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"source": ("*", {})}}

    def main(self, source):
        return {"ui": {"text": [str(source)]}, "result": ()}


class EmptyLatentImage:
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "generate"

    @classmethod
    def INPUT_TYPES(cls):
        side = ("INT", {"default": 512, "min": 16, "max": 16384, "step": 8})
        count = ("INT", {"default": 1, "min": 1, "max": 4096})
        return {"required": {"width": side, "height": side, "batch_size": count}}

    def generate(self, width, height, batch_size):
        return ({"samples": torch.zeros(batch_size, 4, height // 8, width // 8)},)


class VAEDecode:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "decode"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"samples": ("LATENT",), "vae": ("VAE",)}}

    def decode(self, samples, vae):
        return (vae.decode(samples["samples"]),)


class VAEEncode:
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"pixels": ("IMAGE",), "vae": ("VAE",)}}

    def encode(self, pixels, vae):
        return ({"samples": vae.encode(pixels[..., :3])},)


class SetLatentNoiseMask:
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "set_mask"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"samples": ("LATENT",), "mask": ("MASK",)}}

    def set_mask(self, samples, mask):
        return ({**samples, "noise_mask": mask.reshape(-1, 1, mask.shape[-2], mask.shape[-1])},)


class LatentUpscale:
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "upscale"

    @classmethod
    def INPUT_TYPES(cls):
        side = ("INT", {"default": 512, "min": 0, "max": 16384, "step": 8})
        methods = ["nearest-exact", "bilinear", "area", "bicubic"]
        return {"required": {"samples": ("LATENT",), "upscale_method": (methods,), "width": side, "height": side,
                             "crop": (["disabled", "center"],)}}

    def upscale(self, samples, upscale_method, width, height, crop):
        latent = samples["samples"]
        old_height, old_width = latent.shape[-2:]
        if width == height == 0:
            return (samples,)
        height = max(64, height or round(old_height * max(64, width) / old_width))
        width = max(64, width or round(old_width * height / old_height))
        if crop == "center":
            latent = _crop_to_aspect(latent, width / height)
        scaled = torch.nn.functional.interpolate(latent, size=(height // 8, width // 8), mode=upscale_method)
        return ({**samples, "samples": scaled},)


def _crop_to_aspect(latent: torch.Tensor, aspect: float) -> torch.Tensor:
    """The middle of a latent with width / height as given, as near as whole places allow."""
    height, width = latent.shape[-2:]
    x = round(max(width - height * aspect, 0.0) / 2.0)
    y = round(max(height - width / aspect, 0.0) / 2.0)
    return latent.narrow(-2, y, height - 2 * y).narrow(-1, x, width - 2 * x)


class Reroute:
    RETURN_TYPES = ("*",)
    FUNCTION = "same"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("*",)}}

    def same(self, value):
        return (value,)


def _primitive(name: str, kind: str, options: dict) -> type:
    """A core node whose output is its one widget."""
    return type(name, (), {
        "RETURN_TYPES": (kind,), "FUNCTION": "same", "same": lambda self, value: (value,),
        "INPUT_TYPES": classmethod(lambda cls: {"required": {"value": (kind, options)}})})


WHOLE = 2 ** 63 - 1
PRIMITIVES = [
    _primitive("PrimitiveInt", "INT", {"default": 0, "min": -WHOLE, "max": WHOLE, "control_after_generate": True}),
    _primitive("PrimitiveFloat", "FLOAT", {"default": 0.0, "min": -float(WHOLE), "max": float(WHOLE)}),
    _primitive("PrimitiveString", "STRING", {"default": ""}),
    _primitive("PrimitiveStringMultiline", "STRING", {"default": "", "multiline": True}),
    _primitive("PrimitiveBoolean", "BOOLEAN", {"default": False}),
]

CORE_NODES = {cls.__name__: cls for cls in (
    CLIPTextEncode, ConditioningCombine, EmptyLatentImage, VAEDecode, VAEEncode, *SAMPLING_NODES, LoadImage, SaveImage,
    PreviewImage, PreviewAny, SetLatentNoiseMask, LatentUpscale, Reroute, *MASK_NODES,
    *PRIMITIVES)}
