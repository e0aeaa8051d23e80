"""CFG rescale: the guided prediction brought back to the spread of the conditional one."""
import torch
from torch import Tensor

from ..samplers.process import FLOW, VE, Process
from .precision import in_float32

SPACES = ("auto", "v", "eps", "velocity", "x0")


@in_float32
def rescaled_guidance(cond: Tensor, uncond: Tensor, x: Tensor, sigma: Tensor, *, scale: float, phi: float = 0.7,
                      space: str = "auto", per_channel: bool = False, mask: Tensor | None = None,
                      process: Process = VE) -> Tensor:
    """p = phi std(p_c) / std(p_cfg) p_cfg + (1 - phi) p_cfg, back as a denoised prediction.

    cond, uncond: denoised (B, C, ...) of the state x at sigma (B,). p: the same predictions in `space`, 'v' as of
    variance-preserving models, 'eps' the noise, 'velocity' (x - D) / sigma, 'x0' as they are; 'auto' is v, on flows
    the velocity. std: unbiased, over all but the batch, with per_channel over places only, where mask (B or 1, C or 1,
    ...) is above 0.5. phi = 0 is plain CFG to the bit; scale = 1 gives cond.
    Source: Lin et al. 2023, arXiv 2305.08891, eq. 15 and 16.
    """
    guided = uncond + scale * (cond - uncond)
    offset, known = _offset(space, sigma.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype), process)
    dims = tuple(range(2 if per_channel else 1, x.ndim))
    wanted, got = (_std(prediction + offset * x, dims, mask) for prediction in (cond, guided))
    ratio = torch.where(known & (got > 0.0), wanted / torch.where(got > 0.0, got, 1.0), 1.0)
    factor = phi * (ratio - 1.0) + 1.0
    return factor * guided + (factor - 1.0) * offset * x


def _offset(space: str, sigma: Tensor, process: Process) -> tuple[Tensor, Tensor]:
    """(r, where it is known): a prediction in that space is a multiple of D + r x."""
    if space not in SPACES:
        raise ValueError(f"space must be one of {', '.join(SPACES)}, got {space!r}")
    if space == "auto":
        space = "velocity" if process is FLOW else "v"
    alpha = 1.0 - sigma if process is FLOW else torch.ones_like(sigma)
    known = alpha > 1e-6  # the noise prediction of pure noise is that noise, whatever D
    if space == "eps":
        return torch.where(known, -1.0 / torch.where(known, alpha, 1.0), 0.0), known
    offset = {"x0": torch.zeros_like(sigma), "velocity": -torch.ones_like(sigma),
              "v": -alpha / (alpha.square() + sigma.square())}[space]
    return offset, torch.ones_like(known)


def _std(values: Tensor, dims: tuple[int, ...], mask: Tensor | None) -> Tensor:
    if mask is None:
        return values.std(dims, keepdim=True)
    inside = (mask > 0.5).to(values).expand_as(values)
    count = inside.sum(dims, keepdim=True)
    mean = (inside * values).sum(dims, keepdim=True) / count.clamp(min=1.0)
    square = (inside * (values - mean).square()).sum(dims, keepdim=True)
    return (square / (count - 1.0).clamp(min=1.0)).sqrt()
