"""Schedules and solvers for flows that are straight in each of several pieces."""
from collections.abc import Callable
from itertools import pairwise

from torch import Tensor

from ..samplers.linear import Step
from ..samplers.process import FLOW, Process
from .forms import check_top, falling
from .reflow import from_flow_time

INNER = ("linear", "karras", "log")


def segment_ends(segments: int = 4, *, sigma_max: float = 1.0, process: Process = FLOW) -> list[float]:
    """The segments + 1 levels from sigma_max to 0, even in flow time, that straightened segments lie between."""
    if segments < 1:
        raise ValueError(f"segments must be at least 1, got {segments}")
    check_top(sigma_max, process)
    return from_flow_time([1.0 - i / segments for i in range(segments + 1)], sigma_max, process)


def segmented_sigmas(segments: int = 4, substeps: int = 1, inner: str = "linear", *, sigma_max: float,
                     sigma_min: float, process: Process = FLOW) -> Tensor:
    """`substeps` steps in each of `segments` pieces that are even in flow time: float64 (segments substeps + 1,).

    inner: how a piece is divided: 'linear' evenly in sigma, 'karras' in sigma^(1/7), 'log' in log sigma, in the last
    piece down to sigma_min and then 0.
    Source: Yoon and Lee 2024, arXiv 2402.06461 (the pieces; one Euler step each samples its models).
    """
    if substeps < 1:
        raise ValueError(f"substeps must be at least 1, got {substeps}")
    if inner not in INNER:
        raise ValueError(f"inner must be one of {', '.join(INNER)}, got {inner!r}")
    ends = segment_ends(segments, sigma_max=sigma_max, process=process)
    if inner == "log" and not 0.0 < sigma_min < ends[-2]:
        raise ValueError(f"sigma_min must lie between 0 and the last piece's {ends[-2]:g}, got {sigma_min}")
    levels = ends[:1]
    for high, low in pairwise(ends):
        levels += [_between(high, low, k, substeps, inner=inner, floor=sigma_min) for k in range(1, substeps)] + [low]
    return falling(levels)


def _between(high: float, low: float, k: int, count: int, *, inner: str, floor: float) -> float:
    """Level k of count between the ends of a piece."""
    if inner == "log":
        low, count = (low, count) if low > 0.0 else (floor, count - 1)
        return high * (low / high) ** (k / count)
    rho = 7.0 if inner == "karras" else 1.0
    return (high ** (1.0 / rho) + k / count * (low ** (1.0 / rho) - high ** (1.0 / rho))) ** rho


def restart_history(plan: Callable[[list[float]], list[Step]], sigmas: list[float], *, at: list[float],
                    process: Process = FLOW) -> list[Step]:
    """The steps of plan(sigmas), planned anew from the first level at or below each level in `at`.

    No step reads a prediction from before its restart: each piece starts with the solver's own first steps, as a run of
    its own from there would. NFE: those of the pieces.
    Source: Yoon and Lee 2024, arXiv 2402.06461: past a segment's end its velocity says nothing of the next one's.
    """
    process.lams(sigmas)
    places = {next((i for i, sigma in enumerate(sigmas) if sigma <= level * (1.0 + 1e-6)), 0) for level in at}
    cuts = sorted(place for place in places | {0, len(sigmas) - 1} if place < len(sigmas))
    return [step for first, last in pairwise(cuts) for step in plan(sigmas[first:last + 1])]
