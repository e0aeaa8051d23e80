"""DDIM inversion: the model's path walked up, from a picture to a noise that leads back near it."""
from collections.abc import Callable
from itertools import pairwise

from torch import Tensor

from ..samplers.process import Process
from .inversion import slope

EVAL_AT = ("source_level", "destination_level")


def sample_ddim_invert(denoise: Callable, x: Tensor, sigmas: list[float], *, fixed_point_iters: int = 0,
                       eval_at: str = "source_level", process: Process, callback: Callable | None = None) -> Tensor:
    """The state at sigmas[-1], (B, C, ...), by Euler steps up rising sigmas from the picture x.

    x_next = x + (sigma_next - sigma) e, e the slope at x: under its own level, or told the level it goes to, as prompt-
    to-prompt's and null-text's code does. fixed_point_iters: then x_next is put into its own equation so many times, e
    the slope at x_next, which ends at the exact inverse of DDIM's step where (sigma_next - sigma) times e's Lipschitz
    constant is below 1. Error O(h) in the round trip without them. NFE (1 + fixed_point_iters) a step.
    Source: Song et al. 2020, arXiv 2010.02502, section 4.3; fixed points as in arXiv 2309.04907.
    """
    if eval_at not in EVAL_AT:
        raise ValueError(f"eval_at must be one of {', '.join(EVAL_AT)}, got {eval_at!r}")
    if fixed_point_iters < 0:
        raise ValueError(f"fixed_point_iters must be 0 or more, got {fixed_point_iters}")
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        h = sigma_next - sigma
        told, from_sigma = (sigma, None) if eval_at == "source_level" else (sigma_next, sigma)
        found = x + h * slope(denoise, x, told, process, from_sigma=from_sigma)
        for _ in range(fixed_point_iters):
            found = x + h * slope(denoise, found, sigma_next, process)
        if callback is not None:
            callback(i, found, x - sigma * (found - x) / h, sigma)
        x = found
    return x
