"""The KL bound of Align Your Steps: what it costs to hold the prediction over the intervals of a schedule.

Levels here are VE's, x_t = x_0 + t eps; of a flow model t = sigma / (1 - sigma). For levels u > low,

    KLUB(low, u) = integral over t in [low, u] of t^-3 E |D(x_t, t) - D(x_u, u)|^2 dt,    x_u = x_t + fresh noise

is how far the SDE that stochastic DDIM with eta = 1 solves, D held at u, leads from the true one. Norms are sums over
the numbers of a picture. t is drawn in proportion to t^-3 (1 / (t^2 + c^2) - 1 / (u^2 + c^2)), which is the integrand
for data spread by c in every direction.
Source: Sabour et al. 2024, arXiv 2404.14507, section 3 and appendices A and B.
"""
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ...measure.progress import Progress
from ...samplers.process import FLOW, Process
from .teacher import of_items

SOLVERS = ("ddim", "2m")
BISECTIONS = 30  # halvings of an interval in log t
SIMPSON = torch.tensor([1.0, *[4.0, 2.0] * 15, 4.0, 1.0], dtype=torch.float64) / 96.0
Interval = tuple[float, float, float]  # the level before it (its top again, where there is none), its top, its bottom


def importance_mass(low: Tensor, high: Tensor, c: float = 0.5, top: Tensor | None = None) -> Tensor:
    """Integral over t in [low, high] of t^-3 (1 / (t^2 + c^2) - 1 / (u^2 + c^2)), u = top, or high without one."""
    a, b, u = low ** 2, high ** 2, (high if top is None else top) ** 2

    def rising(y: Tensor) -> Tensor:
        return torch.log1p(c * c / y) / c ** 4 - 1.0 / (c * c * y)

    return 0.5 * (rising(b) - rising(a) + (1.0 / b - 1.0 / a) / (u + c * c))


def importance_level(share: Tensor, low: Tensor, high: Tensor, c: float = 0.5) -> Tensor:
    """The level with that share of the interval's mass below it: the inverse of its distribution function."""
    wanted = share * importance_mass(low, high, c)
    below, above = (value.log().expand_as(wanted) for value in (low, high))
    for _ in range(BISECTIONS):
        middle = 0.5 * (below + above)
        beyond = importance_mass(low, middle.exp(), c, high) > wanted
        below, above = torch.where(beyond, below, middle), torch.where(beyond, middle, above)
    return (0.5 * (below + above)).exp()


class Drawn(NamedTuple):
    """Levels t (Q,) drawn in an interval; weight: the mean of weight |D_t - D_u|^2 is the KLUB."""
    t: Tensor
    weight: Tensor


def draw(interval: Interval, shares: Tensor, c: float = 0.5) -> Drawn:
    """The levels with shares (Q,) of the interval's mass below them."""
    _, u, low = torch.tensor(interval, dtype=torch.float64)
    t = importance_level(shares.double(), low, u, c)
    shape = 1.0 / (t ** 2 + c * c) - 1.0 / (u ** 2 + c * c)
    return Drawn(t, importance_mass(low, u, c) / shape.clamp(min=1e-300))


def ahead(before: Tensor, u: Tensor, t: Tensor) -> Tensor:
    """By how much of D_u - D_before 2M goes on from D_u to t, in the logarithm of the level; 0 where before is u."""
    gap = (before / u).log()
    return torch.where(gap > 0.0, (u / t).log() / gap.clamp(min=1e-12), 0.0)


class Spread(NamedTuple):
    """E |D(x_i) - D(x_j)|^2 along noising paths, for all pairs of a grid of levels even in the logarithm.

    levels (G,) rising; values (G, G), with the sign of i - j. Between its points both are read by straight lines, which
    gives 0 at t = u and is as exact as the grid is fine.
    """
    levels: Tensor
    values: Tensor

    def between(self, t: Tensor, u: Tensor) -> Tensor:
        """For levels t up to u."""
        (i, a), (j, b) = self._place(u), self._place(t)
        return ((1.0 - a) * ((1.0 - b) * self.values[i, j] + b * self.values[i, j + 1])
                + a * ((1.0 - b) * self.values[i + 1, j] + b * self.values[i + 1, j + 1]))

    def _place(self, level: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self.levels[0].log(), self.levels[-1].log()
        place = ((level.log() - low) / (high - low) * (len(self.levels) - 1)).clamp(0.0, len(self.levels) - 1.0)
        cell = place.floor().clamp(max=len(self.levels) - 2.0)
        return cell.long(), place - cell

    def klub(self, intervals: list[Interval], solver: str = "ddim") -> Tensor:
        """KLUB (N,) of intervals, by Simpson's rule over log t. solver: '2m' does not hold D_u but goes on along
        D_u - D_before, as DPM-Solver++(2M) does."""
        before, u, low = torch.tensor(intervals, dtype=torch.float64)[:, :, None].unbind(1)
        length = (u / low).log()
        t = low * (length * torch.linspace(0.0, 1.0, len(SIMPSON), dtype=torch.float64)).exp()
        found = self.between(t, u)
        if solver == "2m":  # |a - r b|^2 of |a|^2, |b|^2 and |a + b|^2
            r = ahead(before, u, t)
            found = (1.0 + r) * (found + r * self.between(u, before)) - r * self.between(t, before)
        return (length * SIMPSON * t ** -2 * found).sum(1)


@torch.no_grad()
def measure_spread(model: Callable, data: Tensor, levels: Tensor, *, rounds: int = 1, batch: int = 8, seed: int = 0,
                   process: Process, state: dict[str, Tensor] | None = None) -> Iterator[Progress]:
    """A Spread over `rounds` noising paths from each of data (B, ...) clean pictures: state["sum"] / (rounds B).

    model(x, sigma: float) -> D of the process; levels (G,) rising, in VE. batch: paths whose predictions are in memory
    together; each has noise of its own, whatever the batch. Cost: rounds B G calls, each on one picture. A Progress
    after each level; what a stop loses is the batch at work.
    """
    total, parts = rounds * len(data) * len(levels), -(-len(data) // batch)
    done, sums = (int(state["parts"]), state["sum"]) if state else (0, torch.zeros(2 * (len(levels),)).double())
    for part in range(done, rounds * parts):
        turn, place = divmod(part, parts)
        items = slice(place * batch, min((place + 1) * batch, len(data)))
        seeds = [seed + 1_000_003 * (turn * len(data) + item + 1) for item in range(len(data))[items]]
        kept, found = {"sum": sums, "parts": torch.tensor(part)}, []
        for denoised in _path(ve_model(model, process, items), data[items], levels.tolist(), seeds):
            found.append(denoised.cpu())
            calls = (turn * len(data) + items.start) * len(levels) + len(found) * len(denoised)
            yield Progress(calls, total, kept, denoised)
        sums = sums + sum(_differences(torch.stack(path)) for path in zip(*found))
    yield Progress(total, total, {"sum": sums, "parts": torch.tensor(rounds * parts)})


def ve_model(model: Callable, process: Process, items) -> Callable:
    """The model for these items, as D of VE states and levels."""
    model = of_items(model, items)
    return (lambda x, sigma: model(x / (1.0 + sigma), sigma / (1.0 + sigma))) if process is FLOW else model


def _path(model: Callable, data: Tensor, levels: list[float], seeds: list[int]) -> Iterator[Tensor]:
    """D at each level on the way up, of states that gain noise."""
    generators, x, before = [torch.Generator().manual_seed(seed) for seed in seeds], data, 0.0
    for level in levels:
        noise = torch.stack([torch.randn(data.shape[1:], generator=generator) for generator in generators])
        x, before = x + math.sqrt(level ** 2 - before ** 2) * noise.to(x), level
        yield model(x, level)


def _differences(path: Tensor) -> Tensor:
    """|D_i - D_j|^2 with the sign of i - j, of the predictions (G, ...) of one path."""
    flat, place = path.flatten(1).double(), torch.arange(len(path))
    products = flat @ flat.T
    squares = products.diagonal()
    return (squares[:, None] + squares - 2.0 * products) * (place[:, None] - place).sign()


class Bound:
    """KLUB of intervals from a Spread; `known` keeps what was asked, calls counts model calls on one picture."""

    def __init__(self, spread: Spread, *, solver: str, calls: int = 0):
        self.spread, self.solver, self.calls = spread, solver, calls
        self.known: dict[Interval, float] = {}

    def learn(self, intervals: list[Interval]) -> Iterator[Tensor]:
        """Puts intervals into `known`; gives the predictions of model calls, of which there are none."""
        if intervals:
            self.known.update(zip(intervals, self.spread.klub(intervals, self.solver).tolist()))
        return iter(())


class DrawnBound:
    """KLUB of intervals as published, each drawn anew from the model: places levels t in each, on all of data.

    The same noise goes into every interval, so that two differ by their levels alone; D at the top of an interval is
    kept for all that start there. Otherwise as Bound. Cost: places + 1 calls on all of data an interval.
    """

    def __init__(self, model: Callable, data: Tensor, *, places: int, c: float, solver: str, seed: int,
                 process: Process):
        self.model, self.data, self.c, self.solver = ve_model(model, process, slice(0, len(data))), data, c, solver
        self.seed, self.calls, self.tops = seed, 0, {}
        jitter = torch.rand(places, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.shares = (torch.arange(places) + jitter) / places
        self.known: dict[Interval, float] = {}

    def learn(self, intervals: list[Interval]) -> Iterator[Tensor]:
        for interval in sorted(intervals, key=lambda interval: interval[1]):
            before, u, _ = interval
            drawn, squares = draw(interval, self.shares, self.c), []
            extra = ahead(torch.tensor(before), torch.tensor(u), drawn.t).tolist()
            for i, t in enumerate(drawn.t.tolist()):
                taken = yield from self._top(u, u)
                if self.solver == "2m" and before > u:
                    taken = taken + extra[i] * (taken - (yield from self._top(before, u)))
                near = (t / u) ** 2  # x_t between x_0 and x_u
                x = self.data + near * u * self._noise(0) + t * math.sqrt(1.0 - near) * self._noise(2 + i)
                denoised = self._called(x, t)
                yield denoised
                squares.append((denoised - taken).flatten(1).double().square().sum(1).mean().item())
            self.known[interval] = (drawn.weight * torch.tensor(squares, dtype=torch.float64)).mean().item()

    def _top(self, level: float, u: float) -> Iterator[Tensor]:
        """D at `level`, u or above it on the path through x_u."""
        if (level, u) not in self.tops:
            x = self.data + u * self._noise(0) + math.sqrt(level ** 2 - u ** 2) * self._noise(1)
            self.tops = {place: denoised for place, denoised in self.tops.items() if place[1] == u}
            self.tops[level, u] = self._called(x, level)
            yield self.tops[level, u]
        return self.tops[level, u]

    def _called(self, x: Tensor, level: float) -> Tensor:
        self.calls += len(x)
        return self.model(x, level)

    def _noise(self, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * (number + 1))
        return torch.randn(self.data.shape, generator=generator).to(self.data)
