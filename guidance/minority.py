"""Minority guidance: toward pictures that the model rarely draws, by how badly it restores them when noised."""
import math

import torch
from torch import Tensor

from ..samplers.process import Process
from .gradient import Place

WEIGHTS = ("var", "fixed")
DISTANCES = ("l2", "l1")


def difference(a: Tensor, b: Tensor, *, kind: str = "l2") -> Tensor:
    """The distance (B,) of pictures or latents (B, ...): length of a - b (l2), or sum of its absolute entries (l1)."""
    if kind not in DISTANCES:
        raise ValueError(f"loss must be one of {', '.join(DISTANCES)}, got {kind!r}")
    apart = (a - b).flatten(1)
    return apart.abs().sum(1) if kind == "l1" else torch.linalg.vector_norm(apart, dim=1)


def noised(denoised: Tensor, noise: Tensor, sigma: float, process: Process) -> Tensor:
    """alpha D + sigma noise: the state of a picture at level sigma."""
    return process.alpha(sigma) * denoised + sigma * noise


def level_at(sigmas: list[float], share: float) -> float:
    """The level int(N share) steps from the end of a schedule of N steps: nearly all noise at share near 1."""
    steps = len(sigmas) - 1
    return sigmas[max(steps - 1 - int(steps * share), 0)]


def is_active(place: Place, *, every: int, t_mid: float) -> bool:
    """Whether self-guidance acts at a step: each `every`-th counted from the last, while more than the share t_mid of
    the steps is left (t_mid < 0: to the end)."""
    left = place.steps - 1 - place.i
    return left % every == 0 and left > t_mid * place.steps


def self_guided_step(denoised: Tensor, gradient: Tensor, place: Place, *, scale: float, normalize: bool = True,
                     weight: str = "var", x_scale: float = 1.0) -> Tensor:
    """The prediction after a step up the reconstruction error, whose gradient with respect to x (B, ...) is given.

    On an ancestral step (eta = 1) the state of unit variance moves by exactly scale * Sigma_t * g ('var') or scale * g
    ('fixed'); on other steps D moves as much. normalize: g is divided by its largest entry, for each item; otherwise
    x_scale, x / (state of unit variance), turns it into that state's gradient. scale 0 changes nothing.
    Source: Um and Ye 2024, arXiv 2407.11555, algorithm 1.
    """
    if weight not in WEIGHTS:
        raise ValueError(f"weight must be one of {', '.join(WEIGHTS)}, got {weight!r}")
    top = gradient.abs().amax(tuple(range(1, gradient.ndim)), keepdim=True)
    g = gradient / torch.where(top > 0.0, top, 1.0) if normalize else gradient * x_scale
    alpha_next = 1.0 / math.sqrt(1.0 + place.s_next ** 2)
    size = place.variance if weight == "var" else 1.0
    return denoised + scale * size / (alpha_next * place.d_coef) * g


def ordinal_step(denoised: Tensor, gradient: Tensor, place: Place, *, scale: float, x_scale: float) -> Tensor:
    """The prediction after a push along grad log p(class | x) of a classifier of noisy states, gradient in x (B, ...).

    On an ancestral step the state of unit variance moves by exactly scale * Sigma_t times its own gradient; x_scale:
    x / (that state), sqrt(alpha^2 + sigma^2).
    Source: Um et al. 2023, arXiv 2301.12334, section 4.
    """
    return self_guided_step(denoised, gradient, place, scale=scale, normalize=False, x_scale=x_scale)


def quantile_bins(scores: Tensor, bins: int) -> Tensor:
    """The bin 0 to bins - 1 of each score (N,), each bin as full as the others: the classes of minority guidance."""
    ranks = scores.argsort().argsort()
    return ranks * bins // len(scores)
