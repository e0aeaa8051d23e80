"""Pictures of a batch that push one another apart (particle guidance)."""
import math

import torch
from torch import Tensor

from .precision import in_float32

KERNELS = ("latent", "x0")


@in_float32
def repulsion(features: Tensor) -> Tensor:
    """The push (N, ...) on each of N particles away from the others: r_i = sum_j 2 k_ij (z_i - z_j) / h_i.

    k_ij = exp(-d_ij^2 / h_i), d_ij the distance of two particles, h_i = median_j(d_ij)^2 / log(N - 1) over the others
    (log 2 for two particles). One particle alone has r = 0, and so have equal ones; one that is not finite pushes none
    and is not pushed.
    Source: Corso et al. 2023, arXiv 2310.13102, eq. 4; bandwidth as in Zilberstein et al. 2024, arXiv 2406.16683.
    """
    count = len(features)
    if count < 2:
        return torch.zeros_like(features)
    flat = features.flatten(1)
    difference = flat[:, None] - flat[None, :]
    distance = difference.norm(dim=-1)
    others = distance[~torch.eye(count, dtype=torch.bool, device=flat.device)].reshape(count, count - 1)
    width = others.nanmedian(dim=1).values.square() / math.log(max(count, 3) - 1) + 1e-12
    kernel = torch.exp(-distance.square() / width[:, None])
    pushes = 2.0 * (kernel / width[:, None])[:, :, None] * difference
    return pushes.where((distance + width[:, None]).isfinite()[:, :, None], 0.0).sum(1).reshape(features.shape)


def repelled(denoised: Tensor, x: Tensor, sigma: float, *, alpha: float = 1.0, coeff: float = 1.0,
             kernel: str = "latent") -> Tensor:
    """denoised (N, ...) with the score of the batch's repulsion added: D_i + coeff sigma^2 / alpha r_i.

    x = alpha x_0 + sigma eps: the state. kernel: distances of the states ('latent') or of the predictions ('x0').
    At alpha = 0 (pure noise) there is nothing to tell apart yet: denoised itself. coeff = 0 is denoised.
    Source: Corso et al. 2023, arXiv 2310.13102, eq. 3, fixed potential.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel must be 'latent' or 'x0', got {kernel!r}")
    if coeff == 0.0 or alpha == 0.0:
        return denoised
    return denoised + coeff * sigma * sigma / alpha * repulsion(x if kernel == "latent" else denoised)
