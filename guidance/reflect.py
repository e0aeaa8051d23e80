"""Reflection into a box: states of models whose data is bounded stay where their data lies (experimental)."""
from torch import Tensor


def reflect(x: Tensor, bound: float) -> Tensor:
    """x folded into [-bound, bound] at its walls, as often as it takes (a triangle wave); inside, x to the bit.

    Source: Lou and Ermon 2023, arXiv 2304.04740, section 4.
    """
    if bound <= 0.0:
        raise ValueError(f"bound must be above 0, got {bound}")
    wave = ((x - bound).remainder(4.0 * bound) - 2.0 * bound).abs() - bound
    return x.where(x.abs() <= bound, wave)


def into_box(x: Tensor, bound: float, *, how: str = "reflect") -> Tensor:
    """reflect(), or the projection onto the box: 'clamp'."""
    if how not in ("reflect", "clamp"):
        raise ValueError(f"how must be 'reflect' or 'clamp', got {how!r}")
    return reflect(x, bound) if how == "reflect" else x.clamp(-bound, bound)
