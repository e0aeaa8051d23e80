"""What LD3 does with its noises: gradients, steps, checks, and the noises that may move."""
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ...samplers.linear import run
from ...samplers.table import run_table, smooth_table
from .ld3_levels import Discretization, Numbers, decoupled
from .teacher import Lesson, calls_of

LOSSES = ("latent_l2", "latent_l1")
SCALE = 1024.0  # of the loss on the way back, so that half precision keeps its gradients
PATIENCE = 5  # checks without a better one, and hits of the lowest rate
FIRST_CHECKS = 100  # noises to choose by before the first PATIENCE checks in vain
RATE_FLOOR, TOLD_RATE_FLOOR, RATE_DECAY, SHIFT_DECAY = 5e-5, 1e-6, 0.8, 0.5


class LD3(NamedTuple):
    """What LD3 is asked for; the numbers in the paper's code are 2 and 5 rounds on 100 noises, 2 at a time.

    mode: even where nothing is learned, and moved in, 'lambda' or 'time'. init: from the levels 'given' or from 'even'
    ones. loss: mean over the elements of the squared or absolute difference of what Lesson.look sees. decouple: how the
    network is told other levels (see decoupled), learned from the second phase on. minibatch: noises in one iteration.
    rounds_v1, rounds_v2: passes over all noises that learn the levels alone, and both. rate: of the levels (RMSprop).
    told_rate: of the told levels (plain descent); 0 is 0.1 / N in lambda mode, 0.001 / N in time mode. soft_radius: how
    far, in units of the noise, every training noise may move to be easier to follow; below 0 it is 0.001 times its
    size over N squared. most_iterations: 0 for all of the rounds. scaled: see decoupled.
    """
    mode: str = "lambda"
    init: str = "given"
    loss: str = LOSSES[0]
    decouple: str = "label_only"
    minibatch: int = 2
    rounds_v1: int = 2
    rounds_v2: int = 3
    rate: float = 0.005
    told_rate: float = 0.0
    soft_radius: float = -1.0
    most_iterations: int = 0
    seed: int = 0
    scaled: bool = False


class Student:
    """A lesson whose plan runs on the levels that numbers stand for."""

    def __init__(self, lesson: Lesson, levels: Discretization, options: LD3):
        if options.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {options.loss!r}")
        self.lesson, self.levels, self.options = lesson, levels, options
        decoupled(lesson.model, *self.lists(levels.even(2)), how=options.decouple)

    def lists(self, numbers: Numbers) -> tuple[Tensor, Tensor]:
        """(sigmas, cond_sigmas)."""
        return self.levels.sigmas(numbers)

    def model(self, items, sigmas: Tensor, cond: Tensor) -> Callable:
        """The model for these items, told cond where it is asked at sigmas."""
        how, scaled = self.options.decouple, self.options.scaled
        return decoupled(self.lesson.model_of(items), sigmas, cond, how=how, scaled=scaled)

    def distances(self, ends: Tensor, items) -> Tensor:
        """The loss (n,) of each noise, float64 on the CPU."""
        difference = (self.lesson.look(ends) - self.lesson.goals[items]).double().flatten(1).cpu()
        return (difference.square() if self.options.loss == "latent_l2" else difference.abs()).mean(1)

    @torch.no_grad()
    def losses(self, lists: tuple[Tensor, Tensor], x: Tensor, items: list[int]) -> Tensor:
        """The loss (n,) of these noises, taken from x, on levels and told levels; plain float numbers all along."""
        steps = self.lesson.plan(lists[0].tolist())
        return self.distances(run(self.model(items, *lists), x[items].to(self.lesson.x), steps), items)

    @torch.enable_grad()
    def gradients(self, numbers: Numbers, x: Tensor, items: list[int]) -> tuple[Tensor, list[Tensor]]:
        """The losses (n,), and the slopes of their mean in p, in q and in x (n, ...) of these noises."""
        leaves = [value.detach().clone().requires_grad_() for value in (*numbers, x[items].to(self.lesson.x))]
        lists = self.lists(Numbers(*leaves[:2]))
        table = smooth_table(self.lesson.plan, lists[0], first=1)
        losses = self.distances(run_table(self.model(items, *lists), leaves[2], table), items)
        found = torch.autograd.grad(losses.mean() * SCALE, leaves, allow_unused=True)
        return losses.detach(), [torch.zeros_like(leaf) if slope is None else
                                 torch.nan_to_num(slope / SCALE, 0.0, 0.0, 0.0) for slope, leaf in zip(found, leaves)]

    def errors(self, lists: tuple[Tensor, Tensor], where: slice) -> Tensor:
        """Root mean square distances of these noises of the lesson, as Lesson.errors."""
        return self.lesson.errors(self.lesson.plan(lists[0].tolist()), where,
                                  change=lambda model: decoupled(model, *lists, how=self.options.decouple,
                                                                 scaled=self.options.scaled))


class Training:
    """Where learning stands. numbers, and x (K, ...), the noises that are not held back, as they have moved; what was
    best on the checks so far; the optimizer's averages and rates."""

    def __init__(self, student: Student, start: Numbers, state: dict[str, Tensor] | None):
        options, steps = student.options, len(start.p) - 1
        self.student, self.numbers, self.x = student, start, student.lesson.x[student.lesson.training].cpu()
        self.noises = self.x
        self.fitting, self.choosing = halves(len(self.x))
        self.radius = _radius(options.soft_radius, self.x[0].numel(), steps)
        self.square, self.momentum = torch.zeros_like(start.p), torch.zeros_like(start.p)
        self.best = (*start, self.x)
        self.counts = {"unit": 0, "iterations": 0, "worse": 0, "at_floor": 0, "quick": 1, "moved": 0, "calls": 0}
        told_rate = options.told_rate or (0.1 if options.mode == "lambda" else 0.001) / steps
        self.rates = {"rate": options.rate, "told_rate": told_rate, "shift_rate": 12.0 / steps, "best_loss": math.inf}
        self.checks = torch.zeros(0, dtype=torch.float64)
        if state:
            self._restore(state)

    def state(self) -> dict[str, Tensor]:
        """Tensors that nothing writes into later."""
        return {"p": self.numbers.p, "q": self.numbers.q, "x": self.x, "square": self.square,
                "momentum": self.momentum, "best.p": self.best[0], "best.q": self.best[1], "best.x": self.best[2],
                "checks": self.checks, **{name: torch.tensor(value) for name, value in self.counts.items()},
                **{name: torch.tensor(value, dtype=torch.float64) for name, value in self.rates.items()}}

    def _restore(self, state: dict[str, Tensor]) -> None:
        self.numbers, self.best = Numbers(state["p"], state["q"]), tuple(state[f"best.{name}"] for name in "pqx")
        self.x, self.square, self.momentum = state["x"], state["square"], state["momentum"]
        self.checks, self.counts = state["checks"], {name: int(state[name]) for name in self.counts}
        self.rates = {name: float(state[name]) for name in self.rates}

    @property
    def batches(self) -> tuple[list[list[int]], list[list[int]]]:
        """Of the noises to fit and to choose by."""
        size = self.student.options.minibatch
        return tuple([items[i:i + size] for i in range(0, len(items), size)]
                     for items in (self.fitting, self.choosing))

    @property
    def units(self) -> int:
        """Of a round: its beginning, an iteration for each batch, and moving the noises to choose by."""
        fitting, choosing = self.batches
        return 1 + len(fitting) + (len(choosing) if self.radius > 0.0 else 0)

    def work(self) -> bool:
        """The next unit of work; whether learning goes on."""
        options, fitting = self.student.options, self.batches[0]
        turn, place = divmod(self.counts["unit"], self.units)
        self.counts["unit"] += 1
        if place == 0:
            self._begin(turn)
        elif place <= len(fitting):
            order = torch.randperm(len(self.fitting),
                                   generator=torch.Generator().manual_seed(options.seed * 1000003 + turn)).tolist()
            picked = order[(place - 1) * options.minibatch:place * options.minibatch]
            self._iterate([self.fitting[i] for i in picked], tells=turn >= options.rounds_v1)
        else:
            self._move_choosing(place - 1 - len(fitting))
        stopped = self.counts["at_floor"] >= PATIENCE or (
            0 < options.most_iterations <= self.counts["iterations"])
        return not stopped and self.counts["unit"] < (options.rounds_v1 + options.rounds_v2) * self.units

    def _begin(self, turn: int) -> None:
        if turn:
            self.numbers = Numbers(*self.best[:2])
        self.counts |= {"worse": 0, "moved": 0}
        self._check(tells=turn >= self.student.options.rounds_v1)

    def _iterate(self, items: list[int], *, tells: bool) -> None:
        """One iteration: levels, told levels, a check, and then the noises themselves."""
        before, (slope_p, slope_q, slope_x) = self.student.gradients(self.numbers, self.x, items)
        self._count(4 * len(items))
        slope_p, slope_q = (slope * min(1.0, 1.0 / (slope.norm().item() + 1e-6)) for slope in (slope_p, slope_q))
        self.square = 0.99 * self.square + 0.01 * slope_p.square()
        self.momentum = 0.9 * self.momentum + slope_p / (self.square.sqrt() + 1e-8)
        p = self.numbers.p - self.rates["rate"] * self.momentum
        q = self.numbers.q - self.rates["told_rate"] * slope_q if tells else self.numbers.q
        self.numbers = Numbers(p, q)
        self.counts["iterations"] += 1
        self._check(tells=tells)
        if self.radius > 0.0 and self.counts["at_floor"] < PATIENCE:
            self._move(items, slope_x, before)

    def _check(self, *, tells: bool) -> None:
        """Keeps the best numbers; after PATIENCE checks in vain goes back to them, more slowly from then on."""
        loss = self._loss()
        self.checks = torch.cat([self.checks, torch.tensor([loss], dtype=torch.float64)])
        if loss < self.rates["best_loss"]:
            self.best, self.rates["best_loss"], self.counts["worse"] = (*self.numbers, self.x), loss, 0
            return
        self.counts["worse"] += 1
        if self.counts["worse"] < PATIENCE:
            return
        self.numbers, self.x, self.counts["worse"] = Numbers(*self.best[:2]), self.best[2], 0
        if self.counts["quick"]:
            self.counts["quick"] = 0
            self.rates["best_loss"] = self._loss()
            return
        self._slow("rate", RATE_FLOOR)
        if tells:
            self._slow("told_rate", TOLD_RATE_FLOOR)
            self.counts["at_floor"] += self.rates["told_rate"] <= TOLD_RATE_FLOOR

    def _slow(self, name: str, floor: float) -> None:
        self.rates[name] = max(RATE_DECAY * self.rates[name], min(self.rates[name], floor))

    def _loss(self) -> float:
        """Mean over the noises to choose by, at first only FIRST_CHECKS of them."""
        items = self.choosing[:FIRST_CHECKS] if self.counts["quick"] else self.choosing
        self._count(len(items))
        loss = self.student.losses(self.student.lists(self.numbers), self.x, items).mean().item()
        return loss if math.isfinite(loss) else math.inf

    def _move(self, items: list[int], slope: Tensor, before: Tensor) -> bool:
        """Moves the noises that a step down their slope, kept within the radius, makes easier to follow."""
        size = self.student.levels.start
        tried = self.x[items] - self.rates["shift_rate"] * size ** 2 * slope.to(self.x)
        tried = project(tried, self.noises[items], self.radius * size)
        moved = self.x.clone()
        moved[items] = tried
        self._count(len(items))
        better = self.student.losses(self.student.lists(self.numbers), moved, items) < before
        kept = [item for item, is_better in zip(items, better.tolist()) if is_better]
        self.x = self.x.clone()
        self.x[kept] = moved[kept]
        return bool(kept)

    def _move_choosing(self, place: int) -> None:
        batches = self.batches[1]
        before, (_, _, slope) = self.student.gradients(self.numbers, self.x, batches[place])
        self._count(4 * len(batches[place]))
        self.counts["moved"] += self._move(batches[place], slope, before)
        if place == len(batches) - 1 and not self.counts["moved"]:
            self.rates["shift_rate"] *= SHIFT_DECAY

    def _count(self, runs: int) -> None:
        self.counts["calls"] += runs * calls_of(self.student.lesson.plan(self.student.lists(self.numbers)[0].tolist()))


def halves(count: int) -> tuple[list[int], list[int]]:
    """The noises to learn from and those to choose by."""
    if count < 2:
        raise ValueError(f"learning needs at least 2 noises that are not held back, got {count}; raise samples")
    return list(range(count - count // 2)), list(range(count - count // 2, count))


def project(x: Tensor, centre: Tensor, radius: float) -> Tensor:
    """Each entry of x (n, ...), moved to the surface of the ball around its centre where it lies outside."""
    away = (x - centre).flatten(1)
    far = away.norm(dim=1)
    part = torch.where(far > radius, radius / far, 1.0).reshape(-1, *[1] * (x.ndim - 1))
    return torch.where(part < 1.0, centre + part * (x - centre), x)


def _radius(soft_radius: float, numbers: int, steps: int) -> float:
    return 0.001 * numbers / steps ** 2 if soft_radius < 0.0 else soft_radius
