"""What Inverse problem makes of damaged pictures of the Shapes world beside img2img, by pixels and by the judge."""
import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..editing.operators import Operator
from ..host.embedded.core_sampling import model_sigmas, named_sampler
from ..host.embedded.sampling import Guider, Noise
from ..models.quality import judge_pictures
from ..models.shapes import draw
from ..models.train.scenes import scenes_of
from ..models.weights import shapes_judge
from .shapes import COUNTS, SEED, encoded, load, node

MODELS = ("shapes-unet", "shapes-dit")
TASKS = {"4x downscale": {"kind": "downscale", "factor": 4}, "half inpainting": {"kind": "inpaint"},
         "Gaussian blur of 4 px": {"kind": "gaussian blur", "size": 4.0}}
CFG, STEPS, PART = 2.0, 20, 8
PLAIN = "img2img"


@dataclass(frozen=True)
class Setting:
    """A row: a way to restore a task's pictures. strength: of img2img; options: of the node, for all others."""
    model: str
    task: str
    name: str
    steps: int
    strength: float = 0.0
    options: tuple[tuple[str, object], ...] = ()

    @property
    def method(self) -> str:
        return dict(self.options).get("method", PLAIN)

    def file(self, folder: Path, count: int) -> Path:
        """Where the row of this setting is kept."""
        key = json.dumps([asdict(self), count, CFG, TASKS[self.task]], sort_keys=True)
        return folder / f"{self.model}-{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}.json"


def settings(model: str, task: str) -> list[Setting]:
    """All rows of a task."""
    rows = [Setting(model, task, f"{PLAIN}, strength {strength:g}", STEPS, strength)
            for strength in (0.2, 0.4, 0.6, 0.8)]
    rows += [Setting(model, task, f"{method}, {steps} steps", steps, options=(("method", method),))
             for method, counts in (("dps", (20,)), ("psld", (5, 10, 20, 40))) for steps in counts]
    rows.append(Setting(model, task, "psld, 20 steps, the papers' rule", 20,
                        options=(("method", "psld"), ("limit", False))))
    for steps, inner, second in ((5, 2, 0.02), (5, 4, 0.02), (5, 4, 0.0), (10, 2, 0.0), (10, 2, 0.02)):
        rows.append(Setting(model, task, f"stsl, {steps} steps of {inner}, second order {second:g}", steps,
                            options=(("method", "stsl"), ("inner", inner), ("second_order", second))))
    return rows


def measure(models: list[str], *, count: int, folder: Path, only: str = "", kept: bool = False) -> dict[Setting, dict]:
    """All rows, those kept in the folder as they are, the others made and kept. only: those with that in task, name.
    kept: only what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for setting in (row for model in models for task in TASKS for row in settings(model, task)):
        if only.lower() not in f"{setting.task}, {setting.name}".lower():
            continue
        file = setting.file(folder, count)
        if kept and not file.is_file():
            continue
        if not file.is_file():
            file.write_text(json.dumps(figures(setting, count)), encoding="utf-8")
        found[setting] = json.loads(file.read_text(encoding="utf-8"))
    return found


def figures(setting: Setting, count: int) -> dict:
    """Of the pictures a setting restores: residual, rms in 255ths of their measurements' differences; psnr, the mean
    over pictures in dB to the true ones; object, the judge's share; evaluations of the network, seconds a picture."""
    scenes = scenes_of(count, SEED, held_out=True, objects=COUNTS)
    true, captions = torch.stack([draw(scene) for scene in scenes]), [scene.caption for scene in scenes]
    started = time.perf_counter()
    pictures, operator, evaluations = restored(setting, true, captions)
    seconds = (time.perf_counter() - started) / len(true)
    inner = [value.movedim(-1, 1) * 2.0 - 1.0 for value in (pictures, true)]
    apart = operator(inner[0]) - operator(inner[1])
    judged = judge_pictures(shapes_judge(), inner[0], captions).together
    return {"residual": 127.5 * apart.square().mean().sqrt().item(), "object": judged["object"],
            "psnr": (-10.0 * (pictures - true).square().mean((1, 2, 3)).log10()).mean().item(),
            "evaluations": evaluations, "seconds": seconds}


@torch.inference_mode()
def restored(setting: Setting, true: Tensor, captions: list[str]) -> tuple[Tensor, Operator, float]:
    """(IMAGEs restored from measurements of the true ones, the operator, evaluations a picture); picture i has the same
    noise in every row."""
    model, clip, vae = load(setting.model)
    evaluated, made = [0], []
    model.network.register_forward_pre_hook(lambda module, inputs: evaluated.append(len(inputs[0])))
    mask = torch.zeros(1, *true.shape[1:3])
    mask[..., true.shape[2] // 2:] = 1.0
    latents = torch.zeros(len(true), 4, true.shape[1] // 8, true.shape[2] // 8)
    noise = Noise(SEED).generate_noise({"samples": latents})
    for i in tqdm(range(0, len(true), PART), desc=f"{setting.model}, {setting.task}, {setting.name}"):
        part = slice(i, i + PART)
        operator, measurement = node("OdeonOperator", image=true[part], mask=mask, **TASKS[setting.task])
        guider = Guider(model, encoded(clip, captions[part]), encoded(clip, [""]), CFG)
        start, sampler, steps = latents[part], named_sampler("euler"), setting.steps
        if setting.method == PLAIN:
            y = measurement.movedim(-1, 1) * 2.0 - 1.0
            seen = operator.back(y, true[part].movedim(-1, 1))
            start, steps = vae.encode((seen.movedim(1, -1) + 1.0) / 2.0), round(setting.steps / setting.strength)
        else:
            sampler = node("OdeonSamplerInverseProblem", operator=operator, measurement=measurement, vae=vae,
                           **dict(setting.options))[0]
        sigmas = model_sigmas(model, "normal", steps)[-setting.steps - 1:]
        made.append(vae.decode(guider.sample(noise[part], start, sampler, sigmas, seed=SEED)))
    return torch.cat(made), operator, sum(evaluated) / len(true)
