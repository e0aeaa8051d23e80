"""Frequency-decoupled guidance: another CFG for coarse and for fine structure."""
import torch
from torch import Tensor
from torch.nn import functional

from .precision import in_float32


@in_float32
def frequency_guidance(cond: Tensor, uncond: Tensor, *, scales: list[float],
                       parallel: list[float] | None = None) -> Tensor:
    """Guided level by level of a Laplacian pyramid: u + w (eta d_parallel + d_orthogonal), d = c - u.

    cond, uncond: denoised (B, C, ..., H, W). scales: w from the finest level to the coarsest, one for each level;
    parallel: eta of each level, the share kept of the part along c, None for 1. Equal scales are plain CFG; a side that
    is no multiple of 2^(levels - 1) is padded with its border.
    Source: Sadat et al. 2025, arXiv 2506.19713, algorithm 1, with the pyramid of Burt & Adelson 1983.
    """
    kept = parallel or [1.0] * len(scales)
    if len(scales) < 1 or len(kept) != len(scales):
        raise ValueError(f"need a scale and a parallel share for each level, got {len(scales)} and {len(kept)}")
    if cond.ndim < 4:
        raise ValueError("frequencies are told apart in pictures and videos, got latents of shape "
                         f"{tuple(cond.shape)}; take APG or CFG rescale for sound")
    smallest = 3 * 2 ** (len(scales) - 2) if len(scales) > 1 else 1
    if min(cond.shape[-2:]) < smallest:
        raise ValueError(f"{len(scales)} levels need latents of at least {smallest} places a side, got "
                         f"{tuple(cond.shape[-2:])}; take fewer levels")
    if set(scales) == {scales[0]} and set(kept) == {1.0}:
        return uncond + scales[0] * (cond - uncond)
    planes = [value.flatten(1, -3) if value.ndim > 4 else value for value in (cond, uncond)]  # frames by themselves
    levels = [*zip(*(_pyramid(value, len(scales)) for value in planes), scales, kept)]
    picture = None
    for c, u, scale, share in reversed(levels):
        guided = u + scale * _kept(c - u, c, share)
        picture = guided if picture is None else _up(picture) + guided
    return picture[..., :cond.shape[-2], :cond.shape[-1]].reshape(cond.shape)


def _kept(d: Tensor, along: Tensor, share: float) -> Tensor:
    """d with `share` of its part along a picture, sums over all but the batch."""
    if share == 1.0:
        return d
    energy = along.square().sum((1, 2, 3), keepdim=True)
    parallel = (d * along).sum((1, 2, 3), keepdim=True) / torch.where(energy > 0.0, energy, 1.0) * along
    return d - parallel + share * parallel


def _pyramid(picture: Tensor, levels: int) -> list[Tensor]:
    """What each level (B, C, h, w) adds to the next coarser one, finest first; the last is what is left."""
    unit = 2 ** (levels - 1)
    rest = functional.pad(picture, (0, -picture.shape[-1] % unit, 0, -picture.shape[-2] % unit), mode="replicate")
    found = []
    for _ in range(levels - 1):
        smaller = functional.interpolate(_blur(rest), scale_factor=0.5, mode="bilinear")
        found.append(rest - _up(smaller))
        rest = smaller
    return [*found, rest]


def _up(picture: Tensor) -> Tensor:
    return _blur(functional.interpolate(picture, scale_factor=2.0, mode="bilinear"))


def _blur(picture: Tensor) -> Tensor:
    """Binomial 5 x 5, borders mirrored."""
    weights = picture.new_tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16.0
    channels = picture.shape[1]
    kernel = (weights[:, None] * weights).expand(channels, 1, 5, 5)
    return functional.conv2d(functional.pad(picture, (2, 2, 2, 2), mode="reflect"), kernel, groups=channels)
