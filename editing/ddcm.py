"""Editing by words without inversion: the consistency step of InfEdit."""
import math
from collections.abc import Callable
from itertools import pairwise

from torch import Tensor

from ..samplers.process import Process


def sample_ddcm(model: Callable, x: Tensor, sigmas: list[float], *, source: Callable, clean: Tensor, eta: float = 1.0,
                control=None, process: Process, noise_sampler: Callable, callback: Callable | None = None) -> Tensor:
    """The edit of a picture, (B, C, ...): clean + d where sigmas end at 0, else its state at the last level.

    model, source: (x, sigma (B,)) -> denoised under the words wanted and the words that describe clean; x is not used.
    From noise on clean, each step takes d = D(x_s + alpha d; wanted) - D(x_s; source) whole, and noises clean anew: x_s
    = alpha clean + sigma (sqrt(1 - eta) eps + sqrt(eta) noise), eps the noise that carries d on. eta in [0, 1], 1 as
    published: nothing accumulates over steps. noise_sampler(sigma, sigma_next) -> unit noise, asked once at eta = 0.
    control: an AttentionControl that model and source run under. callback(i, x, denoised, sigma, of=steps) with the
    edit so far. Equal predictions give clean itself. sigmas: strictly decreasing.
    Cost: a call of model and one of source for each step, one more of source under control.
    Source: Xu et al. 2023, arXiv 2312.04965, algorithm 2, whose eta multiplies the variance too.
    """
    process.lams(sigmas)
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")
    offset, differ = 0.0 * clean, _difference if control is None else control.begin(len(sigmas) - 1)
    x = process.alpha(sigmas[0]) * clean + sigmas[0] * noise_sampler(sigmas[0], sigmas[0]).to(clean)
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        alpha, at = process.alpha(sigma), x.new_full((len(x),), sigma)
        found = differ(model, source, x, at, alpha=alpha, sigma=sigma, offset=offset)
        if callback is not None:
            callback(i, x + alpha * offset, clean + found, sigma, of=len(sigmas) - 1)
        noise = math.sqrt(1.0 - eta) / sigma * (x - alpha * clean + alpha * (offset - found))
        if eta > 0.0 and sigma_next > 0.0:
            noise = noise + math.sqrt(eta) * noise_sampler(sigma, sigma_next).to(x)
        x, offset = process.alpha(sigma_next) * clean + sigma_next * noise, found
    return x + process.alpha(sigmas[-1]) * offset


def _difference(model: Callable, source: Callable, x: Tensor, at: Tensor, *, alpha: float, sigma: float,
                offset: Tensor) -> Tensor:
    return model(x + alpha * offset, at) - source(x, at)
