"""Losses that guidance follows and selection compares: of the decoded picture or of the latent, added up."""
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate


class Loss(NamedTuple):
    """A sum of terms, each weight * value(what) (B,) of pictures (B, 3, H, W) in [0, 1] or of latents (B, C, ...).

    pictures, latents: tuples of (weight, value).
    """
    pictures: tuple[tuple[float, Callable[[Tensor], Tensor]], ...] = ()
    latents: tuple[tuple[float, Callable[[Tensor], Tensor]], ...] = ()

    def __add__(self, other: "Loss") -> "Loss":
        return Loss(self.pictures + other.pictures, self.latents + other.latents)

    def __call__(self, latents: Tensor, decode: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The sum (B,) at latents; decode gives pictures of them. Raises ValueError where it is needed and missing."""
        if self.pictures and decode is None:
            raise ValueError("this loss looks at the decoded picture; connect a vae")
        total = [weight * value(latents) for weight, value in self.latents]
        if self.pictures:
            pictures = decode(latents)
            total += [weight * value(pictures) for weight, value in self.pictures]
        return torch.stack(total).sum(0)


def distance(value: Tensor, target: Tensor, *, mask: Tensor | None = None, kind: str = "l2") -> Tensor:
    """Sum of squared (l2) or absolute (l1) differences (B,) of value and target (1 or B, C, H, W), in value's size.

    mask: (1 or B, H, W) in [0, 1] by which each place counts.
    """
    if kind not in ("l2", "l1"):
        raise ValueError(f"distance must be 'l2' or 'l1', got {kind!r}")
    if target.shape[1] != value.shape[1]:
        raise ValueError(f"the target has {target.shape[1]} channels, what is guided has {value.shape[1]}; "
                         "connect one made for this model")
    if len(target) not in (1, len(value)):
        raise ValueError(f"need one target, or one for each of {len(value)} pictures, got {len(target)}")
    target = _sized(target.to(value), value)
    apart = (value - target).square() if kind == "l2" else (value - target).abs()
    return (apart * _weight(value, mask)).flatten(1).sum(1)


def colour_distance(pictures: Tensor, colour: tuple[float, float, float], *, mask: Tensor | None = None) -> Tensor:
    """Squared distance (B,) of the mean colour of pictures (B, 3, H, W), under a mask, from a colour in [0, 1], times
    the places that count."""
    mean, places = _mean_colour(pictures, mask)
    return (mean - mean.new_tensor(colour)).square().sum(1) * places


def brightness_distance(pictures: Tensor, brightness: float, *, mask: Tensor | None = None) -> Tensor:
    """Squared difference (B,) of the mean luma (Rec. 709) of pictures (B, 3, H, W), under a mask, from one in [0, 1],
    times the places that count."""
    mean, places = _mean_colour(pictures, mask)
    return (mean @ pictures.new_tensor([0.2126, 0.7152, 0.0722]) - brightness).square() * places


def _mean_colour(pictures: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """(mean (B, C) over the places that count, how many they are (1 or B,))."""
    weight = _weight(pictures, mask)
    places = weight.flatten(1).sum(1)
    return (pictures * weight).flatten(2).sum(2) / places[:, None].clamp(min=1e-8), places


def _weight(value: Tensor, mask: Tensor | None) -> Tensor:
    """A mask (1 or B, H, W) as what value (B, C, H, W) is multiplied with, (1 or B, 1, H, W); ones where None."""
    if mask is None:
        return value.new_ones(1, 1, *value.shape[2:])
    weight = _sized(mask.reshape(-1, 1, *mask.shape[-2:]).to(value), value)
    if len(weight) not in (1, len(value)):
        raise ValueError(f"need one mask, or one for each of {len(value)} pictures, got {len(weight)}")
    return weight


def _sized(value: Tensor, like: Tensor) -> Tensor:
    """value (n, C, h, w) brought to like's height and width, by areas where it shrinks."""
    if value.shape[2:] == like.shape[2:]:
        return value
    shrinks = value.shape[-1] >= like.shape[-1] and value.shape[-2] >= like.shape[-2]
    return interpolate(value, size=like.shape[2:], mode="area" if shrinks else "bilinear")
