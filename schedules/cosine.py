"""The cosine schedule of improved DDPM as noise levels."""
import math

from torch import Tensor

from ..samplers.process import VE, Process
from .forms import check_range, even, falling, of_ve, to_ve

RESCALES = ("model_range", "none")


def cosine_sigmas(steps: int = 10, rescale: str = "model_range", *, s: float = 0.008, t_max: float = 0.9946,
                  sigma_max: float, sigma_min: float, process: Process = VE) -> Tensor:
    """sigma = sqrt(1 / abar - 1) at even times t, abar = f(t) / f(0), f(t) = cos^2((t + s) / (1 + s) pi / 2):
    float64 (steps + 1,), the last 0.

    rescale: 'model_range' takes the times of sigma_max to sigma_min and adds 0, 'none' those from t_max to 0, where
    sigma is 0 (sigma_max and sigma_min have no effect). At s = 0 this is sigma = tan(pi t / 2), even steps in its
    arctangent: KL-optimal. Of a flow the level with the same SNR: its sigma = 1 is t = 1. t_max: below 1.
    Source: Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 17; t_max as in DPM-Solver's code.
    """
    if rescale not in RESCALES:
        raise ValueError(f"rescale must be one of {', '.join(RESCALES)}, got {rescale!r}")
    if not 0.0 <= s <= 1.0:
        raise ValueError(f"s must lie in [0, 1], got {s}; 0.008 is usual")
    if not 0.0 < t_max < 1.0:
        raise ValueError(f"t_max must lie between 0 and 1, got {t_max}; 0.9946 is usual")
    check_range(steps, sigma_max, sigma_min, process)
    if rescale == "none":
        levels = [of_ve(_sigma(t, s), process) for t in even(t_max, 0.0, steps + 1)[:-1]]
    else:
        first, last = (_time(to_ve(sigma, process), s) for sigma in (sigma_max, sigma_min))
        levels = [sigma_max, *(of_ve(_sigma(t, s), process) for t in even(first, last, steps)[1:])]
    return falling([*levels, 0.0])


def _sigma(t: float, s: float) -> float:
    """sqrt(f(0) / f(t) - 1) without the loss of a difference of nearly equal numbers."""
    start, now = s / (1.0 + s) * math.pi / 2.0, (t + s) / (1.0 + s) * math.pi / 2.0
    return math.sqrt(math.sin(now + start) * math.sin(now - start)) / math.cos(now)


def _time(sigma: float, s: float) -> float:
    """The time of a VE level, 1 of inf: f(t) = f(0) / (1 + sigma^2)."""
    start = s / (1.0 + s) * math.pi / 2.0
    return math.atan2(math.hypot(sigma, math.sin(start)), math.cos(start)) * 2.0 / math.pi * (1.0 + s) - s
