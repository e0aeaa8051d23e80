"""Along a model's ODE, downwards to a picture or upwards from one to its noise (DDIM, and DDIM inversion)."""
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from ..measure.progress import Progress


def euler_step(x: Tensor, denoised: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """The state (B, ...) at sigma_next on the straight line from x, at sigma, through the prediction at 0.

    Downwards it is DDIM's step with eta 0, upwards DDIM inversion's with the prediction of the level it leaves: x +
    (sigma_next - sigma) (x - D) / sigma in the VE and in the flow form.
    Source: Song et al. 2020, arXiv 2010.02502, eq. 12 and 14.
    """
    share = sigma_next / sigma
    return share * x + (1.0 - share) * denoised


def euler_path(denoise: Callable, x: Tensor, sigmas: list[float]) -> Iterator[tuple[Tensor, Tensor]]:
    """(state at the level reached, prediction it was made with) after each step from sigmas[0], which is above 0.

    denoise(x, sigma: float) -> D. Rising sigmas invert: the path starts from a clean latent, taken for a state at the
    lowest level.
    """
    for sigma, sigma_next in pairwise(sigmas):
        denoised = denoise(x, sigma)
        x = euler_step(x, denoised, sigma, sigma_next)
        yield x, denoised


def as_progress(steps: Iterable[tuple[Tensor, Tensor]], total: int, *, done: int = 0) -> Iterator[Progress]:
    """Progress after each of the steps behind `done` of `total`; its state holds x, denoised and done."""
    for i, (x, denoised) in enumerate(steps, done + 1):
        yield Progress(i, total, {"x": x, "denoised": denoised, "done": torch.tensor(i)}, preview=denoised)


def euler_progress(denoise: Callable, x: Tensor, sigmas: list[float], state: dict | None) -> Iterator[Progress]:
    """euler_path as Progress, going on behind `state` where there is one."""
    done = int(state["done"]) if state else 0
    x = state["x"].to(x) if state else x
    return as_progress(euler_path(denoise, x, sigmas[done:]), len(sigmas) - 1, done=done)
