"""Schedules for reflowed models, whose paths are nearly straight but at their ends."""
import math

from torch import Tensor

from ..samplers.process import FLOW, Process
from .forms import check_top, falling
from .power import power_sigmas

KINDS = ("sigmoid", "u_shape", "uniform", "edm")


def reflow_sigmas(steps: int = 8, kind: str = "sigmoid", *, kappa: float = 10.0, a: float = 4.0,
                  sigma_max: float, sigma_min: float, process: Process = FLOW) -> Tensor:
    """Levels 1 - t of flow times t_0 = 0 to t_steps = 1, or an EDM schedule in flow form: float64 (steps + 1,).

    'sigmoid': t_i = (g(kappa (i / N - 1/2)) - g(-kappa / 2)) / (g(kappa / 2) - g(-kappa / 2)), g the logistic
    function; 'u_shape': even quantiles of the density exp(a t) + exp(a (1 - t)). Both are dense at both ends, even at
    kappa = 0 or a = 0, and have t_i + t_(N-i) = 1. 'uniform': even. 'edm': VE levels 80 to 0.002 at rho 7, as
    sigma / (1 + sigma), then 0.
    kappa or a above 30 makes levels that float32 cannot tell apart: they are dropped.
    sigma_max < 1 squeezes the times into [0, sigma_max]. On a VE model the levels are those with the same SNR, from its
    sigma_max; 'edm' then runs from 80 to 0.002 or the model's own ends (sigma_min has no other effect).
    Source: Kim et al. 2024, arXiv 2410.07815 (sigmoid); the training density of Lee et al. 2024, arXiv 2405.20320
    (u_shape); Karras et al. 2022, arXiv 2206.00364 (edm).
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if kappa < 0.0 or a < 0.0:
        raise ValueError(f"kappa and a must be at least 0, got {kappa} and {a}")
    check_top(sigma_max, process)
    if kind == "edm":
        flow = process is FLOW
        top, low = (80.0, 0.002) if flow else (min(sigma_max, 80.0), max(sigma_min, 0.002))
        shape = 1.0 / (1.0 + 1.0 / power_sigmas(steps, top, low)) if flow else power_sigmas(steps, top, low)
        return shape * sigma_max if flow else shape
    times = [_time(i / steps, kind, kappa, a) for i in range(steps + 1)]
    return falling(from_flow_time([1.0 - t for t in times], sigma_max, process))


def _time(place: float, kind: str, kappa: float, a: float) -> float:
    """t of a place in [0, 1]; written so that t(place) + t(1 - place) = 1 to rounding."""
    off = place - 0.5
    if kind == "sigmoid" and kappa > 0.0:
        return 0.5 + math.tanh(kappa * off / 2.0) / (2.0 * math.tanh(kappa / 4.0))
    if kind == "u_shape" and a > 0.0:
        return 0.5 + math.asinh(2.0 * off * math.sinh(a / 2.0)) / a
    return place


def from_flow_time(places: list[float], sigma_max: float, process: Process) -> list[float]:
    """Levels at shares 1 to 0 of the flow time of sigma_max, in the form of `process`: the first is sigma_max."""
    if process is FLOW:
        return [sigma_max * place for place in places]
    top = 1.0 / (1.0 + 1.0 / sigma_max)
    return [sigma_max if place == 1.0 else top * place / (1.0 - top * place) for place in places]
