"""The coordinate search of Align Your Steps: points of a schedule moved one at a time to lower its KL bound."""
import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from .klub import Bound, DrawnBound, Interval
from .teacher import Lesson

PATIENCE = 8  # sweeps in a row that bring the teacher no nearer before the search stops: the way down has plateaus


def intervals_of(levels: list[float], solver: str = "ddim") -> list[Interval]:
    """The intervals of falling VE levels; only 2M asks for the level before."""
    tops = levels if solver == "ddim" else [levels[0], *levels]
    return [(before, u, low) for before, (u, low) in zip(tops, pairwise(levels))]


def doubled(levels: list[float]) -> list[float]:
    """With a level halfway in the logarithm between any two."""
    return [level for u, low in pairwise(levels) for level in (u, math.sqrt(u * low))] + levels[-1:]


def candidates_for(levels: list[float], i: int, count: int, reach: float = 1.0) -> list[float]:
    """Places for level i, its own first, then evenly in the logarithm within `reach` of the way to its neighbours."""
    below = (count - 1) // 2
    found = [levels[i]]
    for neighbour, places in ((levels[i + 1], below), (levels[i - 1], count - 1 - below)):
        way = reach * math.log(neighbour / levels[i])
        found += [levels[i] * math.exp(way * j / (places + 1)) for j in range(1, places + 1)]
    return found


class Search:
    """run(levels) fills stages, klubs and distances; a frame (see align_your_steps) makes schedules of levels.

    state(): what the model was asked, with which the same search passes quickly over what was done, and the best
    "sigmas" so far.
    """

    def __init__(self, lesson: Lesson, frame, bound: Bound | DrawnBound, state: dict[str, Tensor]):
        self.lesson, self.frame, self.bound, self.options = lesson, frame, bound, frame.options
        self.stages: list[list[float]] = []
        self.swept, self.klubs, self.distances, self.kept = [], [], [], 0
        bound.known.update({tuple(row[:-1]): row[-1] for row in _rows(state, "bounds")})
        self.judged = {tuple(row[:-1]): row[-1] for row in _rows(state, "judged")}
        self.saved: tuple[int, dict] = (-1, {})

    @property
    def losses(self) -> tuple[float, ...]:
        return tuple(self.klubs if self.options.stop == "no_change" else self.distances)

    def state(self) -> dict[str, Tensor]:
        count = len(self.judged) + len(self.bound.known)
        if self.saved[0] != count:
            drawn = {"bounds": self.bound.known} if isinstance(self.bound, DrawnBound) else {}
            self.saved = count, {name: torch.tensor([[*key, value] for key, value in known.items()],
                                                    dtype=torch.float64)
                                 for name, known in {**drawn, "judged": self.judged}.items() if known}
        best = {"sigmas": self.frame.closed(self.swept[self.kept])} if self.swept else {}
        return {**self.saved[1], **{name: torch.tensor(levels, dtype=torch.float64) for name, levels in best.items()}}

    def result(self) -> dict[str, Tensor]:
        lists = {f"stage {i}": levels for i, levels in enumerate(self.stages)}
        return {name: torch.tensor(values, dtype=torch.float64) for name, values in {
            **lists, "klubs": self.klubs, "distances": self.distances, "kept": self.kept}.items()}

    def run(self, levels: list[float]) -> Iterator[Tensor | None]:
        """Gives a model call's prediction after each, and None after a run for the teacher's distance."""
        levels = yield from self._first(levels)
        self.stages.append(levels)
        for _ in range(self.options.refine):
            levels = doubled(levels)
            for _ in range(self.options.max_iters):
                before, levels = levels, (yield from self.sweep(levels, range(1, len(levels), 2)))
                if levels == before:
                    break
            self.stages.append(levels)

    def _first(self, levels: list[float]) -> Iterator[Tensor | None]:
        """Stage 0: the levels after the sweep kept, or after the last where the teacher has no say."""
        yield from self._weigh(levels)
        while len(self.swept) <= self.options.max_iters and len(self.swept) - 1 - self.kept < PATIENCE:
            levels = yield from self.sweep(levels, range(1, len(levels) - 1))
            if levels == self.swept[-1]:
                break
            yield from self._weigh(levels)
        return self.swept[self.kept]

    def _weigh(self, levels: list[float]) -> Iterator[Tensor | None]:
        """Notes a sweep's levels, the KLUB of the whole schedule and where it leads the lesson's plan."""
        self.klubs.append(sum((yield from self._ask(intervals_of(levels, self.options.solver)))))
        if self.options.stop == "teacher_distance":
            schedule = tuple(self.frame.closed(levels))
            if schedule not in self.judged:
                self.judged[schedule] = self.lesson.score(list(schedule), self.lesson.training).mean
            self.distances.append(self.judged[schedule])
        self.swept.append(levels)
        self.kept = self.distances.index(min(self.distances)) if self.distances else len(self.swept) - 1
        yield None

    def sweep(self, levels: list[float], movable: range) -> Iterator[Tensor]:
        """The levels after each of the movable points went to its best candidate."""
        solver, count, reach = self.options.solver, self.options.candidates, self.options.reach
        for i in movable:
            tried = [[*levels[:i], level, *levels[i + 1:]] for level in candidates_for(levels, i, count, reach)]
            around = [intervals_of(levels, solver)[i - 1:i + (2 if solver == "2m" else 1)] for levels in tried]
            values = yield from self._ask([interval for part in around for interval in part])
            sums = torch.tensor(values, dtype=torch.float64).reshape(len(tried), -1).sum(1).tolist()
            levels = tried[sums.index(min(sums))]
        return levels

    def _ask(self, intervals: list[Interval]) -> Iterator[Tensor]:
        """Their bounds, those learned from the model that are not known."""
        yield from self.bound.learn([part for part in dict.fromkeys(intervals) if part not in self.bound.known])
        return [self.bound.known[part] for part in intervals]


def _rows(state: dict[str, Tensor], name: str) -> list[list[float]]:
    return state[name].tolist() if name in state else []
