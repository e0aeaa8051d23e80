"""The schedulers of ComfyUI's menu, by their names: functions of a model's levels and the number of steps."""
import math

import torch
from torch import Tensor

from .beta import beta_sigmas
from .power import power_sigmas


def classic_sigmas(name: str, levels, steps: int, **options) -> Tensor:
    """float64 levels of scheduler `name` for a model: mostly steps + 1 of them, the last 0.

    levels: an object with sigmas (table, rising), sigma_min, sigma_max, timestep(sigma) and sigma(timestep).
    options: rho of karras, data_std of kl_optimal, threshold and linear_steps (0: half) of linear_quadratic.
    beta and ddim_uniform may give another number of steps: repeated levels are dropped, strides are whole.
    Source: ComfyUI 0.3.64; Karras et al. 2022 (karras), Lee et al. 2024, arXiv 2407.12173 (beta), Sabour et al.
    2024, appendix (kl_optimal), Mochi (linear_quadratic).
    """
    if name not in SCHEDULERS:
        raise ValueError(f"scheduler must be one of {', '.join(SCHEDULERS)}, got {name!r}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    return torch.tensor(SCHEDULERS[name](levels, steps, **options), dtype=torch.float64)


def _range(levels) -> tuple[float, float]:
    return float(levels.sigma_min), float(levels.sigma_max)


def _simple(levels, steps: int) -> list[float]:
    stride = len(levels.sigmas) / steps
    return [float(levels.sigmas[-(1 + int(i * stride))]) for i in range(steps)] + [0.0]


def _even_in_time(levels, steps: int, *, leave_out_end: bool) -> list[float]:
    first, last = levels.timestep(levels.sigma_max), levels.timestep(levels.sigma_min)
    ends_at_zero = math.isclose(float(levels.sigma(last)), 0.0, abs_tol=1e-5)
    count = steps + 1 if leave_out_end or ends_at_zero else steps
    places = torch.linspace(float(first), float(last), count)
    sigmas = [float(levels.sigma(place)) for place in places]
    if leave_out_end:
        return [*sigmas[:-1], 0.0]
    return sigmas if ends_at_zero else [*sigmas, 0.0]


def _normal(levels, steps: int) -> list[float]:
    return _even_in_time(levels, steps, leave_out_end=False)


def _sgm_uniform(levels, steps: int) -> list[float]:
    return _even_in_time(levels, steps, leave_out_end=True)


def _karras(levels, steps: int, rho: float = 7.0) -> list[float]:
    sigma_min, sigma_max = _range(levels)
    return power_sigmas(steps, sigma_max, sigma_min, rho).tolist()


def _exponential(levels, steps: int) -> list[float]:
    sigma_min, sigma_max = _range(levels)
    ratio = math.log(sigma_min / sigma_max) / max(steps - 1, 1)
    return [sigma_max * math.exp(i * ratio) for i in range(steps)] + [0.0]


def _kl_optimal(levels, steps: int, data_std: float = 1.0) -> list[float]:
    low, high = (math.atan(sigma / data_std) for sigma in _range(levels))
    return [data_std * math.tan(high + i / max(steps - 1, 1) * (low - high)) for i in range(steps)] + [0.0]


def _ddim_uniform(levels, steps: int) -> list[float]:
    table = levels.sigmas
    ends_at_zero = math.isclose(float(table[1]), 0.0, abs_tol=1e-5)
    stride = max(len(table) // (steps + ends_at_zero), 1)
    rising = [float(sigma) for sigma in table[1::stride]]
    return (rising if ends_at_zero else [0.0, *rising])[::-1]


def _beta(levels, steps: int) -> list[float]:
    return beta_sigmas(levels, steps).tolist()


def _linear_quadratic(levels, steps: int, threshold: float = 0.025, linear_steps: int = 0) -> list[float]:
    sigma_max = _range(levels)[1]
    linear = linear_steps or steps // 2
    if steps == 1:
        return [sigma_max, 0.0]
    if not 0 < linear < steps:
        raise ValueError(f"linear_steps must lie below the schedule's {steps} steps, got {linear_steps}; 0 is half")
    rest = steps - linear
    excess = linear - threshold * steps
    square, slope = excess / (linear * rest ** 2), threshold / linear - 2.0 * excess / rest ** 2
    done = [i * threshold / linear if i < linear else square * i ** 2 + slope * i + square * linear ** 2
            for i in range(steps)]
    return [(1.0 - value) * sigma_max for value in done] + [0.0]


SCHEDULERS = {"simple": _simple, "sgm_uniform": _sgm_uniform, "karras": _karras, "exponential": _exponential,
              "ddim_uniform": _ddim_uniform, "beta": _beta, "normal": _normal,
              "linear_quadratic": _linear_quadratic, "kl_optimal": _kl_optimal}
