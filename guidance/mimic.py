"""Mimic scale: guidance at a high CFG, its range brought to that of a lower one."""
import math

import torch
from torch import Tensor

from .dynamic_threshold import quantile
from .precision import in_float32

MODES = ("Constant", "Linear Down", "Cosine Down", "Half Cosine Down", "Linear Up", "Cosine Up", "Half Cosine Up",
         "Power Up", "Power Down", "Linear Repeating", "Cosine Repeating", "Sawtooth")
STARTS, SPREADS = ("MEAN", "ZERO"), ("AD", "STD")


@in_float32
def mimic_guidance(cond: Tensor, uncond: Tensor, *, scale: Tensor | float, mimic: Tensor | float,
                   percentile: float = 1.0, separate_channels: bool = True, startpoint: str = "MEAN",
                   variability: str = "AD", phi: float = 1.0) -> Tensor:
    """CFG at `scale` with the spread that CFG at `mimic` would have; scales may be tensors (B, 1, ...).

    cond, uncond: denoised (B, C, ...). Spreads are taken around the mean over places, for each channel or with
    separate_channels off for each picture. variability 'AD': the largest deviation, of the guided one its quantile
    `percentile`, beyond which it is cut off; 'STD': the standard deviation, nothing cut. startpoint 'ZERO' scales the
    prediction itself in place of its deviation from the mean. phi: share of the result, the rest plain CFG.
    scale = mimic at percentile 1, and phi = 0, are plain CFG.
    Source: mcmonkeyprojects/sd-dynamic-thresholding, dynthres_core.py (MIT), each picture of a batch by itself.
    """
    if startpoint not in STARTS or variability not in SPREADS:
        raise ValueError(f"startpoint must be one of {', '.join(STARTS)} and variability one of {', '.join(SPREADS)}, "
                         f"got {startpoint!r} and {variability!r}")
    low, high = (uncond + weight * (cond - uncond) for weight in (mimic, scale))
    places = tuple(range(2, cond.ndim))
    means = [value.mean(places, keepdim=True) for value in (low, high)]
    low_part, high_part = low - means[0], high - means[1]
    first = 2 if separate_channels else 1
    rows = [part.flatten(first) for part in (low_part, high_part)]
    if variability == "STD":
        wanted, got = (row.std(-1) for row in rows)
    else:
        wanted, got = rows[0].abs().amax(-1), quantile(rows[1].abs(), percentile)
    wanted, got = (value.reshape(*value.shape, *[1] * (cond.ndim - first)) for value in (wanted, got))
    if startpoint == "ZERO":
        result = high * _ratio(wanted, got)
    elif variability == "STD":
        result = high_part * _ratio(wanted, got) + means[1]
    else:
        limit = torch.maximum(wanted, got)
        result = torch.minimum(torch.maximum(high_part, -limit), limit) * _ratio(wanted, limit) + means[1]
    return phi * result + (1.0 - phi) * high


def scheduled(mode: str, scale: float, low: float, place: Tensor, *, value: float = 1.0) -> Tensor:
    """A scale that a mode moves between `low` and scale, at place (from 0 at a run's start to 1 at its end)."""
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    turn = (place * value).remainder(1.0)
    share = {
        "Constant": lambda: torch.ones_like(place),
        "Linear Down": lambda: 1.0 - place,
        "Half Cosine Down": lambda: place.cos(),
        "Cosine Down": lambda: (1.5707 * place).cos(),
        "Linear Up": lambda: place,
        "Half Cosine Up": lambda: 1.0 - place.cos(),
        "Cosine Up": lambda: 1.0 - (1.5707 * place).cos(),
        "Power Up": lambda: place ** value,
        "Power Down": lambda: 1.0 - place ** value,
        "Linear Repeating": lambda: 2.0 * torch.where(turn < 0.5, 0.5 - turn, turn - 0.5),
        "Cosine Repeating": lambda: 0.5 + 0.5 * (6.28318 * place * value).cos(),
        "Sawtooth": lambda: turn,
    }[mode]()
    return low + (scale - low) * share


def place_in(sigmas: list[float], sigma: Tensor) -> Tensor:
    """How far sigma (B,) is in a schedule: 0 at its first level, 1 at its last above 0; nothing is read back."""
    levels = torch.tensor([level for level in sigmas if level > 0.0] or [math.inf], device=sigma.device)
    above = (levels[:, None] > sigma.float()[None] * (1.0 + 1e-6)).sum(0)
    return (above / max(len(levels) - 1, 1)).clamp(max=1.0).to(sigma.dtype)


def _ratio(wanted: Tensor, got: Tensor) -> Tensor:
    return torch.where(got > 0.0, wanted / torch.where(got > 0.0, got, 1.0), 1.0)
