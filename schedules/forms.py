"""What the schedule families share: a level in its two forms, the range they span, and lists without repeats."""
import math

import torch
from torch import Tensor

from ..samplers.process import FLOW, VE, Process

NEAR_NOISE = 0.999  # a flow's sigma = 1 is infinitely far in log-SNR; what counts in it starts here instead


def to_ve(sigma: float, process: Process) -> float:
    """The VE level with the SNR that sigma has in `process`; a flow's 1 gives inf."""
    if process is not FLOW:
        return sigma
    return sigma / (1.0 - sigma) if sigma < 1.0 else math.inf


def of_ve(sigma: float, process: Process) -> float:
    """The level of `process` with the SNR of a VE level: to_ve turned around."""
    if process is not FLOW:
        return sigma
    return 1.0 / (1.0 + 1.0 / sigma) if sigma > 0.0 else 0.0


def check_range(steps: int, sigma_max: float, sigma_min: float, process: Process = VE) -> None:
    """ValueError unless steps >= 1 and 0 < sigma_min < sigma_max, within the process."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not 0.0 < sigma_min < sigma_max:
        raise ValueError(f"need 0 < sigma_min < sigma_max, got {sigma_min:g} and {sigma_max:g}; swap or spread them")
    check_top(sigma_max, process)


def check_top(sigma_max: float, process: Process) -> None:
    """ValueError unless sigma_max lies within the process."""
    if not 0.0 < sigma_max <= process.sigma_limit * (1.0 + 1e-6):
        raise ValueError(f"sigma_max must lie above 0 and, on {process.name} models, at or below "
                         f"{process.sigma_limit:g}, got {sigma_max:g}")


def even(first: float, last: float, count: int) -> list[float]:
    """`count` numbers evenly from first to last, both exact; one number is first."""
    return torch.linspace(first, last, count, dtype=torch.float64).tolist()


def falling(sigmas: list[float]) -> Tensor:
    """float64 levels without those that float32 cannot tell from the one before; ValueError where they rise."""
    seen = torch.tensor(sigmas, dtype=torch.float32).tolist()
    kept = []
    for i, sigma in enumerate(sigmas):
        if not math.isfinite(sigma) or i and seen[i] > seen[i - 1] * (1.0 + 1e-6):
            raise ValueError(f"these options give levels that do not fall: level {i} is {sigma:.6g}; go back towards "
                             "their defaults")
        if not i or seen[i] < seen[i - 1]:
            kept.append(sigma)
    return torch.tensor(kept, dtype=torch.float64)
