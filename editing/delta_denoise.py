"""Editing by words as an optimization: delta denoising score."""
from collections.abc import Callable

from torch import Tensor

from ..samplers.process import Process

_GOLDEN = 0.5 * (5.0 ** 0.5 - 1.0)


def mixed_order(count: int) -> list[int]:
    """0 .. count - 1 in an order in which every stretch is spread over the whole range (golden-ratio steps)."""
    return sorted(range(count), key=lambda k: k * _GOLDEN % 1.0)


def sample_delta_denoise(model: Callable, x: Tensor, sigmas: list[float], *, source: Callable, clean: Tensor,
                         rate: float = 0.1, process: Process, noise_sampler: Callable,
                         callback: Callable | None = None) -> Tensor:
    """The edit of a picture, (B, C, ...): clean + d where sigmas end at 0, else its state at the last level.

    model, source: (x, sigma (B,)) -> denoised under the words wanted and the words that describe clean; x is not used.
    Descends along eps(x_t; wanted) - eps(x_s; source) with one noise on both clean + d and clean: with g = D(wanted) -
    D(source), d <- d + min(rate alpha / sigma, 1) (g - d), so that it rests where d = E[g]. rate: step on eps, above
    0. Each level of sigmas but the last is taken once, in mixed_order: evenly spread levels at every time of the run,
    where the paper draws them. noise_sampler(sigma, sigma_next) -> unit noise. callback(i, x, denoised, sigma,
    of=steps) with the edit so far. Equal predictions give clean itself.
    Cost: a call of model and one of source for each step. sigmas: strictly decreasing.
    Source: Hertz et al. 2023, arXiv 2304.07090, eq. 3.
    """
    process.lams(sigmas)
    if rate <= 0.0:
        raise ValueError(f"rate must be above 0, got {rate}")
    offset = 0.0 * clean
    steps = len(sigmas) - 1
    for i, place in enumerate(mixed_order(steps)):
        sigma = sigmas[place]
        alpha, at = process.alpha(sigma), clean.new_full((len(clean),), sigma)
        noisy = alpha * clean + sigma * noise_sampler(sigma, sigma).to(clean)
        found = model(noisy + alpha * offset, at) - source(noisy, at)
        offset = offset + min(rate * alpha / sigma, 1.0) * (found - offset)
        if callback is not None:
            callback(i, clean + offset, clean + offset, sigma, of=steps)
    if sigmas[-1] == 0.0:
        return clean + offset
    return process.alpha(sigmas[-1]) * (clean + offset) + sigmas[-1] * noise_sampler(sigmas[-1], 0.0).to(clean)
