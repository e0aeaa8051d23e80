"""SDEdit: a picture is noised part of the way and sampled back."""
from collections.abc import Callable

from torch import Tensor

from ..samplers.linear import run
from ..samplers.process import FLOW, Process
from .inversion import require_picture


def start_level(strength: float, process: Process, top: float) -> float:
    """The level at which sigma / (alpha + sigma) is `strength`, but at most top."""
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength must lie in [0, 1], got {strength}")
    if process is FLOW:
        return min(strength, top)
    return top if strength == 1.0 else min(strength / (1.0 - strength), top)


def sample_sdedit(denoise: Callable, x: Tensor, sigmas: list[float], *, plan: Callable, strength: float = 0.75,
                  repeats: int = 1, after: Callable | None = None, clean: Tensor, noise_of: Callable,
                  process: Process, callback: Callable | None = None) -> Tensor:
    """The picture clean (B, C, ...) noised to a level and carried back by plan(levels), `repeats` times over.

    x is not used. The levels are those of sigmas below the start; strength 0 gives clean, 1 starts at sigmas[0], where
    nothing of clean is left if that is the model's top. Each time has fresh noise. after(x, sigma, process): what the
    sampler does to the state after each step. NFE repeats times the plan's.
    Source: Meng et al. 2021, arXiv 2108.01073, algorithm 1 and 3.
    """
    process.lams(sigmas)
    require_picture(clean)
    start = start_level(strength, process, sigmas[0])
    if repeats < 1 or (repeats > 1 and sigmas[-1] > 0.0):
        raise ValueError(f"repeats must be 1 or more, and more than 1 needs a schedule that ends at 0; got {repeats} "
                         f"on one that ends at {sigmas[-1]:.4g}")
    levels = [start, *[sigma for sigma in sigmas if sigma < start * (1.0 - 1e-6)]]
    if start == 0.0 or len(levels) < 2:
        return clean.to(x)
    steps, start_noise, step_noise = plan(levels), noise_of("sdedit"), noise_of("sdedit steps")
    picture, total = clean.to(x), repeats * len(steps)
    for turn in range(repeats):
        def report(i: int, state: Tensor, denoised: Tensor, sigma: float, turn: int = turn) -> None:
            if callback is not None:
                callback(turn * len(steps) + i, state, denoised, sigma, of=total)

        noisy = process.alpha(start) * picture + start * start_noise(start, 0.0).to(picture)
        picture = run(lambda state, sigma: denoise(state, state.new_full((len(state),), sigma)), noisy, steps,
                      noise_sampler=step_noise, callback=report,
                      after=after and (lambda state, sigma: after(state, sigma, process)))
    return picture
