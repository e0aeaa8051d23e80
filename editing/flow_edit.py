"""Editing by words without inversion: the difference of two velocities, followed from the picture itself."""
from collections.abc import Callable
from itertools import pairwise

from torch import Tensor

from ..samplers.process import Process


def sample_flow_edit(model: Callable, x: Tensor, sigmas: list[float], *, source: Callable, clean: Tensor,
                     strength: float = 0.85, average: int = 1, finish: int = 0, process: Process,
                     noise_sampler: Callable, callback: Callable | None = None) -> Tensor:
    """The edit of a picture, (B, C, ...): clean + d where sigmas end at 0, else its state at the last level.

    model, source: (x, sigma (B,)) -> denoised under the words wanted and the words that describe clean; x is not used.
    With r = sigma_next / sigma and fresh noise on clean, x_s, each step: d <- r d + (1 - r) mean of [D(x_s + d; wanted)
    - D(x_s; source)] over `average` noises. strength in [0, 1]: the share of the steps, counted from the end, that is
    taken (n_max of the paper's N), 0 gives clean. finish: of these, the last ones are Euler steps under the words
    wanted alone, from noise on the edit (n_min). noise_sampler(sigma, sigma_next) -> unit noise. callback(i, x,
    denoised, sigma) with the edit so far. Equal predictions give clean itself where finish is 0.
    Flow models follow the paper; on others the same rule runs in sigma. Cost: `average` calls of model and of source
    for each step taken, one of model for each of finish. sigmas: strictly decreasing.
    Source: Kulikov et al. 2024, arXiv 2412.08629, algorithm 1, and the authors' code for finish.
    """
    process.lams(sigmas)
    steps = len(sigmas) - 1
    first = steps - round(strength * steps)
    last = steps - finish
    _check(strength, average, finish, steps - first)
    offset = 0.0 * clean
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        if not first <= i < last:
            continue
        at, found = clean.new_full((len(clean),), sigma), 0.0 * clean
        for _ in range(average):
            noisy = process.alpha(sigma) * clean + sigma * noise_sampler(sigma, sigma_next).to(clean)
            found = found + (model(noisy + offset, at) - source(noisy, at)) / average
        offset = offset + (1.0 - sigma_next / sigma) * (found - offset)
        if callback is not None:
            callback(i - first, clean + offset, clean + offset, sigma, of=steps - first)
    if sigmas[last] == 0.0:
        return clean + offset
    return _finished(model, offset, sigmas[last:], done=last - first, clean=clean, process=process,
                     noise_sampler=noise_sampler, callback=callback)


def _check(strength: float, average: int, finish: int, taken: int) -> None:
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength must lie in [0, 1], got {strength}")
    if average < 1:
        raise ValueError(f"average must be at least 1, got {average}")
    if not 0 <= finish <= taken:
        raise ValueError(f"finish must be 0 to the {taken} steps that strength {strength:g} takes, got {finish}; lower "
                         "it, or raise strength or the steps of the schedule")


def _finished(model: Callable, offset: Tensor, sigmas: list[float], *, done: int, clean: Tensor, process: Process,
              noise_sampler: Callable, callback: Callable | None) -> Tensor:
    """Euler steps under the words wanted from the state of the edit at sigmas[0]; none for one level."""
    sigma = sigmas[0]
    x = process.alpha(sigma) * clean + sigma * noise_sampler(sigma, sigma).to(clean) + offset
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = model(x, x.new_full((len(x),), sigma))
        if callback is not None:
            callback(done + i, x, denoised, sigma, of=done + len(sigmas) - 1)
        x = denoised + sigma_next / sigma * (x - denoised)
    return x
