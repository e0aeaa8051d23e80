"""Dynamic thresholding: predictions that leave the range of pictures are pulled back, each as a whole."""
import torch
from torch import Tensor

QUANTILE_LIMIT = 2 ** 24  # numbers that torch.quantile takes at once


def dynamic_threshold(denoised: Tensor, *, ratio: float = 0.995, max_val: float = 1.0, channelwise: bool = False,
                      scale: float = 1.0) -> Tensor:
    """clamp(D, -s, s) / s * scale with D in units of scale, s = max(quantile(|D|, ratio), max_val), for each item.

    denoised: (B, C, ...). channelwise: a threshold for each channel. scale: the latent's value that counts as 1, so 1
    for pixel models. With s at max_val = 1 nothing inside the range changes; max_val = m divides by m too, as
    published.
    Source: Saharia et al. 2022, arXiv 2205.11487, section 2.3; Lu et al. 2022, arXiv 2211.01095, section 3.
    """
    if not 0.0 <= ratio <= 1.0 or max_val <= 0.0 or scale <= 0.0:
        raise ValueError(f"need ratio in [0, 1], max_val and scale above 0, got {ratio}, {max_val} and {scale}")
    x = denoised / scale
    rows = x.abs().flatten(2) if channelwise else x.abs().flatten(1)
    exact = rows if rows.dtype == torch.float64 else rows.float()  # quantile knows no half precision
    limit = quantile(exact, ratio).clamp(min=max_val).to(x.dtype)
    limit = limit.reshape(*limit.shape, *[1] * (x.ndim - limit.ndim))
    return torch.minimum(torch.maximum(x, -limit), limit) / limit * scale


def quantile(rows: Tensor, ratio: float) -> Tensor:
    """torch.quantile over the last axis, for rows of any length."""
    count = rows.shape[-1]
    if rows.numel() < QUANTILE_LIMIT:
        return rows.quantile(ratio, dim=-1)
    place = ratio * (count - 1)
    low = int(place)
    value = rows.kthvalue(low + 1, dim=-1).values
    if low + 1 == count:
        return value
    return value + (place - low) * (rows.kthvalue(low + 2, dim=-1).values - value)
