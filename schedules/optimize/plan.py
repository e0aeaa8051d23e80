"""Learned plans: levels and solver coefficients together, by gradients through the model."""
import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ...measure.progress import Progress
from ...samplers.process import VE, Process
from ...samplers.table import Table, run_table, smooth_table, table_of
from .teacher import Lesson, calls_of, score_of

FREE = ("levels+coefficients", "levels", "coefficients", "all")
FLOOR = 1e-4  # of the distances in the loss, in units of a picture's size: below it nothing is seen
BEST = ("theta", "change", "told", "sigmas", "levels", "x", "d", "losses")  # of the best so far, in a state
SCALE = 1024.0  # of the loss on the way back, so that half precision keeps its gradients


class Stage(NamedTuple):
    """So many iterations at these Adam rates: of log level steps, coefficients, and the levels the network is told."""
    iterations: int
    levels: float
    coefficients: float
    told: float = 0.0


def stages_for(free: str, iterations: int) -> list[Stage]:
    """The rates of learning, which fall to 0 along half a cosine. Levels alone stand faster ones than levels beside
    coefficients that were fitted to them."""
    if free not in FREE:
        raise ValueError(f"free must be one of {', '.join(FREE)}, got {free!r}")
    if free == "levels":
        return [Stage(iterations, 0.06, 0.0)]
    if free == "coefficients":
        return [Stage(iterations, 0.0, 0.02)]
    return [Stage(iterations, 0.03, 0.01, 0.01 if free == "all" else 0.0)]


class Numbers(NamedTuple):
    """What is learned. theta: logs of the steps in -log sigma; change: of each row's coefficients; told: log of the
    level told to the network over the level of the call."""
    theta: Tensor
    change: Tensor
    told: Tensor


class PlanLesson:
    """A lesson whose student is a table of numbers around a plan on learned levels.

    sigmas: the levels to start from; sigmas[0] stays, and so does the last one. history: predictions a row may use
    beyond those of the plan itself, the newest of them; 0 for all. tells: the network is told levels of its own.
    """

    def __init__(self, lesson: Lesson, sigmas: list[float], *, process: Process = VE, history: int = 0,
                 tells: bool = False):
        process.lams(sigmas)
        self.lesson, self.start, self.end, self.tells = lesson, sigmas[0], sigmas[-1], tells
        calls = calls_of(lesson.plan(sigmas))
        places = torch.arange(calls + 1)[:, None] - torch.arange(calls)[None]
        self.mask = ((places >= 1) & (places <= (history or calls))).double()
        steps = -torch.tensor([level for level in sigmas if level > 0.0], dtype=torch.float64).log().diff()
        self.numbers = Numbers(steps.log(), torch.zeros(calls + 1, calls, dtype=torch.float64),
                               torch.zeros(calls, dtype=torch.float64))

    def sigmas(self, theta: Tensor) -> Tensor:
        """The levels (N + 1,), decreasing whatever theta is."""
        steps = theta.exp()
        top = torch.tensor([self.start], dtype=torch.float64)
        if self.end > 0.0:
            steps = steps / steps.sum() * math.log(self.start / self.end)
            inner = self.start * (-steps.cumsum(0)[:-1]).exp()
            return torch.cat([top, inner, torch.tensor([self.end], dtype=torch.float64)])
        return torch.cat([top, self.start * (-steps.cumsum(0)).exp(), torch.zeros(1, dtype=torch.float64)])

    def table(self, numbers: Numbers) -> Table:
        """The plan's own table on these levels, each row's coefficients changed by numbers that sum to 0, so that the
        first law stays; at zero changes it is the plan's to the bit."""
        sigmas = self.sigmas(numbers.theta)
        table = smooth_table(self.lesson.plan, sigmas, first=1) if sigmas.requires_grad else (
            table_of(self.lesson.plan(sigmas.tolist())))
        counts = self.mask.sum(1, keepdim=True).clamp(min=1.0)
        change = self.mask * (numbers.change - (self.mask * numbers.change).sum(1, keepdim=True) / counts)
        return table._replace(d=table.d + change)

    def ends(self, numbers: Numbers, items: list[int]) -> Tensor:
        """Where the learned plan takes these noises."""
        table, model = self.table(numbers), self.lesson.model_of(items)
        return run_table(told_model(model, numbers.told) if self.tells else model, self.lesson.x[items], table)

    def errors(self, numbers: Numbers, items: list[int]) -> Tensor:
        """Root mean square distances (n,) to the teacher."""
        difference = (self.lesson.look(self.ends(numbers, items)) - self.lesson.goals[items]).double()
        return difference.flatten(1).square().mean(1).sqrt().cpu()

    @torch.enable_grad()
    def gradients(self, numbers: Numbers, items: list[int]) -> tuple[float, list[Tensor]]:
        """The loss, mean log of the distances, on these noises, and its gradients in the three numbers.

        The logarithm keeps the few noises that end in another mode from ruling the rest."""
        leaves = [value.clone().requires_grad_() for value in numbers]
        loss = (self.errors(Numbers(*leaves), items) + FLOOR).log().mean()
        found = torch.autograd.grad(loss * SCALE, leaves, allow_unused=True)
        return loss.item(), [torch.zeros_like(leaf) if slope is None else slope / SCALE
                             for slope, leaf in zip(found, leaves)]


def told_model(model: Callable, told: Tensor) -> Callable:
    """The model for one run, told exp(told) times the level at each call."""
    places = iter(range(len(told)))
    return lambda x, sigma: model(x, sigma, told=sigma * told[next(places)].exp())


def learn_plan(lesson: Lesson, sigmas: list[float], *, free: str = FREE[0], iterations: int = 200, minibatch: int = 8,
               history: int = 0, check_every: int = 10, minutes: float = math.inf, seed: int = 0,
               change: Tensor | None = None, process: Process = VE, state: dict[str, Tensor] | None = None
               ) -> Iterator[Progress]:
    """Levels and coefficients that bring the lesson's plan nearest to the teacher, from `sigmas`.

    free: 'levels', 'coefficients', both, or 'all', which frees the level the network is told too (the model must take
    told=). Adam on minibatches of the training noises but their last third, which choose the best numbers of all
    checks (median distance); nothing is chosen by the held-back ones. A Progress after each iteration. minutes: stops
    after so many at the latest. change: of the coefficients to start from, of fit_rows. The last state: "sigmas" and
    the table "levels", "x", "d" of the best plan, its numbers "theta", "change", "told", and "losses", the median on
    the choosing noises at every check.
    Source: Frankel et al. 2025, arXiv 2502.17423 (coefficients, and levels in turn); the table, the loss and the order
    of learning are our own.
    """
    student = PlanLesson(lesson, sigmas, process=process, history=history, tells=free == "all")
    fitting, choosing = split(lesson)
    stages, begun = stages_for(free, iterations), time.monotonic()
    numbers = student.numbers if change is None else student.numbers._replace(change=change * student.mask)
    run = _Descent(numbers, seed, state)
    calls, per = calls_of(lesson.plan(sigmas)), min(minibatch, len(fitting))
    total = lesson_cost(calls, iterations, per=per, choosing=len(choosing), check_every=check_every)
    best = _best(state)
    done = run.done * calls * per * 4
    while run.done < iterations:
        if best is None or run.done % check_every == 0:
            best = _checked(student, run, choosing, best)
            done += calls * len(choosing)
        loss, slopes = student.gradients(run.numbers, run.pick(fitting, per))
        run.step(slopes, _rates_at(stages, run.done))
        done += calls * per * 4
        yield Progress(done, max(total, done), {**run.state(), **best}, losses=tuple(best["losses"].tolist()))
        if time.monotonic() - begun > 60.0 * minutes:
            break
    best = _checked(student, run, choosing, best)
    yield Progress(total, total, {**run.state(), **best}, losses=tuple(best["losses"].tolist()))


def split(lesson: Lesson) -> tuple[list[int], list[int]]:
    """The training noises: those to fit, and the last third, to choose by."""
    items = list(range(*lesson.training.indices(len(lesson.x))))
    cut = len(items) - max(len(items) // 3, 1)
    if cut < 1:
        raise ValueError(f"learning needs at least 2 noises that are not held back, got {len(items)}; raise samples")
    return items[:cut], items[cut:]


def lesson_cost(calls: int, iterations: int, *, per: int, choosing: int, check_every: int = 10) -> int:
    """Model calls of learn_plan, each on one picture; a call with its way back counts as four."""
    return iterations * calls * per * 4 + (iterations // check_every + 1) * calls * choosing


def _rates_at(stages: list[Stage], place: int) -> tuple[float, float, float]:
    fade = 0.5 + 0.5 * math.cos(math.pi * place / sum(stage.iterations for stage in stages))
    for stage in stages:
        if place < stage.iterations:
            break
        place -= stage.iterations
    return stage.levels * fade, stage.coefficients * fade, stage.told * fade


def _best(state: dict[str, Tensor] | None) -> dict[str, Tensor] | None:
    return {name: state[name] for name in BEST} if state and "losses" in state else None


def _checked(student: PlanLesson, run: "_Descent", choosing: list[int], best: dict | None) -> dict[str, Tensor]:
    """The best numbers so far, by their median distance on the choosing noises."""
    found = torch.tensor([score_of(student.errors(run.numbers, choosing)).median], dtype=torch.float64)
    losses = found if best is None else torch.cat([best["losses"], found])
    if best is not None and not float(found) < float(best["losses"].min()):
        return {**best, "losses": losses}
    table = student.table(run.numbers)
    return {**run.numbers._asdict(), "sigmas": student.sigmas(run.numbers.theta), "levels": table.levels,
            "x": table.x, "d": table.d, "losses": losses}


class _Descent:
    """Adam on the numbers, with rates of their own, and the order in which noises come; its state can be kept."""

    def __init__(self, numbers: Numbers, seed: int, state: dict[str, Tensor] | None):
        self.numbers, self.seed, self.done = numbers, seed, 0
        self.means = [torch.zeros_like(value) for value in numbers]
        self.squares = [torch.zeros_like(value) for value in numbers]
        if state and "descent.done" in state:
            def kept(part: str) -> list[Tensor]:
                return [state[f"descent.{part}.{name}"].clone() for name in Numbers._fields]

            self.numbers, self.means, self.squares = Numbers(*kept("at")), kept("mean"), kept("square")
            self.done = int(state["descent.done"])

    def pick(self, items: list[int], count: int) -> list[int]:
        """The next `count` items: every item comes once before any comes again."""
        first = self.done * count
        picked = []
        for place in range(first, first + count):
            turn, index = divmod(place, len(items))
            order = torch.randperm(len(items), generator=torch.Generator().manual_seed(self.seed * 1000003 + turn))
            picked.append(items[int(order[index])])
        return picked

    def step(self, slopes: list[Tensor], rates: tuple[float, ...]) -> None:
        self.done += 1
        moved = []
        for i, (value, slope, rate) in enumerate(zip(self.numbers, slopes, rates)):
            slope = torch.nan_to_num(slope, 0.0, 0.0, 0.0)
            self.means[i] = 0.9 * self.means[i] + 0.1 * slope
            self.squares[i] = 0.98 * self.squares[i] + 0.02 * slope.square()
            mean = self.means[i] / (1.0 - 0.9 ** self.done)
            spread = (self.squares[i] / (1.0 - 0.98 ** self.done)).sqrt() + 1e-12
            moved.append(value - rate * mean / spread)
        self.numbers = Numbers(*moved)

    def state(self) -> dict[str, Tensor]:
        parts = {"at": self.numbers, "mean": self.means, "square": self.squares}
        return {"descent.done": torch.tensor(self.done),
                **{f"descent.{part}.{name}": value for part, values in parts.items()
                   for name, value in zip(Numbers._fields, values)}}
