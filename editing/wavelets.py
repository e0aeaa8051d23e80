"""Wavelet transforms of pictures, and pictures mixed by their bands."""
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

# The low-pass filters of the synthesis; the other three follow: see _filters.
REC_LO = {
    "db4": (0.2303778133088965, 0.7148465705529157, 0.6308807679298589, -0.027983769416859854, -0.18703481171909309,
            0.030841381835560764, 0.0328830116668852, -0.010597401785069032),
    "haar": (0.7071067811865476, 0.7071067811865476),
}
WAVES = tuple(REC_LO)


class Bands(NamedTuple):
    """low (B, C, h, w), and high (B, C, 3, h, w): low along the width and high along the height, then the other way
    round, then high along both."""
    low: Tensor
    high: Tensor


def dwt(x: Tensor, wave: str = "db4") -> Bands:
    """The bands of pictures x (B, C, H, W); n numbers along an axis give (n + taps - 1) // 2, with 8 taps (db4) or 2.

    The picture goes on beyond its edges as its mirror image, the edge repeated (half-sample symmetric).
    Source: Mallat 1989; Daubechies 1988 (db4); borders as pytorch_wavelets 1.3.0.
    """
    low, high = _filters(wave, x)[:2]
    along = _analysed(x, -1, low, high)
    (ll, lh), (hl, hh) = (_analysed(band, -2, low, high) for band in along)
    return Bands(ll, torch.stack([lh, hl, hh], dim=2))


def idwt(bands: Bands, size: tuple[int, int], wave: str = "db4") -> Tensor:
    """Pictures (B, C, H, W) of bands, with (H, W) = size: dwt's exact inverse."""
    low, high = _filters(wave, bands.low)[2:]
    lh, hl, hh = bands.high.unbind(2)
    along = [_synthesised(*pair, -2, low, high) for pair in ((bands.low, lh), (hl, hh))]
    return _synthesised(*along, -1, low, high)[..., :size[0], :size[1]]


def low_band(x: Tensor, wave: str = "db4", levels: int = 1) -> Tensor:
    """What is left of pictures (B, C, H, W) after `levels` transforms, each of the low band of the one before."""
    for _ in range(levels):
        x = dwt(x, wave).low
    return x


def with_low_band(low: Tensor, details: Tensor, wave: str = "db4", levels: int = 1) -> Tensor:
    """Pictures whose low_band is `low` and whose other bands are those of `details` (B, C, H, W).

    Exact for haar with sides that `levels` halvings leave whole. Next to the edges (within the taps) db4's low band is
    only near `low`, since there bands of two pictures need not be those of one.
    Source: Kim et al. 2024, arXiv 2406.18459, section 3.3.
    """
    sizes, highs = [details.shape[-2:]], []
    for _ in range(levels):
        details, high = dwt(details, wave)
        sizes.append(details.shape[-2:])
        highs.append(high)
    if low.shape != details.shape:
        raise ValueError(f"the low band of a picture of this size is {tuple(details.shape)}, got {tuple(low.shape)}; "
                         "take both from pictures of one size, with one wave and as many levels")
    for (size, _), high in zip(reversed([*pairwise(sizes)]), reversed(highs)):
        low = idwt(Bands(low, high), size, wave)
    return low


def wavelet_mix(low: Tensor, details: Tensor, *, wave: str = "db4", levels: int = 1) -> Tensor:
    """The coarse structure of one picture and the fine detail of another, both (B, C, H, W) of one size: with_low_band
    of low's band. One picture mixed with itself comes back.

    levels: each doubles the size of what counts as detail: about 2 px at 1, 4 at 2.
    """
    if wave not in WAVES:
        raise ValueError(f"wave must be one of {', '.join(WAVES)}, got {wave!r}")
    most = max(min(details.shape[-2:]).bit_length() - 1, 1)
    if not 1 <= levels <= most:
        raise ValueError(f"levels must lie from 1 to {most} for pictures of {details.shape[-1]} x {details.shape[-2]} "
                         f"px, got {levels}")
    if low.shape != details.shape:
        raise ValueError(f"both pictures need one size and batch, got {tuple(low.shape)} and {tuple(details.shape)}; "
                         "resize one of them")
    return with_low_band(low_band(low, wave, levels), details, wave, levels)


def _filters(wave: str, x: Tensor) -> list[Tensor]:
    """dec_lo, dec_hi, rec_lo, rec_hi of an orthogonal wavelet."""
    rec_lo = torch.tensor(REC_LO[wave], dtype=x.dtype, device=x.device)
    signs = torch.tensor([1.0, -1.0], dtype=x.dtype, device=x.device).repeat(len(rec_lo) // 2)
    dec_lo = rec_lo.flip(0)
    return [dec_lo, -signs * rec_lo, rec_lo, signs * dec_lo]


def _analysed(x: Tensor, dim: int, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """a[k] = sum_j x[2 k + 1 - j] low[j] along an axis, and the same with high."""
    n, taps = x.shape[dim], len(low)
    count = (n + taps - 1) // 2
    places = torch.arange(2 - taps, 2 * count, device=x.device) % (2 * n)
    rows = x.movedim(dim, -1)[..., torch.minimum(places, 2 * n - 1 - places)]
    kernels = torch.stack([low, high]).flip(1)[:, None]
    found = functional.conv1d(rows.reshape(-1, 1, rows.shape[-1]), kernels, stride=2)
    return tuple(found[:, i].reshape(*rows.shape[:-1], count).movedim(-1, dim) for i in range(2))


def _synthesised(a: Tensor, d: Tensor, dim: int, low: Tensor, high: Tensor) -> Tensor:
    """y[i] = sum_k a[k] low[i - 2 k + taps - 2] + d[k] high[...] along an axis, 0 <= i < 2 m - taps + 2."""
    a, d, taps = a.movedim(dim, -1), d.movedim(dim, -1), len(low)
    rows = torch.stack([a, d], dim=-2).reshape(-1, 2, a.shape[-1])
    found = functional.conv_transpose1d(rows, torch.stack([low, high])[:, None], stride=2)
    kept = found[:, 0, taps - 2:found.shape[-1] - taps + 2]
    return kept.reshape(*a.shape[:-1], kept.shape[-1]).movedim(-1, dim)
