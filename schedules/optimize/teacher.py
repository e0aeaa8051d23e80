"""What every schedule optimizer stands on: noises, where an accurate run takes them, and how near a student gets."""
import math
import statistics
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ...measure.progress import Progress
from ...samplers.exponential_adams import plan_exponential_adams
from ...samplers.linear import Step, run_apart
from ...samplers.process import FLOW, VE, Process
from ..power import power_sigmas

Plan = Callable[[list[float]], list[Step]]  # a solver with its options, process and clock chosen


class Score(NamedTuple):
    """Root mean square distances to the teacher over some noises. Single samples end in another mode and rule the mean;
    the median tells of a typical one."""
    median: float
    mean: float

    def __str__(self) -> str:
        return f"median {self.median:.4g}, mean {self.mean:.4g}"


def score_of(errors: Tensor) -> Score:
    values = errors.tolist()
    return Score(statistics.median(values), statistics.fmean(values))


def teacher_levels(sigmas: list[float], steps: int, *, sigma_min: float | None = None,
                   process: Process = VE) -> list[float]:
    """steps + 1 levels from sigmas[0] to where sigmas ends: 0 behind sigma_min, or a level.

    VE: even in sigma^(1/7). Flow: even in arcsin sqrt(sigma), dense at both ends. sigma_min: the lowest level the model
    knows; without it the last of sigmas above 0.
    """
    if steps < 4:
        raise ValueError(f"a teacher needs at least 4 steps, got {steps}; take 20 to 100")
    process.lams(sigmas)
    end = [0.0] if sigmas[-1] == 0.0 else []
    low = sigmas[-1] if not end else min(sigma_min or sigmas[-2], sigmas[-2])
    count = steps - len(end)
    if process is FLOW:
        first, last = (math.asin(math.sqrt(level)) for level in (sigmas[0], low))
        inner = [math.sin(first + i / count * (last - first)) ** 2 for i in range(1, count)]
        return [sigmas[0], *inner, low, *end]
    return [sigmas[0], *power_sigmas(count + 1, sigmas[0], low).tolist()[1:-2], low, *end]


@torch.no_grad()
def teach(model: Callable, x: Tensor, sigmas: list[float], *, steps: int = 40, sigma_min: float | None = None,
          process: Process = VE, look: Callable[[Tensor], Tensor] | None = None,
          state: dict[str, Tensor] | None = None) -> Iterator[Progress]:
    """Where an accurate run takes each noise: state["targets"] (B, ...), and state["error"] (B,), the root mean square
    distance of each to a run of half the steps, in what look sees: what the targets are off is a quarter of it or less.

    x (B, ...) at sigmas[0]. Exponential Adams on teacher_levels, of order 3 for VE and 2 for flow models, where it is
    the more exact one under guidance. Cost: teacher_cost.
    """
    total = teacher_cost(steps)
    kept = dict(state or {})
    for part, count in (("coarse", steps // 2), ("targets", steps)):
        before = 0 if part == "coarse" else steps // 2
        if part not in kept:
            levels = teacher_levels(sigmas, count, sigma_min=sigma_min, process=process)
            plan = plan_exponential_adams(levels, order=2 if process is FLOW else 3, process=process)
            end = kept.get("x")  # of a state that was kept behind the last step
            for place, states in _walk(model, x, plan, kept):
                end = states["x"]
                yield Progress(before + place, total, {**kept, **states}, states["history"][0])
            kept = {name: value for name, value in kept.items() if name in ("coarse", "targets")}
            kept[part] = end
    fine, coarse = (kept[part] if look is None else look(kept[part].to(x)) for part in ("targets", "coarse"))
    kept["error"] = _rms((fine - coarse).cpu().double())
    yield Progress(total, total, kept)


def teacher_cost(steps: int = 40) -> int:
    """Model calls of teach."""
    return steps + steps // 2


def _walk(model: Callable, x: Tensor, steps: list[Step], state: dict[str, Tensor]) -> Iterator[tuple[int, dict]]:
    """(steps done, what goes on from there) after each step; on the CPU in float64."""
    history, done = deque(maxlen=3), 0
    if "x" in state:
        x, done = state["x"].to(x), int(state["place"])
        history.extend(state["history"].to(x))
    for place in range(done, len(steps)):
        history.appendleft(model(x, steps[place].sigma).to(x))
        x = steps[place].predict(x, history)
        yield place + 1, {"x": x.cpu().double(), "place": torch.tensor(place + 1),
                          "history": torch.stack([value.cpu().double() for value in history])}


def taught(model: Callable, x: Tensor, sigmas: list[float], search: Callable[..., Iterator[Progress]], *, cost: int,
           steps: int = 40, sigma_min: float | None = None, process: Process = VE,
           look: Callable[[Tensor], Tensor] | None = None, state: dict[str, Tensor] | None = None
           ) -> Iterator[Progress]:
    """teach() and then search(targets, state=...) as one measurement, resumable in either; cost: of the search.

    The last state holds the teacher's under "teacher.", the search's under its own names.
    """
    parts = {key: {name.removeprefix("teacher."): value for name, value in (state or {}).items()
                   if name.startswith("teacher.") == (key == "teacher")} for key in ("teacher", "search")}
    process.lams(sigmas)  # before any call: the teacher takes no more than the ends
    before = teacher_cost(steps)

    def named() -> dict[str, Tensor]:
        return {**{f"teacher.{name}": value for name, value in parts["teacher"].items()}, **parts["search"]}

    for progress in teach(model, x, sigmas, steps=steps, sigma_min=sigma_min, process=process, look=look,
                          state=parts["teacher"]):
        parts["teacher"] = progress.state
        yield progress._replace(total=before + cost, state=named())
    parts["teacher"] = {name: parts["teacher"][name] for name in ("coarse", "targets", "error")}
    for progress in search(parts["teacher"]["targets"], state=parts["search"] or None):
        parts["search"] = progress.state
        yield progress._replace(done=before + progress.done, total=before + progress.total, state=named())


class Lesson:
    """Noises x (B, ...) at sigmas[0], their ends `targets`, and the solver to find levels for; the last `held` noises
    are held back: nothing is chosen by what it is judged on.

    model(x, sigma: float) -> D; of plans that read it, model.apart(x, sigma) -> D, D - D_u. plan: see Plan; it may not
    add noise. look(x) -> what distances are taken of, x itself without one. top: the level of x, from which noises are
    scaled for schedules that start elsewhere. calls: model calls so far, each on one picture.
    """

    def __init__(self, model: Callable, x: Tensor, targets: Tensor, plan: Plan, *, held: int,
                 look: Callable[[Tensor], Tensor] | None = None, top: float | None = None):
        if not 0 < held < len(x):
            raise ValueError(f"need noises to learn from and others to be judged on, got {held} held back of {len(x)}; "
                             "raise samples")
        self.model, self.x, self.plan, self.look = model, x, plan, look or (lambda x: x)
        self.targets, self.held, self.top, self.calls = targets.to(x), held, top, 0
        self.goals = self.look(self.targets)

    @property
    def training(self) -> slice:
        return slice(0, len(self.x) - self.held)

    @property
    def judging(self) -> slice:
        return slice(len(self.x) - self.held, len(self.x))

    def errors(self, steps: list[Step], where: slice | list[int], *, change: Callable | None = None) -> Tensor:
        """Root mean square distance (n,) of each noise's end to its target, in float64 on the CPU.

        change(model) -> model: what the student's model is, in place of the lesson's."""
        require_no_noise(steps)
        x, model = self.x[where], self.model_of(where)
        if self.top is not None and steps[0].sigma != self.top:
            x = x * (steps[0].sigma / self.top)
        self.calls += len(x) * calls_of(steps)
        ends = run_apart(model if change is None else change(model), x, steps)
        return _rms((self.look(ends) - self.goals[where]).cpu().double())

    def model_of(self, items) -> Callable:
        """The model for these items of x."""
        return of_items(self.model, items)

    def score(self, sigmas: list[float], where: slice | None = None) -> Score:
        """Of the solver on these levels, on the held-back noises if no others are meant."""
        return score_of(self.errors(self.plan(sigmas), self.judging if where is None else where))


def of_items(model: Callable, items: slice | list[int]) -> Callable:
    """The model for some of the samples, where it tells them apart: a host's may, by prompt."""
    return model.of(items) if hasattr(model, "of") else model


def require_no_noise(steps: list[Step]) -> None:
    """Raises ValueError for a plan that adds noise."""
    if any(step.is_noisy for step in steps):
        raise ValueError("this sampler adds noise, so that no run has one right end; set its eta to 0 to find "
                         "steps for it")


def calls_of(steps: list[Step]) -> int:
    """Model calls of a plan."""
    return sum(1 + len(step.stages) for step in steps)


def _rms(difference: Tensor) -> Tensor:
    return difference.flatten(1).square().mean(1).sqrt()


def training_items(lesson: Lesson) -> list[int]:
    """The places of the noises to learn from. Raises ValueError for less than 2."""
    items = list(range(*lesson.training.indices(len(lesson.x))))
    if len(items) < 2:
        raise ValueError(f"learning needs at least 2 noises that are not held back, got {len(items)}; raise samples")
    return items
