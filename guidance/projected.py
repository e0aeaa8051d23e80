"""Guidance that damps the part of the guidance vector lying along the prediction (APG)."""
import torch
from torch import Tensor

from .precision import in_float32


@in_float32
def projected_guidance(cond: Tensor, uncond: Tensor, average: Tensor | None = None, *, scale: float,
                       eta: float = 0.0, norm_threshold: float = 15.0, momentum: float = -0.5,
                       threshold_unit: str = "norm", axes: str = "sample") -> tuple[Tensor, Tensor]:
    """The guided prediction, and the running average to hand back at the next step (None at the first).

    d = cond - uncond + momentum * average, shortened to norm_threshold where longer (0: never), then split along
    cond:  D = cond + (scale - 1) (d_orthogonal + eta d_parallel).
    cond, uncond: denoised (B, C, ...). axes: 'sample' sums over all but the batch, 'channel' over the places of
    each channel; batch entries never mix. threshold_unit: 'norm' is the length itself (15 suits SDXL at 1024 px),
    'rms' the root mean square, which does not grow with the picture (0.06 is the same there).
    eta = 1, norm_threshold = 0 and momentum = 0 give plain CFG; scale = 1 gives cond.
    Source: Sadat et al. 2024, arXiv 2410.02416, algorithm 1.
    """
    if threshold_unit not in ("norm", "rms"):
        raise ValueError(f"threshold_unit must be 'norm' or 'rms', got {threshold_unit!r}")
    if axes not in ("sample", "channel"):
        raise ValueError(f"axes must be 'sample' or 'channel', got {axes!r}")
    average = cond - uncond if average is None else cond - uncond + momentum * average
    dims = tuple(range(1 if axes == "sample" else 2, cond.ndim))
    guidance = average
    if norm_threshold > 0.0:
        length = guidance.square().mean(dims, keepdim=True).sqrt() if threshold_unit == "rms" else \
            torch.linalg.vector_norm(guidance, dim=dims, keepdim=True)
        guidance = guidance * (norm_threshold / length.clamp(min=norm_threshold))
    energy = cond.square().sum(dims, keepdim=True)
    along = (guidance * cond).sum(dims, keepdim=True) / torch.where(energy > 0.0, energy, 1.0)
    parallel = along * cond
    return cond + (scale - 1.0) * (guidance - parallel + eta * parallel), average
