"""LD3's numbers: levels that stay in order whatever the numbers are, and the levels that the network is told."""
import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ...samplers.clock import Clock
from ...samplers.process import FLOW, VE, Process
from ..conditioning import state_scale

MODES = ("lambda", "time")
DECOUPLED = ("label_only", "whole_denoiser", "off")
SMALLEST_SHARE = 1e-3  # of the whole way, that a step may have to be read back from a schedule
HIGHEST = 0.9995  # stands for a flow's sigma = 1, infinitely far in lambda


class Numbers(NamedTuple):
    """What is learned, (N + 1,) float64 each: p the logs of the steps, q how far off the level is that the network is
    told, in units of lambda or of the time."""
    p: Tensor
    q: Tensor


class Discretization(NamedTuple):
    """Which levels numbers stand for: N steps from `start` to `end`, even in lambda or in time where all p are equal.

    ends_at_zero: the run takes its last step to 0 instead of to `end`, so that the last level above 0 is free too.
    clock: what 'time' counts in, sigma itself without one. faithful: the offset q in lambda mode is bounded by half the
    least difference of neighbouring p, as in the authors' code, and not of neighbouring lambda.
    """
    start: float
    end: float
    ends_at_zero: bool
    mode: str = "lambda"
    process: Process = VE
    clock: Clock | None = None
    faithful: bool = False

    def sigmas(self, numbers: Numbers) -> tuple[Tensor, Tensor]:
        """(levels, levels told to the network), (N + 1,) float64 each, differentiable in the numbers."""
        first, last = self._time_of(self.start), self._time_of(self.end)
        times = first + _shares(numbers.p, falling=self.mode == "time") * (last - first)
        reach = 0.5 * (numbers.p if self.faithful and self.mode == "lambda" else times).detach().diff().abs().min()
        told = times + numbers.q.clamp(-reach, reach)
        return self._levels(times), self._levels(told)

    def even(self, steps: int) -> Numbers:
        """Even steps in lambda or time, nothing off."""
        return Numbers(torch.ones(steps + 1, dtype=torch.float64), torch.zeros(steps + 1, dtype=torch.float64))

    def matching(self, sigmas: list[float]) -> Numbers:
        """Numbers that stand for given levels, steps below SMALLEST_SHARE of the way lengthened to it."""
        times = [self._time_of(sigma) for sigma in [*sigmas[:-1], self.end]]
        whole = times[-1] - times[0]
        steps = [max((after - before) / whole, SMALLEST_SHARE) for before, after in pairwise(times)]
        logs = torch.tensor(steps[::-1] if self.mode == "time" else steps, dtype=torch.float64).log()
        logs = logs - logs.mean() + 1.0
        return Numbers(torch.cat([logs.new_ones(1), logs]), torch.zeros(len(sigmas), dtype=torch.float64))

    def _levels(self, times: Tensor) -> Tensor:
        """Levels of the times between the two ends, which are what they are."""
        inner = through(self._sigma_of, times[1:-1])
        ends = [torch.tensor([sigma], dtype=torch.float64)
                for sigma in (self.start, 0.0 if self.ends_at_zero else self.end)]
        return torch.cat([ends[0], inner, ends[1]])

    def _time_of(self, sigma: float) -> float:
        if self.mode == "time":
            return sigma if self.clock is None else self.clock.time_of(sigma)
        sigma = min(sigma, HIGHEST) if self.process is FLOW else sigma
        return math.log(self.process.alpha(sigma) / sigma)

    def _sigma_of(self, time: float) -> float:
        if self.mode == "time":
            return time if self.clock is None else self.clock.sigma_of(time)
        return self.process.sigma(time)


def discretization(sigmas: list[float], *, mode: str = MODES[0], sigma_min: float | None = None, process: Process = VE,
                   clock: Clock | None = None, faithful: bool = False) -> Discretization:
    """For schedules of as many steps with the same ends as `sigmas`.

    One that ends at 0 is learned as one that ends at sigma_min, the lowest level the model knows, and then takes its
    last step to 0; without a sigma_min half the last level above 0 is taken for it.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if len(sigmas) < 3:
        raise ValueError(f"need at least 2 steps, whose middle can move, got {len(sigmas) - 1}; raise steps")
    process.lams(sigmas)
    zero = sigmas[-1] == 0.0
    end = min(sigma_min or 0.5 * sigmas[-2], 0.999 * sigmas[-2]) if zero else sigmas[-1]
    return Discretization(sigmas[0], end, zero, mode, process, clock, faithful)


def decoupled(model: Callable, sigmas: Tensor, cond: Tensor, *, how: str, scaled: bool = False) -> Callable:
    """The model that is told cond[i] where it is asked at sigmas[i], and between two levels a level whose ratio to the
    true one goes along a straight line in log sigma; model(x, sigma: float or 0-dim tensor) -> D as before.

    how: 'label_only' tells the network another level and no more: model(x, sigma, told=tensor). 'whole_denoiser' asks
    for D(k x, told) instead, with k = state_scale where scaled (networks that see x / sqrt(1 + sigma^2)) and 1
    elsewhere. 'off' is the model itself. Where nothing is off the model is called as ever, to the bit. Gradients flow
    through both lists.
    """
    if how not in DECOUPLED:
        raise ValueError(f"decouple must be one of {', '.join(DECOUPLED)}, got {how!r}")
    if how == "off":
        return model

    def denoise(x: Tensor, sigma: float | Tensor) -> Tensor:
        level = torch.as_tensor(sigma, dtype=torch.float64)
        told = _told(level, sigmas, cond)
        if told == level and not torch.is_grad_enabled():
            return model(x, sigma)
        if how == "label_only":
            return model(x, sigma, told=told)
        return model(state_scale(level, told).to(x) * x if scaled else x, told)

    return denoise


def _told(level: Tensor, sigmas: Tensor, cond: Tensor) -> Tensor:
    above = int((sigmas > 0.0).sum())
    known = sigmas[:above].detach()
    near = int((known.log() - level.detach().log()).abs().argmin())
    if abs(known[near].item() / level.item() - 1.0) < 1e-9:
        return level * (cond[near] / sigmas[near])
    low = min(max(int((known > level.detach()).sum()), 1), above - 1)
    logs, shifts = (values[low - 1:low + 1].log() for values in (sigmas, cond))
    part = (level.log() - logs[0]) / (logs[1] - logs[0])
    return level * (torch.lerp(*(shifts - logs), part.clamp(0.0, 1.0))).exp()


def _shares(p: Tensor, *, falling: bool) -> Tensor:
    """Where levels lie on the way from the first to the last, 0 to 1: as published, differences of running sums of a
    softmax, from the low end up where falling (time) and from the high end down else (lambda)."""
    sums = p.softmax(0).cumsum(0)
    parts = (sums - sums[0]) / (sums[-1] - sums[0])
    return 1.0 - parts.flip(0) if falling else parts


def through(function: Callable[[float], float], times: Tensor) -> Tensor:
    """function of every time, with slopes by differences of fourth order."""
    found, slopes = [], []
    for time in times.tolist():
        reach = 1e-4 * max(abs(time), 1e-3)
        below, above = ((function(time + sign * reach), function(time + 2 * sign * reach)) for sign in (-1, 1))
        found.append(function(time))
        slopes.append((8.0 * (above[0] - below[0]) - (above[1] - below[1])) / (12.0 * reach))
    value, slope = (torch.tensor(numbers, dtype=torch.float64) for numbers in (found, slopes))
    return value + slope * (times - times.detach())
