"""How noise enters the state: x = alpha(sigma) * x_0 + sigma * eps."""
import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple


class Process(NamedTuple):
    """A noising process. alpha(sigma) scales the picture; sigma_limit is the largest level it knows."""
    name: str
    alpha: Callable[[float], float]
    sigma_limit: float
    sigma: Callable[[float], float]  # the level of a finite lambda

    def lams(self, sigmas: list[float]) -> list[float]:
        """log(alpha / sigma) of each level, half the log-SNR: -inf where alpha = 0, +inf where sigma = 0.

        sigmas: at least two, strictly decreasing, within [0, sigma_limit]; anything else is a ValueError.
        """
        if len(sigmas) < 2:
            raise ValueError(f"a schedule needs at least 2 sigmas (1 step), got {len(sigmas)}; "
                             "raise steps, or check what cut the schedule")
        if not all(math.isfinite(sigma) for sigma in sigmas):
            raise ValueError(f"sigmas must be finite, got {_short(sigmas)}; rebuild the schedule")
        if any(nxt >= sigma for sigma, nxt in pairwise(sigmas)):
            raise ValueError(f"sigmas must strictly decrease, got {_short(sigmas)}; sort them, drop repeats, "
                             "or use a sampler made for inversion")
        if sigmas[-1] < 0.0 or sigmas[0] > self.sigma_limit * (1.0 + 1e-6):  # float32 schedules may round up
            raise ValueError(f"{self.name} sigmas must lie in [0, {self.sigma_limit:g}], got {sigmas[0]:g} to "
                             f"{sigmas[-1]:g}; use a schedule made for this model")
        return [_log_ratio(self.alpha(sigma), sigma) for sigma in sigmas]


def _log_ratio(alpha: float, sigma: float) -> float:
    if alpha == 0.0:
        return -math.inf
    return math.inf if sigma == 0.0 else math.log(alpha / sigma)


def _short(sigmas: list[float]) -> str:
    shown = ", ".join(f"{sigma:.4g}" for sigma in sigmas[:8])
    return f"[{shown}{', ...' if len(sigmas) > 8 else ''}]"


VE = Process("VE", lambda sigma: 1.0, math.inf, lambda lam: math.exp(-lam))
FLOW = Process("flow", lambda sigma: max(0.0, 1.0 - sigma), 1.0, lambda lam: 1.0 / (1.0 + math.exp(lam)))


class Clipped(Process):
    """The same process, whose first lambda is no lower than at a flow's sigma 0.9999, or 1 before the second."""

    def lams(self, sigmas: list[float]) -> list[float]:
        first, *rest = super().lams(sigmas)
        return [max(first, min(math.log(1e-4 / 0.9999), rest[0] - 1.0)), *rest]


CLIPPED = Clipped(*FLOW)
LAMBDA_MODES = ("log_snr", "log_sigma", "log_snr_clipped")


def counted_in(process: Process, sigmas: list[float], lambda_mode: str) -> Process:
    """The process whose lambda an integrator without noise may count in on a model of `process`.

    'log_snr' is its own. 'log_sigma' takes VE's -log sigma on flow models too: v = (x - D) / sigma makes their equation
    the same one, with a lambda that is finite at sigma = 1. 'log_snr_clipped' takes log-SNR at 0.9999 for a first level
    above it, as ComfyUI and diffusers do, so that it is finite too: the first prediction then counts, from far behind.
    """
    if lambda_mode not in LAMBDA_MODES:
        raise ValueError(f"lambda_mode must be one of {', '.join(LAMBDA_MODES)}, got {lambda_mode!r}")
    process.lams(sigmas)  # its own limits hold in both
    if lambda_mode == "log_snr_clipped" and process is FLOW:
        return CLIPPED
    return VE if lambda_mode == "log_sigma" else process
