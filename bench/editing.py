"""Edits of one attribute by every editor that takes words, on the Shapes models, by the judge."""
import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import NODE_CLASS_MAPPINGS
from ..host.embedded.core_sampling import model_sigmas
from ..host.embedded.sampling import Noise
from ..models.weights import shapes_judge
from .editing_edits import ATTRIBUTES, Edit, edits_of, judged, pictures_of
from .editing_ways import NODES, WAYS, Task
from .shapes import encoded, load

MODELS = ("shapes-unet", "shapes-dit")
SEED, PART, STEPS = 25, 32, 12
FIGURES = ("right", "kept", "both", "drift", "background")


@dataclass(frozen=True)
class Setting:
    """A row: a way of editing_ways with what changes from its nodes' defaults.

    cfg: of the words wanted. denoise: the share of the schedule whose end is run, in `steps` steps.
    """
    model: str
    group: str
    name: str
    way: str
    cfg: float = 1.0
    steps: int = STEPS
    denoise: float = 1.0
    options: tuple[tuple[str, object], ...] = ()

    @property
    def there(self) -> bool:
        """Whether the checkout has the nodes."""
        return all(name in NODE_CLASS_MAPPINGS for name in NODES.get(self.way, ()))

    def file(self, folder: Path, count: int) -> Path:
        """Where the row of this setting is kept."""
        key = json.dumps([asdict(self), count, SEED], sort_keys=True)
        return folder / f"{self.model}-{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}.json"


def settings(model: str) -> list[Setting]:
    """All rows of a model whose nodes there are."""
    made = [Setting(model, "Limits", "what is asked, drawn", "drawn"),
            Setting(model, "Limits", "nothing changed (VAE there and back)", "nothing"),
            Setting(model, "Limits", "target drawn from noise", "noise", 3.0),
            *(Setting(model, "img2img (SDEdit)", f"denoise {share:g}", "img2img", 3.0, denoise=share)
              for share in (0.3, 0.5, 0.7, 0.85))]
    rows = (UNET if model == "shapes-unet" else DIT) + BOTH
    made += [Setting(model, group, name, way, cfg, steps, denoise, tuple(sorted(options.items())))
             for group, name, way, cfg, steps, denoise, options in rows]
    return [row for row in made if row.there]


FREE, INVERTED, OPTIMIZED = "Without inversion", "By inversion", "By optimization"
# group, name, way, CFG, steps, denoise, options; CFG and steps were chosen on a few training scenes
BOTH = [
    (FREE, "InfEdit (DDCM)", "ddcm", 1.0, STEPS, 1.0, {}),
    (FREE, "InfEdit (DDCM)", "ddcm", 2.0, STEPS, 1.0, {}),
    (FREE, "FlowEdit", "flow_edit", 2.0, STEPS, 1.0, {}),
    (INVERTED, "DDIM inversion", "ddim", 3.0, STEPS, 1.0, {}),
    (INVERTED, "DDIM inversion, 3 fixed-point iterations", "ddim", 1.0, STEPS, 1.0, {"fixed_point_iters": 3}),
    (INVERTED, "edit-friendly", "edit_friendly", 3.0, STEPS, 1.0, {}),
    (INVERTED, "BDIA", "bdia", 1.0, 40, 1.0, {}),
    (INVERTED, "EDICT", "edict", 1.0, 20, 1.0, {}),
    (OPTIMIZED, "delta denoising, rate 0.3", "delta", 2.0, 24, 0.95, {"rate": 0.3}),
]
UNET = [(FREE, "InfEdit with attention control", "control", 1.0, STEPS, 1.0, {})]
DIT = [(INVERTED, "RF inversion and edit", "rf", 3.0, STEPS, 1.0, {})]


def measure(models: list[str], *, count: int, folder: Path, only: str = "", kept: bool = False) -> dict[Setting, dict]:
    """All rows, those kept in the folder as they are, the others made and kept. only: rows with that in their group or
    name. kept: only what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    edits = edits_of(count, SEED, held_out=True)
    chosen = [row for model in models for row in settings(model) if only.lower() in f"{row.group} {row.name}".lower()
              and (not kept or row.file(folder, count).is_file())]
    return {row: _kept(row, edits, folder) for row in chosen}


def _kept(setting: Setting, edits: list[Edit], folder: Path) -> dict:
    file = setting.file(folder, len(edits))
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    originals = pictures_of(edit.scene for edit in edits)
    pictures, cost = made(setting, edits, originals)
    row = figures(pictures, originals, edits) | cost
    file.write_text(json.dumps(row), encoding="utf-8")
    return row


def figures(pictures: Tensor, originals: Tensor, edits: list[Edit]) -> dict[str, float]:
    """Means of what the judge says of each picture, and `both` for each attribute."""
    rows = judged(shapes_judge(), pictures, originals, edits)
    whole = {}
    for key in FIGURES:
        found = [row[key] for row in rows if key in row]
        if found:
            whole[key] = sum(found) / len(found)
    for attribute in ATTRIBUTES:
        found = [row["both"] for row, edit in zip(rows, edits) if edit.attribute == attribute]
        if found:
            whole[attribute] = sum(found) / len(found)
    return whole


@torch.inference_mode()
def made(setting: Setting, edits: list[Edit], originals: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Pictures (B, 128, 128, 3) in [0, 1]; evaluations and seconds of each. Edit i has the same noise in every row."""
    model, clip, vae = load(setting.model)
    evaluated, out, seconds = [0], [], 0.0
    model.network.register_forward_pre_hook(lambda module, inputs: evaluated.append(len(inputs[0])))
    noise = Noise(SEED).generate_noise({"samples": torch.zeros(len(edits), 4, 16, 16)})
    sigmas = model_sigmas(model, "normal", round(setting.steps / setting.denoise))[-setting.steps - 1:]
    for i in tqdm(range(0, len(edits), PART), desc=f"{setting.model}, {setting.group}, {setting.name}"):
        part = edits[i:i + PART]
        if setting.way == "drawn":
            out.append(pictures_of(edit.wanted for edit in part))
            continue
        source, target = (encoded(clip, list(words)) for words in zip(*(edit.captions for edit in part)))
        task = Task(model, clip, [edit.captions for edit in part], vae.encode(originals[i:i + PART]), noise[i:i + PART],
                    source, target, encoded(clip, [""]), sigmas, setting.cfg, SEED + i)
        started = time.perf_counter()
        latents = WAYS[setting.way](task, **dict(setting.options))
        seconds += time.perf_counter() - started
        out.append(vae.decode(latents))
    return torch.cat(out), {"evaluations": sum(evaluated) / len(edits), "seconds": seconds / len(edits)}
