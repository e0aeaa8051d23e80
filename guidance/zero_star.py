"""CFG-Zero*: the unconditional velocity is scaled to fit the conditional one, and the first steps stand still."""
from torch import Tensor

from .precision import in_float32


@in_float32
def zero_star_guidance(cond: Tensor, uncond: Tensor, x: Tensor, sigma: Tensor, *, scale: float) -> Tensor:
    """v = s v_u + scale (v_c - s v_u) with s = <v_c, v_u> / (|v_u|^2 + 1e-8), as a denoised prediction x - sigma v.

    cond, uncond: denoised (B, C, ...) of the state x at sigma (B,); v = (x - D) / sigma is a flow's velocity, of other
    models the noise, where this is a heuristic. Sums run over all but the batch. v_c = v_u gives plain CFG.
    Source: Fan et al. 2025, arXiv 2503.18886, eq. 9 and algorithm 1.
    """
    sigma = sigma.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)
    dims = tuple(range(1, x.ndim))
    v_cond, v_uncond = (x - cond) / sigma, (x - uncond) / sigma
    fitted = (v_cond * v_uncond).sum(dims, keepdim=True) / (v_uncond.square().sum(dims, keepdim=True) + 1e-8)
    return x - sigma * (fitted * v_uncond + scale * (v_cond - fitted * v_uncond))
