"""Levels that a network is told in place of the ones a run integrates over."""
import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor


def told_levels(sigmas: list[float], cond_sigmas: list[float]) -> Callable[[Tensor], Tensor]:
    """told(sigma, any shape) -> the level that the network is told there.

    At sigmas[i] it is cond_sigmas[i]; between two levels the ratio of told to true goes along a straight line in
    log sigma, and beyond the ends it stays. Where both lists agree the result is sigma itself, to the bit. A 0 at the
    end of sigmas is no level that a model is asked at, and what cond_sigmas has there is left out.
    sigmas: strictly decreasing; cond_sigmas: as many, above 0, in any order.
    """
    if len(sigmas) != len(cond_sigmas):
        raise ValueError(f"need a conditioning sigma for each of the {len(sigmas)} sigmas, got {len(cond_sigmas)}; "
                         "make both of the same number of steps")
    if not all(math.isfinite(sigma) for sigma in (*sigmas, *cond_sigmas)):
        raise ValueError("sigmas and conditioning sigmas must be finite; rebuild the schedule")
    if len(sigmas) < 2 or sigmas[-1] < 0.0 or any(following >= sigma for sigma, following in pairwise(sigmas)):
        raise ValueError("need at least 2 strictly decreasing sigmas, none below 0; sort them and drop repeats")
    pairs = [(sigma, cond) for sigma, cond in zip(sigmas, cond_sigmas) if sigma > 0.0]
    if any(cond <= 0.0 for _, cond in pairs):
        raise ValueError("conditioning sigmas must be above 0 wherever sigmas are; give the last one a small level too")
    true, told = (torch.tensor(values, dtype=torch.float64) for values in zip(*reversed(pairs)))
    logs, shifts = true.log(), (told / true).log()

    def told_at(sigma: Tensor) -> Tensor:
        if len(logs) == 1:
            return sigma * shifts.to(sigma).exp()
        table, shift, value = logs.to(sigma), shifts.to(sigma), sigma.log()
        high = torch.searchsorted(table, value.contiguous()).clamp(1, len(table) - 1)
        part = ((value - table[high - 1]) / (table[high] - table[high - 1])).clamp(0.0, 1.0)
        return sigma * torch.lerp(shift[high - 1], shift[high], part).exp()

    return told_at


def state_scale(sigma: Tensor, told: Tensor) -> Tensor:
    """What a VE state at sigma is multiplied by to be one of level `told` with the same scaled state
    x / sqrt(1 + sigma^2): networks in that scaling (SD, SDXL) then see the state unchanged."""
    return ((1.0 + told.square()) / (1.0 + sigma.square())).sqrt()
