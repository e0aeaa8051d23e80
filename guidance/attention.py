"""Self-attention made worse on purpose, and guidance away from what it then predicts (PAG, SEG)."""
import math

import torch
from torch import Tensor
from torch.nn import functional

from .precision import in_float32

MODES = ("full", "partial")


def identity_attention(q: Tensor, k: Tensor, v: Tensor, *, attend, image: slice, grid: tuple[int, int]) -> Tensor:
    """Attention (B, N, C) whose map is the identity in the picture's rows: there every place gets its own value.

    q, k, v (B, N, C), heads side by side in C; attend(q, k, v) is the attention replaced; image: the rows that are
    the picture's, all others keep their attention; grid: rows and columns of the picture's places.
    Source: Ahn et al. 2024, arXiv 2403.17377, eq. 9.
    """
    if q.shape[1] == image.stop - image.start:
        return v
    rows = torch.zeros(q.shape[1], 1, dtype=torch.bool, device=q.device)
    rows[image] = True
    return torch.where(rows, v, attend(q, k, v))


def smoothed_attention(q: Tensor, k: Tensor, v: Tensor, *, attend, image: slice, grid: tuple[int, int],
                       blur: float = -1.0) -> Tensor:
    """Attention (B, N, C) with the picture's queries blurred over its grid, so that its logits are.

    blur: standard deviation in places, negative for infinite (the mean query everywhere), 0 for none. The kernel has
    ceil(6 blur) places (made odd), at most the grid's own; edges are mirrored. Queries that were turned by their
    places (rotary embeddings) are blurred as turned: it is the logits that the method smooths. Else as
    identity_attention. Source: Hong 2024, arXiv 2408.00760, eq. 12.
    """
    picture = q[:, image].float()
    if blur < 0.0:
        smooth = picture.mean(1, keepdim=True).expand_as(picture)
    else:
        smooth = _blurred(picture.transpose(1, 2).unflatten(2, grid), blur).flatten(2).transpose(1, 2)
    return attend(torch.cat([q[:, :image.start], smooth.to(q.dtype), q[:, image.stop:]], dim=1), k, v)


def _blurred(x: Tensor, std: float) -> Tensor:
    """x (B, C, h, w) blurred along both axes, edges mirrored."""
    for axis in (2, 3):
        size = math.ceil(6.0 * std)
        radius = min((size + 1 - size % 2) // 2, (x.shape[axis] - 1) // 2)
        if radius == 0:
            continue
        places = torch.arange(-radius, radius + 1, dtype=torch.float64)
        kernel = torch.exp(-0.5 * (places / std).square())
        kernel = (kernel / kernel.sum()).to(x)
        kernel, edges = kernel.reshape(1, 1, -1, 1), (0, 0, radius, radius)
        if axis == 3:
            kernel, edges = kernel.mT, (radius, radius, 0, 0)
        mirrored = functional.pad(x, edges, mode="reflect").flatten(0, 1)[:, None]
        x = functional.conv2d(mirrored, kernel).reshape(x.shape)
    return x


@in_float32
def away_from(denoised: Tensor, cond: Tensor, worse: Tensor, *, scale: float, rescale: float = 0.0,
              mode: str = "full") -> Tensor:
    """denoised + g, g = scale (cond - worse): guidance away from a worse prediction under the same prompt.

    All (B, C, ...). rescale in [0, 1] moves g to g std(cond) / std(denoised + g) ('full') or std(cond) / std(cond + g)
    ('partial'), standard deviations of each picture: it holds back what only adds contrast. scale = 0 is denoised.
    Source: Ahn et al. 2024, arXiv 2403.17377, eq. 8; rescale as in sd-perturbed-attention.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be 'full' or 'partial', got {mode!r}")
    push = scale * (cond - worse)
    if rescale:
        axes = tuple(range(1, cond.ndim))
        reached = (denoised if mode == "full" else cond) + push
        share = cond.std(axes, keepdim=True) / reached.std(axes, keepdim=True).clamp(min=1e-12)
        push = push * (rescale * share + 1.0 - rescale)
    return denoised + push


def adaptive_scale(scale: float, time: float, adaptive: float) -> float:
    """The scale at a model time in [0, 1] (1 = noise) that falls as the picture forms, down to 0.

    adaptive in [0, 1]: 0 keeps the scale, 1 lets it end at once. max(0, scale (1 - adaptive^4 1000 (1 - time))).
    Source: sd-perturbed-attention's adaptive scale (of CompVis timesteps, 1000 time).
    """
    return max(0.0, scale * (1.0 - adaptive ** 4 * 1000.0 * (1.0 - time)))
