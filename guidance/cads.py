"""Conditions that start as noise and settle during the run, for pictures that differ (CADS)."""
import hashlib
import math

import torch
from torch import Tensor

STATS = ("scalar", "token")


def annealing(time: float, *, tau1: float = 0.6, tau2: float = 0.9) -> float:
    """Share gamma of the condition at a model time in [0, 1] (1 = noise): 1 to tau1, 0 from tau2, linear between.

    Source: Sadat et al. 2023, arXiv 2310.17347, eq. 4.
    """
    if not 0.0 <= tau1 <= tau2:
        raise ValueError(f"need 0 <= tau1 <= tau2, got {tau1} and {tau2}; swap the two")
    if time <= tau1:
        return 1.0
    return 0.0 if time >= tau2 else (tau2 - time) / (tau2 - tau1)


def annealed(condition: Tensor, noise: Tensor, gamma: float, *, s: float = 0.25, psi: float = 1.0,
             stats: str = "scalar") -> Tensor:
    """The condition at share gamma: y^ = sqrt(gamma) y + s sqrt(1 - gamma) noise, with y's mean and spread given back.

    condition, noise (B, ..., channels): each entry of the batch on its own. Tokens that are all 0 (padding) stay 0.
    s: amount of noise. psi in [0, 1]: 0 leaves y^ as it is, 1 gives it y's mean and unbiased standard deviation.
    stats: those of the whole entry ('scalar'), or of each token ('token'), for text encoders whose tokens differ much
    in size. gamma = 1 is y itself.
    Source: Sadat et al. 2023, arXiv 2310.17347, eqs. 3, 5 and 6.
    """
    if stats not in STATS:
        raise ValueError(f"stats must be 'scalar' or 'token', got {stats!r}")
    if gamma == 1.0:
        return condition
    used = condition.ne(0.0).any(-1, keepdim=True)
    noised = math.sqrt(gamma) * condition + s * math.sqrt(1.0 - gamma) * torch.where(used, noise, 0.0)
    if psi == 0.0:
        return noised
    axes = tuple(range(1, condition.ndim)) if stats == "scalar" else (-1,)
    spread, mean = torch.std_mean(condition, axes, keepdim=True)
    noised_spread, noised_mean = torch.std_mean(noised, axes, keepdim=True)
    flat = noised_spread == 0.0
    rescaled = (noised - noised_mean) / torch.where(flat, 1.0, noised_spread) * spread + mean
    return torch.where(used, psi * rescaled + (1.0 - psi) * noised, noised)


def annealed_rows(value: Tensor, kinds: list[int], gamma: float, *, seeds: list[int], stream: str,
                  negative: bool = False, **options) -> Tensor:
    """annealed() of a batch of conditions in equal pieces, one for each of kinds: 0 positive, 1 negative.

    Item k of a piece draws its noise from seeds[k] and the stream's name, so the same in whatever batch, order and run.
    negative: those change too.
    """
    pieces = list(value.chunk(len(kinds)))
    for i, (kind, piece) in enumerate(zip(kinds, pieces)):
        if kind == 0 or negative:
            drawn = torch.stack([_drawn(f"{stream}/{kind}/{seed}", piece.shape[1:]) for seed in seeds[:len(piece)]])
            pieces[i] = annealed(piece.float(), drawn.to(piece.device), gamma, **options).to(piece.dtype)
    return torch.cat(pieces)


def _drawn(name: str, shape) -> Tensor:
    """Unit noise that a name stands for, float32."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest, "little") >> 1)
    return torch.randn(shape, generator=generator, dtype=torch.float32)
