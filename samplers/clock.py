"""The model's own time: the two-way map of noise levels that some methods interpolate or halve steps in."""
import bisect
import math
from collections.abc import Callable
from typing import NamedTuple


class Clock(NamedTuple):
    """time_of(sigma) and sigma_of(time), both increasing and inverse to one another within the model's levels."""
    time_of: Callable[[float], float]
    sigma_of: Callable[[float], float]


def clock_of_table(sigmas: list[float]) -> Clock:
    """Times 0, 1, ... of a rising table, read between its points by straight lines in log sigma and outside them by
    going on from the last pair."""
    logs = [math.log(sigma) for sigma in sigmas]

    def time_of(sigma: float) -> float:
        value = math.log(sigma)
        low = min(max(bisect.bisect_right(logs, value) - 1, 0), len(logs) - 2)
        return low + (value - logs[low]) / (logs[low + 1] - logs[low])

    def sigma_of(time: float) -> float:
        low = min(max(math.floor(time), 0), len(logs) - 2)
        return math.exp(logs[low] + (time - low) * (logs[low + 1] - logs[low]))

    return Clock(time_of, sigma_of)


def linear_vp_clock(beta_0: float = 0.1, beta_1: float = 20.0) -> Clock:
    """Times of the SDE whose noise rate grows from beta_0 to beta_1 over t in [0, 1]; sigma in the VE form.

    Source: Song et al. 2021, arXiv 2011.13456, appendix B.
    """
    slope = beta_1 - beta_0

    def time_of(sigma: float) -> float:
        spent = math.log1p(sigma * sigma)  # -log alpha_bar
        return 2.0 * spent / (beta_0 + math.sqrt(beta_0 * beta_0 + 2.0 * slope * spent))

    def sigma_of(time: float) -> float:
        return math.sqrt(math.expm1((slope * time / 2.0 + beta_0) * time))

    return Clock(time_of, sigma_of)


FLOW_CLOCK = Clock(lambda sigma: sigma, lambda time: time)
