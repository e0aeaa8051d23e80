"""Levels spread as a density of the log-SNR: even steps through its quantiles."""
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..samplers.process import FLOW, VE, Process
from .forms import NEAR_NOISE, check_range, even, falling, of_ve, to_ve


class Density(NamedTuple):
    """place(z): the probability of more log-SNR than z, and value(t), its inverse; z = (L - mu) / width."""
    place: Callable[[float], float]
    value: Callable[[float], float]


def _laplace_value(t: float) -> float:
    return -math.log(2.0 * t) if t < 0.5 else math.log(2.0 * (1.0 - t)) if t < 1.0 else -math.inf


def _cosine_value(t: float) -> float:
    return -2.0 * math.log(math.tan(math.pi * t / 2.0)) if t < 1.0 else -math.inf


def _logistic_value(t: float) -> float:
    return math.log((1.0 - t) / t) if t < 1.0 else -math.inf


DENSITIES = {
    "laplace": Density(lambda z: 0.5 * math.exp(-z) if z > 0.0 else 1.0 - 0.5 * math.exp(z), _laplace_value),
    "cauchy": Density(lambda z: 0.5 - math.atan(z) / math.pi, lambda t: math.tan(math.pi * (0.5 - t))),
    "cosine_shifted": Density(lambda z: math.atan(math.exp(min(-z / 2.0, 700.0))) * 2.0 / math.pi, _cosine_value),
    "logistic": Density(lambda z: 1.0 / (1.0 + math.exp(min(z, 700.0))), _logistic_value),
    "normal": Density(lambda z: 0.5 * math.erfc(z / math.sqrt(2.0)),
                      lambda t: -float(torch.special.ndtri(torch.tensor(t, dtype=torch.float64)))),
}
DENSITIES["cosine_scaled"] = DENSITIES["cosine_shifted"]
NAMES = ("laplace", "cauchy", "cosine_shifted", "cosine_scaled", "logistic", "normal", "uniform")
UNITS = ("logsnr", "comfy_log_sigma")
ENDS = ("truncate", "clamp")


def log_snr_density_sigmas(steps: int = 10, density: str = "laplace", *, mu: float = 0.0, width: float = 2.0,
                           units: str = "logsnr", ends: str = "truncate", append_zero: bool = True,
                           sigma_max: float, sigma_min: float, process: Process = VE) -> Tensor:
    """Levels at even quantiles of a density of L = log SNR = 2 log(alpha / sigma), then 0: float64 (steps + 1,).

    With z = (L - mu) / width: 'laplace' exp(-|z|), 'cauchy' 1 / (1 + z^2), 'cosine_scaled' sech(z / 2), 'logistic'
    sech(z / 2)^2, 'normal' exp(-z^2 / 2); 'cosine_shifted' sech((L - mu) / 2); 'uniform' is even in L.
    units: mu and width of L, or of log sigma_VE = -L / 2 ('comfy_log_sigma').
    ends: 'truncate' keeps the part of the density between the two levels and hits both; 'clamp' spreads all of it and
    drops what falls outside but for one level at each end, which leaves fewer steps. append_zero = False ends at
    sigma_min after as many steps. A flow's sigma_max = 1 is reached from 0.999 where the density has no end there.
    Raises ValueError where the density has less than 1e-9 of itself in the range.
    Source: Hang et al. 2024, arXiv 2407.03297 (its densities are for training; its Laplace of width 0.5
    is too narrow to sample with).
    """
    check_range(steps, sigma_max, sigma_min, process)
    for value, name, known in ((density, "density", NAMES), (units, "units", UNITS), (ends, "ends", ENDS)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    if width <= 0.0:
        raise ValueError(f"width must be above 0, got {width}")
    if units == "comfy_log_sigma":
        mu, width = -2.0 * mu, 2.0 * width
    count = steps if append_zero else steps + 1
    if density == "uniform":
        sigmas = _uniform(count, sigma_max, sigma_min, process)
    else:
        scale = 1.0 if density == "cosine_shifted" else width
        places = _places(DENSITIES[density], count, ends, [(_log_snr(sigma, process) - mu) / scale
                                                          for sigma in (sigma_max, sigma_min)])
        found = [mu + scale * DENSITIES[density].value(t) if t > 0.0 else math.inf for t in places]
        sigmas = [min(max(_level(log_snr, process), sigma_min), sigma_max) for log_snr in found]
        if ends == "truncate":
            sigmas[0], sigmas[-1] = sigma_max, sigma_min if count > 1 else sigma_max
    return falling([*sigmas, 0.0] if append_zero else sigmas)


def _log_snr(sigma: float, process: Process) -> float:
    return -2.0 * math.log(to_ve(sigma, process))


def _level(log_snr: float, process: Process) -> float:
    return of_ve(math.exp(min(-log_snr / 2.0, 700.0)), process)


def _uniform(count: int, sigma_max: float, sigma_min: float, process: Process) -> list[float]:
    top = min(sigma_max, NEAR_NOISE) if process is FLOW else sigma_max
    inner = even(_log_snr(top, process), _log_snr(sigma_min, process), count)
    return [sigma_max, *(_level(log_snr, process) for log_snr in inner[1:-1]), *[sigma_min] * (count > 1)]


def _places(density: Density, count: int, ends: str, limits: list[float]) -> list[float]:
    """Even places t in (0, 1): from 1 to 0, or between those of the range's ends."""
    if ends == "clamp":
        return even(1.0, 0.0, count)
    first, last = (density.place(z) for z in limits)
    if first - last < 1e-9:
        raise ValueError(f"the density has only {first - last:.2g} of itself between these levels; move mu into the "
                         "range, or raise width")
    return even(first, last, count)
