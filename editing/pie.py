"""PIE: the same edit again and again, each time a little, until a picture has gone all the way."""
from collections.abc import Callable, Iterator
from itertools import pairwise

from torch import Tensor

from ..guidance.minority import noised
from ..measure.progress import Progress
from ..samplers.process import Process
from .path import as_progress, euler_step


def pie_round(denoise: Callable, start: Tensor, source: Tensor, sigmas: list[float], *, draw: Callable[[int], Tensor],
              process: Process, mask: Tensor | None = None, state: dict | None = None) -> Iterator[Progress]:
    """One round: start (B, ...), clean, is noised to sigmas[0] and comes down by DDIM; the last state is its result.

    denoise(x, sigma: float) -> D of the prompt to go to; draw(step) -> unit noise like start. mask (1 where the picture
    changes): from the second step on the rest is the source, freshly noised to the level.
    Source: Liang et al. 2023, arXiv 2309.11745, algorithm 1.
    """
    def steps(x: Tensor, done: int) -> Iterator[tuple[Tensor, Tensor]]:
        for i, (sigma, sigma_next) in enumerate(pairwise(sigmas[done:]), done):
            if mask is not None and i > 0:
                x = mask * x + (1.0 - mask) * noised(source, draw(i), sigma, process)
            denoised = denoise(x, sigma)
            x = euler_step(x, denoised, sigma, sigma_next)
            yield x, denoised

    done = int(state["done"]) if state else 0
    x = state["x"].to(start) if state else noised(start, draw(0), sigmas[0], process)
    return as_progress(steps(x, done), len(sigmas) - 1, done=done)


def pie_mixed(source: Tensor, edited: Tensor, mask: Tensor | None, *, beta_1: float, beta_2: float) -> Tensor:
    """What a round hands on: the source and the share of the way to the edited latent (B, ...), beta_1 of it outside
    the mask and beta_2 inside. No mask: the edited latent.

    Source: Liang et al. 2023, arXiv 2309.11745, eq. 5.
    """
    if mask is None:
        return edited
    return source + (beta_1 * (1.0 - mask) + beta_2 * mask) * (edited - source)
