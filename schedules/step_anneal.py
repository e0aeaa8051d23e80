"""DiSA: fewer steps for later pieces of a picture or video, which the earlier ones leave less open."""
import math

import torch
from torch import Tensor

from .interpolate import interpolated_sigmas

STRATEGIES = ("linear", "cosine", "two-stage", "constant")


def annealed_steps(segments: int = 8, index: int = 0, *, upper: int = 50, lower: int = 5,
                   strategy: str = "linear") -> int:
    """The steps of piece `index` of `segments` made one after another, from `upper` at the first to `lower`.

    'linear' and 'cosine' fall from the first piece to the last, 'two-stage' is `upper` for the first
    segments // 2, 'constant' is `lower` always. A single piece takes `upper`.
    Source: Zhao et al. 2025, arXiv 2505.20297; the authors' code.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, got {strategy!r}")
    if not 0 <= index < segments:
        raise ValueError(f"index must lie in 0 to {segments - 1} (segments - 1), got {index}")
    if not 1 <= lower <= upper:
        raise ValueError(f"need 1 <= lower <= upper, got {lower} and {upper}")
    if segments == 1:
        return upper
    last, range_ = segments - 1, upper - lower
    share = {"linear": (last - index) / last, "cosine": (math.cos(math.pi * index / last) + 1.0) / 2.0,
             "two-stage": float(index < last / 2.0), "constant": 0.0}[strategy]
    return lower + int(share * range_)


def step_anneal_sigmas(sigmas: list[float], segments: int = 8, index: int = 0, *, upper: int = 50, lower: int = 5,
                       strategy: str = "linear") -> Tensor:
    """The schedule `sigmas` read at annealed_steps(...) steps, see interpolated_sigmas: float64 (steps + 1,)."""
    steps = annealed_steps(segments, index, upper=upper, lower=lower, strategy=strategy)
    return torch.tensor(interpolated_sigmas(sigmas, steps), dtype=torch.float64)
