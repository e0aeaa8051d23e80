"""Align Your Steps: levels for a model, found by lowering its KL bound point by point."""
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ...measure.progress import Progress
from ...samplers.process import FLOW, VE, Process
from ..forms import NEAR_NOISE, of_ve, to_ve
from ..interpolate import interpolated_sigmas
from .klub import SOLVERS, Bound, DrawnBound, Spread, measure_spread
from .klub_search import Search
from .teacher import Lesson

ESTIMATES = ("table", "draws")
STOPS = ("teacher_distance", "no_change")
ENDS = ("zero", "append_zero")
POINTS = 64  # levels of the table
USUAL_SWEEPS = 12


class AlignYourSteps(NamedTuple):
    """What is asked for.

    steps: of the SIGMAS wanted; steps_init: of the first search, whose result is doubled `refine` times: 2 make 10, 20,
    40. Another number of steps is read between the points of the finest list. end: where the schedule ends at 0, 'zero'
    has the last step skip sigma_min, down to which the bound is taken, as the published lists are used; 'append_zero'
    has one more step from there. Both count as steps.
    estimate: 'table' measures |D_t - D_u|^2 once for all pairs of levels and reads every bound from that; 'draws' draws
    t for each candidate anew, as published, for some fifty times the model calls. solver: what takes the place of D
    over an interval, 'ddim' D at its top as published, '2m' what DPM-Solver++(2M) goes on along. mc_samples: noising
    paths, or draws for each bound. candidates: places tried for a point, its own included, within `reach` of the way to
    its neighbours: a small reach leads slowly past what is best for the sampler, where the search can stop. max_iters:
    sweeps at most. c: of the importance sampling for draws, the spread of the data.
    """
    steps: int = 10
    steps_init: int = 10
    refine: int = 2
    end: str = "zero"
    sigma_min: float = 0.03
    estimate: str = "table"
    solver: str = "ddim"
    mc_samples: int = 64
    candidates: int = 11
    reach: float = 0.25
    max_iters: int = 30
    stop: str = "teacher_distance"
    c: float = 0.5
    seed: int = 0

    def check(self) -> None:
        for name, choices in (("estimate", ESTIMATES), ("stop", STOPS), ("end", ENDS), ("solver", SOLVERS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if self.steps < 1 or self.steps_init < 2 + (self.end == "append_zero"):
            raise ValueError(f"need steps of at least 1 and steps_init of at least {2 + (self.end == 'append_zero')}, "
                             f"got {self.steps} and {self.steps_init}")
        if self.candidates < 3 or self.mc_samples < 1 or self.max_iters < 1 or self.refine < 0:
            raise ValueError("need at least 3 candidates, 1 of mc_samples and max_iters and 0 of refine, got "
                             f"{self.candidates}, {self.mc_samples}, {self.max_iters} and {self.refine}")
        if not (self.c > 0.0 and self.sigma_min > 0.0 and 0.0 < self.reach <= 1.0):
            raise ValueError(f"need c and sigma_min above 0 and reach above 0 and up to 1, got {self.c:g}, "
                             f"{self.sigma_min:g} and {self.reach:g}")


class Frame(NamedTuple):
    """How the falling VE levels that the bound is taken over become a schedule with the ends of `sigmas`."""
    sigmas: list[float]
    options: AlignYourSteps
    process: Process

    @property
    def extra(self) -> int:
        """Steps beside those between the levels."""
        return int(self.sigmas[-1] == 0.0 and self.options.end == "append_zero")

    def opened(self, steps: int) -> list[float]:
        """The levels of the schedule given, at so many steps; a flow's start at NEAR_NOISE."""
        ends_at_zero = self.sigmas[-1] == 0.0
        low = to_ve(self.options.sigma_min if ends_at_zero else self.sigmas[-1], self.process)
        top = min(self.sigmas[0], NEAR_NOISE) if self.process is FLOW else self.sigmas[0]
        high = to_ve(top, self.process)
        if not low < 0.5 * high:
            raise ValueError(f"the schedule must start well above where it ends, got {top:g} and "
                             f"{of_ve(low, self.process):g}; give a whole schedule, or lower sigma_min")
        between = [to_ve(sigma, self.process) for sigma in self.sigmas[1:-1] if sigma < top]
        inner = [level for level in between if level > 1.05 * low]
        return interpolated_sigmas([high, *inner, low], steps - self.extra)

    def closed(self, levels: list[float]) -> list[float]:
        """The schedule of those levels."""
        inner = [of_ve(level, self.process) for level in levels[1:-1]]
        if self.sigmas[-1] > 0.0:
            return [self.sigmas[0], *inner, self.sigmas[-1]]
        last = [of_ve(levels[-1], self.process)] if self.extra else []
        return [self.sigmas[0], *inner, *last, 0.0]

    def wanted(self, stages: list[list[float]]) -> list[float]:
        """The schedule of options.steps: of the stage that has as many, else read from the finest."""
        steps = self.options.steps - self.extra
        if steps < 1:
            return [self.sigmas[0], 0.0]
        exact = [levels for levels in stages if len(levels) - 1 == steps]
        return self.closed(exact[0] if exact else interpolated_sigmas(stages[-1], steps))


@torch.no_grad()
def align_your_steps(lesson: Lesson, sigmas: list[float], options: AlignYourSteps | None = None, *,
                     data: Tensor | None = None, batch: int = 8, process: Process = VE,
                     state: dict[str, Tensor] | None = None) -> Iterator[Progress]:
    """Levels that lower the KL bound of the lesson's model on data (B, ...), clean pictures as the model predicts them;
    without data the teacher's ends of the training noises.

    sigmas: where to start from; its ends stay. Stage 0 sweeps over the points in turn, each going to the candidate with
    the least bound, until none moves. 'teacher_distance' runs the lesson's plan on the training noises after every
    sweep and keeps the sweep, or the start, that ends nearest in the mean: the bound is one on whole paths, and its
    least value not the best end. Later stages place a point between any two and move only the new ones. What then ends
    farther from the teacher than the schedule given, on the training noises and in the mean, gives way to it.
    Flow models are taken in their VE form. The last state has "stage 0", ... (VE levels), "sigmas" (steps + 1,),
    "klubs" and "distances" after each sweep of stage 0 behind those of the start, "kept", which of them was kept, and
    "errors" and "given_errors" (held,), root mean square distances of the held-back noises with sigmas and with the
    schedule given, read at as many steps, and "calls", what it cost; before: ays_cost.
    Source: Sabour et al. 2024, arXiv 2404.14507, algorithm 1.
    """
    options = options or AlignYourSteps()
    options.check()
    frame, state = Frame(sigmas, options, process), dict(state or {})
    levels, data = frame.opened(options.steps_init), _pictures(lesson, sigmas, data)
    total = ays_cost(options, pictures=len(data), training=len(lesson.x) - lesson.held, held=lesson.held)
    measured, rounds = {}, -(-options.mc_samples // len(data))
    if options.estimate == "table":
        grid = torch.linspace(math.log(levels[-1]), math.log(levels[0]), POINTS, dtype=torch.float64).exp()
        for progress in measure_spread(lesson.model, data, grid, rounds=rounds, batch=batch, seed=options.seed,
                                       process=process, state=_part(state, "spread.")):
            measured = {f"spread.{name}": value for name, value in progress.state.items()}
            yield progress._replace(total=total, state={**state, **measured})
        spread = Spread(grid, measured["spread.sum"] / (rounds * len(data)))
        bound = Bound(spread, solver=options.solver, calls=progress.done)
    else:
        bound = DrawnBound(lesson.model, data, places=rounds, c=options.c, solver=options.solver, seed=options.seed,
                           process=process)
    search = Search(lesson, frame, bound, state)
    for denoised in search.run(levels):
        done = bound.calls + lesson.calls
        yield Progress(done, max(total, done), {**measured, **search.state()}, denoised, search.losses)
    found, given = frame.wanted(search.stages), interpolated_sigmas(sigmas, options.steps)
    if options.stop == "teacher_distance":
        found = min(found, given, key=lambda levels: lesson.score(levels, lesson.training).mean)
    errors, given_errors = (lesson.errors(lesson.plan(levels), lesson.judging) for levels in (found, given))
    done = bound.calls + lesson.calls
    yield Progress(done, done, {**measured, **search.result(), "sigmas": torch.tensor(found, dtype=torch.float64),
                                "errors": errors, "given_errors": given_errors, "calls": torch.tensor(done)},
                   losses=search.losses)


def require_pictures(data: Tensor, x: Tensor) -> None:
    """Raises ValueError for data that a model of states x can't have drawn."""
    if data.shape[1:2] != x.shape[1:2] or data.ndim != x.ndim or not data.any():
        raise ValueError(f"data must be latents of pictures for this model, got {tuple(data.shape)}"
                         f"{'' if data.any() else ', all 0'} beside {tuple(x.shape)}; encode pictures with its VAE")


def _pictures(lesson: Lesson, sigmas: list[float], data: Tensor | None) -> Tensor:
    """Clean ones: data, or the teacher's ends of the training noises."""
    if data is None:
        data = lesson.targets[lesson.training]
        data = data if sigmas[-1] == 0.0 else lesson.model_of(lesson.training)(data, sigmas[-1])
    require_pictures(data, lesson.x)
    return data.to(lesson.x)


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def ays_cost(options: AlignYourSteps, *, pictures: int, training: int, held: int) -> int:
    """Model calls of align_your_steps, each on one picture, at one call a step and for a search of usual length.

    pictures: of the data; training, held: noises of the lesson.
    """
    rounds, sweeps = -(-options.mc_samples // pictures), min(options.max_iters, USUAL_SWEEPS)
    if options.estimate == "table":
        bounds = rounds * pictures * POINTS
    else:
        moves = options.steps_init * (sweeps + 3 * (2 ** options.refine - 1))
        bounds = 2 * moves * options.candidates * (rounds + 1) * pictures
    judged = training * ((sweeps + 1) * options.steps_init + 2 * options.steps) * (options.stop == "teacher_distance")
    return bounds + judged + 2 * held * options.steps
