"""Ways between two latents."""
import torch
from torch import Tensor


def slerp(a: Tensor, b: Tensor, t: float, *, mode: str = "slerp_per_item") -> Tensor:
    """The point t of the way from a to b (B, C, ...): t = 0 is a, t = 1 is b; outside [0, 1] goes past them.

    slerp_per_item: along the great circle, the angle taken over all numbers of one item; keeps the length of
    noise, which a straight mix shrinks by up to 1 / sqrt(2). slerp_per_channel: an angle for each channel.
    lerp_renormalized: the straight mix, stretched to the interpolated length. Angles below 1e-4, or as near to pi,
    have no defined circle and take the straight mix.
    Source: Song et al. 2020, arXiv 2010.02502, appendix D.5.
    """
    if a.shape != b.shape:
        raise ValueError(f"both latents need one shape, got {tuple(a.shape)} and {tuple(b.shape)}; "
                         "make them with the same size and batch")
    if mode == "lerp_renormalized":
        dims = tuple(range(1, a.ndim))
        mix = (1.0 - t) * a + t * b
        length = (1.0 - t) * _norm(a, dims) + t * _norm(b, dims)
        return mix * (length / _norm(mix, dims).clamp(min=torch.finfo(a.dtype).tiny))
    if mode not in ("slerp_per_item", "slerp_per_channel"):
        raise ValueError(f"mode must be slerp_per_item, slerp_per_channel or lerp_renormalized, got {mode!r}")
    dims = tuple(range(1 if mode == "slerp_per_item" else 2, a.ndim))
    lengths = (_norm(a, dims) * _norm(b, dims)).clamp(min=torch.finfo(a.dtype).tiny)
    cos = ((a * b).sum(dims, keepdim=True) / lengths).clamp(-1.0, 1.0)
    theta = torch.acos(cos)
    flat = (theta < 1e-4) | (theta > torch.pi - 1e-4)
    sin = torch.where(flat, 1.0, torch.sin(theta))
    weight_a = torch.where(flat, 1.0 - t, torch.sin((1.0 - t) * theta) / sin)
    weight_b = torch.where(flat, t, torch.sin(t * theta) / sin)
    return weight_a * a + weight_b * b


def slerp_strip(a: Tensor, b: Tensor, count: int, *, mode: str = "slerp_per_item") -> Tensor:
    """count points from a to b, both ends in: (count * B, C, ...), all items of one point together."""
    if count < 2:
        raise ValueError(f"a strip needs at least 2 points, got {count}")
    return torch.cat([slerp(a, b, i / (count - 1), mode=mode) for i in range(count)])


def _norm(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return torch.linalg.vector_norm(x, dim=dims, keepdim=True)
