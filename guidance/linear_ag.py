"""LinearAG: the unconditional prediction estimated from earlier ones, by weights fitted to a model."""
from typing import NamedTuple

import torch
from torch import Tensor

CHOICES = ("both", "estimate", "cond")


class LinearAG(NamedTuple):
    """Weights for every step of one schedule, and what is evaluated at it.

    cond[i], uncond[i]: weights of the conditional predictions of steps 0 to i and of the unconditional ones of steps 0
    to i - 1; policy[i]: 'both' evaluates both, 'estimate' the conditional alone, 'cond' doesn't guide either.
    """
    sigmas: tuple[float, ...]
    cond: tuple[tuple[float, ...], ...]
    uncond: tuple[tuple[float, ...], ...]
    policy: tuple[str, ...]
    about: dict


def slope(denoised: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """(x - D) / sigma, the predicted noise, on flows the velocity; sigma (B,)."""
    return (x - denoised) / _wide(sigma, x)


def of_slope(value: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """The denoised prediction of a slope."""
    return x - _wide(sigma, x) * value


def estimated(conds: list[Tensor], unconds: list[Tensor], coefs: LinearAG) -> Tensor:
    """The slope of the missing unconditional prediction of step i = len(unconds): sum_j b_j conds[j] + sum_j u_j
    unconds[j].

    conds: slopes of steps 0 to i; unconds: of steps 0 to i - 1, real or estimated.
    Source: Castillo et al. 2023, arXiv 2312.12487, eq. 7.
    """
    i = len(unconds)
    terms = [*zip(coefs.cond[i], conds), *zip(coefs.uncond[i], unconds)]
    return sum(weight * value for weight, value in terms)


def step_of(sigma: float, coefs: LinearAG) -> int:
    """The step of the fitted schedule at a level. Raises ValueError for a level it doesn't have."""
    for i, level in enumerate(coefs.sigmas[:-1]):
        if abs(level - sigma) <= 1e-5 * level:
            return i
    raise ValueError(f"LinearAG has no weights for sigma {sigma:.5g}: they were fitted for {len(coefs.sigmas) - 1} "
                     f"steps from {coefs.sigmas[0]:.5g}; use that schedule, with a sampler that calls the model once a "
                     "step, or fit anew")


def paper_policy(steps: int) -> tuple[str, ...]:
    """Every second step of the first half estimated, the second half conditional: the paper's LinearAG."""
    half = steps // 2
    return tuple("cond" if i >= half else "estimate" if i % 2 else "both" for i in range(steps))


def _wide(sigma: Tensor, x: Tensor) -> Tensor:
    return torch.as_tensor(sigma).to(x).reshape(-1, *[1] * (x.ndim - 1))
