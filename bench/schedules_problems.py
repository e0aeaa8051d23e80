"""The problems of `python -m odeon.bench schedules`: a model, noises, levels and the ends of an accurate run."""
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..host.common import clock_of
from ..host.denoiser import smooth
from ..models.levels import DiscreteLevels, FlowLevels
from ..models.quality import judge_pictures
from ..models.weights import shapes_judge
from ..samplers.clock import Clock
from ..samplers.linear import Step, run_apart
from ..samplers.process import FLOW, VE, Process
from ..schedules.align_your_steps import align_your_steps_sigmas
from ..schedules.classic import SCHEDULERS, classic_sigmas
from ..schedules.gits_table import gits_sigmas
from ..schedules.optimize.teacher import Lesson, Plan, of_items, score_of, teach
from .shapes import PART, captions_of, load
from .solvers_problems import load_mixture

PROBLEMS = {"exact-ve": "Exact mixture, VE", "exact-flow": "Exact mixture, flow",
            "shapes-unet@1": "Shapes UNet (eps), CFG 1", "shapes-unet@5": "Shapes UNet (eps), CFG 5",
            "shapes-dit@1": "Shapes DiT (flow), CFG 1", "shapes-dit@5": "Shapes DiT (flow), CFG 5"}
SEED = 31
EXACT = (256, 128)  # noises, and how many of them are held back
SHAPES = (72, 24)
FEWER = {10: 48}  # that the networks have instead at so many steps, where a run costs most
TABLES = {"AYS table": align_your_steps_sigmas, "GITS table": gits_sigmas}
TEACHER_STEPS = {"exact": 400, "shapes": 80}


class Problem(NamedTuple):
    """model(x, sigma) takes 0-dim tensors and has of(items); x (B, ...) noisy at the highest level; model counts."""
    name: str
    process: Process
    levels: DiscreteLevels | FlowLevels
    x: Tensor
    held: int
    model: Callable

    @property
    def top(self) -> float:
        return float(self.levels.sigma_max)

    @property
    def clock(self) -> Clock:
        return clock_of(self.process, self.levels.sigmas)

    def targets(self) -> tuple[Tensor, float]:
        """Where the ODE ends, and the median distance by which that moves if the teacher's steps are halved."""
        steps = TEACHER_STEPS[self.name.split("-")[0]]
        *_, last = teach(self.model, self.x, [self.top, 0.0], steps=steps, sigma_min=float(self.levels.sigma_min),
                         process=self.process)
        return last.state["targets"], score_of(last.state["error"]).median

    def at(self, steps: int, targets: Tensor) -> tuple["Problem", Tensor]:
        """The problem with the noises it has for so many steps, the held-back ones always, and where those end."""
        count = len(self.x) if self.name.startswith("exact") else FEWER.get(steps, len(self.x))
        there = range(len(self.x))[-count:]
        return self._replace(x=self.x[-count:], model=self.model.of(list(there))), targets[-count:]

    @property
    def guided(self) -> bool:
        """Whether there are predictions without the prompt to be had."""
        return getattr(self.model.model, "cfg", 1.0) != 1.0

    def lesson(self, plan: Plan, targets: Tensor) -> Lesson:
        return Lesson(self.model, self.x, targets, plan, held=self.held, top=self.top)


class Counted:
    """A model that counts the pictures it is called with; those of its items count with it."""

    def __init__(self, model: Callable, pictures: list[int] | None = None):
        self.model, self.pictures = model, [0] if pictures is None else pictures

    def of(self, items) -> "Counted":
        return Counted(of_items(self.model, items), self.pictures)

    def __call__(self, x: Tensor, *levels, **told) -> Tensor:
        self.pictures[0] += len(x)
        return self.model(x, *levels, **told)

    def apart(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor]:
        self.pictures[0] += len(x)
        return self.model.apart(x, sigma)


class ShapesModel:
    """A Shapes network under guidance, item k with the k-th of its captions."""

    def __init__(self, name: str, cfg: float, captions: list[str]):
        self.model, clip, self.vae = load(name)
        self.levels = self.model.model_sampling.levels
        self.model.model_sampling.levels = self.told_levels = smooth(self.levels)
        words = [clip.encode_from_tokens_scheduled(clip.tokenize(text))[0] for text in captions]
        self.context = torch.cat([context for context, _ in words])
        self.pooled = torch.cat([more["pooled_output"] for _, more in words])
        self.empty = clip.encode_from_tokens_scheduled(clip.tokenize(""))[0]
        self.cfg, self.items = cfg, list(range(len(captions)))

    def of(self, items) -> "ShapesModel":
        part = object.__new__(ShapesModel)
        places = self.items[items] if isinstance(items, slice) else [self.items[int(i)] for i in items]
        part.__dict__ = {**self.__dict__, "items": places}
        return part

    def apart(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor]:
        """D, and what guidance made of it: D - D_u."""
        denoised, uncond = self._both(x, sigma, None)
        return denoised, denoised - uncond

    def __call__(self, x: Tensor, sigma: float | Tensor, told: Tensor | None = None) -> Tensor:
        return self._both(x, sigma, told)[0]

    def _both(self, x: Tensor, sigma: float | Tensor, told: Tensor | None) -> tuple[Tensor, Tensor | None]:
        level = sigma.to(x).expand(len(x)) if isinstance(sigma, Tensor) else x.new_full((len(x),), sigma)
        self.told_levels.told, uncond = told, None
        denoised = self.model.apply_model(x, level, self.context[self.items], {}, self.pooled[self.items])
        if self.cfg != 1.0:
            context, more = self.empty
            uncond = self.model.apply_model(x, level, context, {}, more["pooled_output"])
            denoised = uncond + self.cfg * (denoised - uncond)
        self.told_levels.told = None
        return denoised, uncond


def problem(name: str) -> Problem:
    """One of PROBLEMS."""
    if name not in PROBLEMS:
        raise ValueError(f"problem must be one of {', '.join(PROBLEMS)}, got {name!r}")
    if name.startswith("exact"):
        return _exact(name, flow=name.endswith("flow"))
    network, cfg = name.split("@")
    return shapes_problem(network, float(cfg), *SHAPES)


def _exact(name: str, *, flow: bool) -> Problem:
    mixture, levels = load_mixture(), FlowLevels() if flow else DiscreteLevels()
    noise = torch.randn(EXACT[0], 16, dtype=torch.float64, generator=torch.Generator().manual_seed(SEED))
    x = noise if flow else noise * float(levels.sigma_max)
    exact = mixture.denoise_flow if flow else mixture.denoise

    def model(x: Tensor, sigma: float | Tensor, told: Tensor | None = None) -> Tensor:
        """Where another level is told, the velocity is that of the level told, and the state's own level all else."""
        return exact(x, sigma) if told is None else x - sigma * (x - exact(x, told)) / told

    return Problem(name, FLOW if flow else VE, levels, x, EXACT[1], Counted(model))


def shapes_problem(network: str, cfg: float, count: int, held: int, *, seed: int = SEED) -> Problem:
    """A Shapes network on `count` held-out captions of one to three things, each with a noise of its own."""
    from ..host.embedded.sampling import Noise

    model = ShapesModel(network, cfg, captions_of((1, 2, 3), count))
    sampling = model.model.model_sampling
    noise = Noise(seed).generate_noise({"samples": torch.zeros(count, 4, 16, 16)})
    x = sampling.noise_scaling(model.levels.sigma_max, noise, torch.zeros_like(noise), True)
    return Problem(f"shapes-{network}@{cfg:g}", sampling.process, model.levels, x, held, Counted(model))


def stock_levels(on: Problem, steps: int) -> dict[str, list[float]]:
    """ComfyUI's nine schedulers; those that give another number of steps are left out."""
    found = {name: classic_sigmas(name, on.levels, steps).tolist() for name in SCHEDULERS}
    return {name: levels for name, levels in found.items() if len(levels) == steps + 1}


def table_levels(on: Problem, steps: int) -> dict[str, list[float]]:
    """Published tables, which are for VE models."""
    if on.process is FLOW:
        return {}
    return {name: table(steps).tolist() for name, table in TABLES.items()}


@torch.no_grad()
def frechet_of(steps: list[Step], name: str, count: int) -> float:
    """The judge's Frechet distance from true scenes of the pictures that a plan makes of `count` captions, with noises
    that no other problem has."""
    network, cfg = name.split("@")
    on = shapes_problem(network, float(cfg), count, 1, seed=SEED + 1)
    made = []
    for i in range(0, count, PART):
        part = slice(i, i + PART)
        x = on.x[part] if steps[0].sigma == on.top else on.x[part] * (steps[0].sigma / on.top)
        latents = run_apart(on.model.of(part), x, steps).float()
        made.append(on.model.model.vae.decode(latents).movedim(-1, 1) * 2.0 - 1.0)
    captions = captions_of((1, 2, 3), count)
    return judge_pictures(shapes_judge(), torch.cat(made), captions).together["frechet_distance"]
