"""Learned plans: levels and solver coefficients together, by damped least squares. No gradients are needed."""
import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ...measure.progress import Progress
from ...samplers.process import VE, Process
from ...samplers.table import Table, run_table, table_of, widened
from .teacher import Lesson, calls_of, score_of, training_items

GUIDED = "levels+coefficients+guidance"
FREE = ("levels+coefficients", "levels", "coefficients", "all", GUIDED)
FLOOR = 1e-4  # of the distances in the loss, in units of a picture's size: below it nothing is seen
BEST = ("theta", "change", "shares", "sigmas", "levels", "x", "d", "losses", "loss", "damping", "reach")  # in a state
# by how much a number is moved to see where the ends go, and that one noise of so many is asked: first far, then near
STAGES = ((0.05, 3), (0.01, 1))
THICK = 8  # noises that are asked at least
FARTHEST = 0.5  # that a number moves in one iteration
DAMPING, LEAST, MOST = 1e-2, 1e-4, 10.0  # of the least squares, in shares of their diagonal: first, and its ends
FEWEST, SHARE = 8, 0.2  # noises that are learned from at least, where an iteration takes more than this of the time
LITTLE = 1e-3  # fall of the loss for each run that an iteration took, below which a stage ends


class Numbers(NamedTuple):
    """What is learned. theta: by how much the first level is below the noises', in -log sigma, and logs of the steps
    from there; change: of each row's coefficients, as in Table's d; shares: of each row but the first, log of its share
    of the start over the plan's; of an end without any, that share over the last call's."""
    theta: Tensor
    change: Tensor
    shares: Tensor


class Walk(NamedTuple):
    """A run of a table: its end, and what another run can take over up to where their numbers part."""
    end: Tensor
    found: list[Tensor]
    table: Table


class PlanLesson:
    """A lesson whose student is a table of numbers around a plan on learned levels.

    sigmas: the levels to start from; the last one stays. lower: the first one is learned, at or below the level of the
    lesson's noises, which are scaled to it; else it stays. history: predictions a row may use beyond those of the plan
    itself, the newest of them; 0 for all. guided: rows have coefficients of what guidance made of each prediction too,
    zero in the plan itself. whole: each row's share of the start and the sum of its coefficients are free as well, so
    that a call's level may be another than its input's.
    """

    def __init__(self, lesson: Lesson, sigmas: list[float], *, process: Process = VE, history: int = 0,
                 guided: bool = False, whole: bool = False, lower: bool = False):
        process.lams(sigmas)
        if lower and lesson.top is None:
            raise ValueError("a lower first level is learned from noises of a known one; give the Lesson its top")
        self.lesson, self.end, self.whole, self.lower = lesson, sigmas[-1], whole, lower
        self.top = sigmas[0] if lesson.top is None else lesson.top
        calls, self.each = calls_of(lesson.plan(sigmas)), 1 + guided
        places = torch.arange(calls + 1)[:, None] - torch.arange(self.each * calls)[None] // self.each
        self.mask = ((places >= 1) & (places <= (history or calls))).double()
        steps = -torch.tensor([level for level in sigmas if level > 0.0], dtype=torch.float64).log().diff()
        first = torch.tensor([math.log(self.top / sigmas[0])], dtype=torch.float64)
        self.numbers = Numbers(torch.cat([first, steps.log()]), torch.zeros_like(self.mask),
                               torch.zeros(calls, dtype=torch.float64))

    def sigmas(self, theta: Tensor) -> Tensor:
        """The levels (N + 1,), decreasing from the top at most, whatever theta is."""
        steps, first = theta[1:].exp(), self.top * (-theta[:1].clamp(min=0.0)).exp()
        if self.end > 0.0:
            steps = steps / steps.sum() * (first / self.end).log()
            return torch.cat([first, first * (-steps.cumsum(0)[:-1]).exp(), first.new_tensor([self.end])])
        return torch.cat([first, first * (-steps.cumsum(0)).exp(), first.new_zeros(1)])

    def table(self, numbers: Numbers) -> Table:
        """The plan's own table on these levels with the changes; at zero changes it is the plan's to the bit."""
        table = widened(table_of(self.lesson.plan(self.sigmas(numbers.theta).tolist())), self.each)
        table = table._replace(d=table.d + self.changes(numbers.change))
        if not self.whole:
            return table
        x = torch.cat([table.x[:1], table.x[1:] * numbers.shares.exp()])
        x[-1] += 0.0 if table.x[-1] else numbers.shares[-1] * table.x[-2]
        return table._replace(x=x)

    def changes(self, change: Tensor) -> Tensor:
        """What each row's coefficients change by: those of D by numbers that sum to 0, so that the first law stays,
        unless the table is learned whole."""
        change, free = self.mask * change, self.mask[:, ::self.each]
        if not self.whole:
            own = change[:, ::self.each]
            own -= free * own.sum(1, keepdim=True) / free.sum(1, keepdim=True).clamp(min=1.0)
        return change

    def free_places(self, free: str) -> list[tuple[int, int]]:
        """The numbers that are learned, each as the field of Numbers and the place in it: of each row's changes all but
        the last of those of D, whose sum counts for nothing, unless `whole`."""
        if free not in FREE:
            raise ValueError(f"free must be one of {', '.join(FREE)}, got {free!r}")
        levels = range(not self.lower, len(self.numbers.theta) - (self.end > 0.0)) if free != "coefficients" else ()
        rows = [row.nonzero().flatten().tolist() for row in self.mask] if free != "levels" else []
        width = self.mask.shape[1]
        return [*((0, place) for place in levels),
                *((1, m * width + j) for m, row in enumerate(rows) for j in row if self.whole or j != row[-self.each]),
                *((2, place) for place in range(len(self.numbers.shares) if self.whole else 0))]

    @torch.no_grad()
    def walk(self, table: Table, items: list[int], like: Walk | None = None) -> Walk:
        """Where a table takes these noises, with the calls of `like`, on the same noises, as far as both agree."""
        x, model = self.lesson.x[items] * float(table.levels[0] / self.top), self.lesson.model_of(items)
        known = _agree(table, like.table) if like else 0
        found = like.found[:known * self.each] if like else []
        self.lesson.calls += len(x) * (len(table.levels) - known)
        return Walk(run_table(model, x, table, found=found), found, table)

    def missed(self, walk: Walk, items: list[int]) -> Tensor:
        """What the end is off (n, ...), in what the lesson's look sees."""
        seen = self.lesson.look(walk.end) - self.lesson.goals[items]
        return seen.flatten(1).to(torch.promote_types(seen.dtype, torch.float32))

    def errors(self, numbers: Numbers, items: list[int]) -> Tensor:
        """Root mean square distances (n,) to the teacher, in float64 on the CPU."""
        walk = self.walk(self.table(numbers), items)
        return self.missed(walk, items).square().mean(1).sqrt().double().cpu()

    def slopes(self, numbers: Numbers, moved: list[Table], reach: float, items: list[int]) -> Tensor:
        """The least squares (P + 1, P + 1) of the changes of the ends with each of P numbers, the last row and column
        with what the ends are off; each noise weighed by one over its square, as in the mean log of the distances.

        moved: tables with one number after the other `reach` farther on."""
        base = self.walk(self.table(numbers), items)
        off = self.missed(base, items)
        weight = 1.0 / (off.square().mean(1, keepdim=True).sqrt() + FLOOR)
        columns = [(self.missed(self.walk(other, items, base), items) - off) / reach for other in moved]
        columns = torch.stack([(weight * column).flatten() for column in [*columns, off]])
        return (columns @ columns.T).double().cpu()


def _agree(*tables: Table) -> int:
    """How many calls of two runs are the same."""
    one, other = (torch.cat([table.levels[:, None], table.x[:-1, None], table.d[:-1]], 1) for table in tables)
    return int((one == other).all(1).double().cumprod(0).sum())


def learn_plan(lesson: Lesson, sigmas: list[float], *, free: str = FREE[0], iterations: int = 200, minibatch: int = 12,
               history: int = 0, minutes: float = math.inf, change: Tensor | None = None, few: int = 0,
               little: float = LITTLE, lower: bool = False, process: Process = VE,
               state: dict[str, Tensor] | None = None) -> Iterator[Progress]:
    """Levels and coefficients that bring the lesson's plan nearest to the teacher, from `sigmas`.

    free: 'levels', 'coefficients', both, 'all', both and the whole table (PlanLesson's `whole`), or GUIDED, all and
    coefficients of D - D_u, what guidance made of each prediction (the model must have apart(x, sigma) -> D, D - D_u).
    Levenberg and Marquardt's damped least squares on the training noises (the first `few` of them, 0 for all), for the
    mean log of their distances, which keeps the few that end in another mode from ruling the rest: runs with one number
    after the other a little farther on say where the ends go, the calls before the first that differs are taken over.
    These runs are of a third of the noises at first, another one each time, then nearer and of all; where they lead is
    judged on all. At most so many iterations, or minutes, with fewer noises where these are short; it ends by itself
    where the loss falls by less than `little` for each run of all noises. minibatch: noises run together; only memory
    hangs on it. lower: the first level is learned too, at the lesson's top or below it, where noises are scaled to it.
    change: of the coefficients to start from, of FittedLevels. The last state: "sigmas" and the table "levels", "x",
    "d" of the best plan, its numbers "theta", "change", "shares", and "losses", the median distance at the start and
    behind each iteration. A Progress after each part of one.
    Source: Frankel et al. 2025, arXiv 2502.17423 (coefficients, and levels in turn); the table, the loss and the way of
    learning both at once are our own.
    """
    student = PlanLesson(lesson, sigmas, process=process, history=history, guided=free == GUIDED,
                         whole=free in ("all", GUIDED), lower=lower)
    places, begun = student.free_places(free), time.monotonic()
    kept = {name: value for name, value in (state or {}).items() if name in BEST}
    numbers = student.numbers if change is None else student.numbers._replace(change=change * student.mask)
    if "shares" in kept:
        numbers = Numbers(*(kept[name] for name in Numbers._fields))
    items = training_items(lesson)[:few or None]
    if minutes < math.inf:
        items = items[:_most(student, numbers, places, items[:minibatch], SHARE * 60.0 * minutes)]
    learning = _Learning(student, numbers, places, _parts(items, minibatch), kept)
    yield learning.progress()
    while learning.iterations < iterations and learning.gains and time.monotonic() - begun < 60.0 * minutes:
        squares, moved, seen, before = 0.0, learning.moved(), learning.seen(items), lesson.calls
        for part in _parts(seen, minibatch):
            squares = squares + student.slopes(learning.numbers, moved, learning.reach, part)
            yield learning.progress()
            if time.monotonic() - begun > 60.0 * minutes:
                return
        for _ in learning.tries(squares, little, before):
            yield learning.progress()


class _Learning:
    """Numbers on their way to where the noises in `parts` end nearest; kept: of one that was stopped, or {}."""

    def __init__(self, student: PlanLesson, numbers: Numbers, places: list[tuple[int, int]], parts: list[list[int]],
                 kept: dict[str, Tensor]):
        self.student, self.places, self.parts = student, places, parts
        loss, median = self.judged(numbers)
        self.kept = {**kept, "loss": torch.tensor(loss, dtype=torch.float64)} if "shares" in kept else (
            self.found(numbers, loss, DAMPING, [median], 0))

    @property
    def numbers(self) -> Numbers:
        return Numbers(*(self.kept[name] for name in Numbers._fields))

    @property
    def iterations(self) -> int:
        return len(self.kept["losses"]) - 1

    @property
    def gains(self) -> bool:
        """Whether there is something to learn still."""
        return bool(self.places) and int(self.kept["reach"]) < len(STAGES)

    @property
    def least(self) -> float:
        """How far the first of the numbers may move: the first level not above the noises'."""
        return -float(self.numbers.theta[0]) if (0, 0) in self.places else -math.inf

    @property
    def reach(self) -> float:
        return STAGES[int(self.kept["reach"])][0]

    def seen(self, items: list[int]) -> list[int]:
        """The noises that say where the ends go this time."""
        every = min(STAGES[int(self.kept["reach"])][1], max(len(items) // THICK, 1))
        return items[self.iterations % every::every]

    def moved(self) -> list[Table]:
        return [self.student.table(_moved(self.numbers, [place], [self.reach])) for place in self.places]

    def judged(self, numbers: Numbers) -> tuple[float, float]:
        """The loss and the median distance."""
        errors = torch.cat([self.student.errors(numbers, part) for part in self.parts])
        return float((errors + FLOOR).log().mean()), score_of(errors).median

    def tries(self, squares: Tensor, little: float, calls: int) -> Iterator[None]:
        """Moves all numbers by what the squares say, by less until the loss falls; where it falls by less than `little`
        for each run since the lesson had so many calls, the next stage begins."""
        before, damping, stage = float(self.kept["loss"]), float(self.kept["damping"]), int(self.kept["reach"])
        losses = self.kept["losses"].tolist()
        while damping < MOST:
            trial = _moved(self.numbers, self.places, _step(squares, damping, self.least))
            loss, median = self.judged(trial)
            if loss < before:
                self.kept = self.found(trial, loss, max(damping / 4.0, LEAST), [*losses, median], stage)
                break
            damping *= 8.0
            yield
        runs = (self.student.lesson.calls - calls) / (sum(map(len, self.parts)) * len(self.kept["levels"]))
        if not float(self.kept["loss"]) < before - little * runs:
            self.kept = {**self.kept, "reach": torch.tensor(stage + 1), "damping": torch.tensor(DAMPING)}
        yield

    def found(self, numbers: Numbers, loss: float, damping: float, losses: list[float], stage: int
              ) -> dict[str, Tensor]:
        numbers = numbers._replace(change=self.student.changes(numbers.change))
        table = self.student.table(numbers)
        return {**numbers._asdict(), "sigmas": self.student.sigmas(numbers.theta), "levels": table.levels,
                "x": table.x, "d": table.d, "loss": torch.tensor(loss, dtype=torch.float64),
                "damping": torch.tensor(damping), "losses": torch.tensor(losses, dtype=torch.float64),
                "reach": torch.tensor(stage)}

    def progress(self) -> Progress:
        calls = self.student.lesson.calls
        return Progress(calls, calls + 1, dict(self.kept), losses=tuple(self.kept["losses"].tolist()))


def _most(student: PlanLesson, numbers: Numbers, places: list[tuple[int, int]], items: list[int], seconds: float
          ) -> int:
    """Noises of which an iteration of the first stage takes so long, by the time of a run of these; FEWEST at least."""
    begun, base = time.monotonic(), student.table(numbers)
    student.walk(base, items)
    run = max(time.monotonic() - begun, 1e-9) / len(items)
    others = (_moved(numbers, [place], [STAGES[0][0]]) for place in places)
    left = sum(len(base.levels) - _agree(student.table(other), base) for other in others)
    whole, slopes = min(seconds / run, 1e9), 1.0 + left / len(base.levels)  # in runs of one noise
    many = whole / (1.0 + slopes / STAGES[0][1])
    return max(int(many if many > STAGES[0][1] * THICK else whole - THICK * slopes), FEWEST)


def _parts(items: list[int], size: int) -> list[list[int]]:
    return [items[i:i + size] for i in range(0, len(items), size)]


def _moved(numbers: Numbers, places: list[tuple[int, int]], by: list[float]) -> Numbers:
    """The numbers with those at some places changed."""
    found = [value.clone() for value in numbers]
    for (field, place), value in zip(places, by):
        found[field].view(-1)[place] += value
    return Numbers(*found)


def _step(squares: Tensor, damping: float, least: float = -math.inf) -> list[float]:
    """What each number moves by; the first one by `least` at least, to which the others then answer."""
    gram, slope = squares[:-1, :-1], squares[:-1, -1]
    eye = torch.diag(damping * gram.diagonal() + 1e-12 * gram.diagonal().max() + 1e-30)
    step = torch.linalg.solve(gram + eye, -slope)
    if len(step) and float(step[0]) < least:
        others = torch.linalg.solve((gram + eye)[1:, 1:], -slope[1:] - least * gram[1:, 0])
        step = torch.cat([step.new_tensor([least]), others])
    return step.nan_to_num(0.0).clamp(-FARTHEST, FARTHEST).tolist()
