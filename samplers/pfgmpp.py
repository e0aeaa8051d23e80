"""PFGM++: the heavy-tailed starting noise of a Poisson flow in D extra dimensions."""
import torch
from torch import Tensor

from .noise import item_seeds


def pfgmpp_noise(noise: Tensor, *, extra_dims: int = 128) -> Tensor:
    """Unit noise (B, ...) of the PFGM++ prior made of unit normal noise (B, ...): the same directions, other lengths.

    An item's squared length over its N numbers is that of the prior R = sigma sqrt(D) sqrt(y / (1 - y)),
    y ~ Beta(N / 2, D / 2), at sigma = 1: with z normal and c ~ chi-square of D, z sqrt(D / c) is that very thing, since
    |z|^2 / (|z|^2 + c) is such a y. Its mean square is D / (D - 2); D to infinity is z itself. c is drawn on the CPU
    from the item's own noise, so an item of a batch is its single run. extra_dims: D, at least 3.
    Source: Xu et al. 2023, arXiv 2302.04265, section 4 and algorithm 2.
    """
    import numpy as np

    if extra_dims < 3:
        raise ValueError(f"extra_dims must be at least 3, got {extra_dims}; the noise has no finite strength below")
    draws = [np.random.default_rng(seed).chisquare(extra_dims) for seed in item_seeds(noise, f"pfgmpp/{extra_dims}")]
    scale = torch.tensor([(extra_dims / draw) ** 0.5 for draw in draws], dtype=noise.dtype, device=noise.device)
    return noise * scale.reshape(-1, *[1] * (noise.ndim - 1))
