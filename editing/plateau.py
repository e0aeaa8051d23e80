"""Few-step estimation with little chance in it: a plateau at one noise level, then a plain way down."""
from collections.abc import Callable
from itertools import pairwise

from torch import Tensor

from ..samplers.process import Process

STARTS = ("prediction", "latent")


def sample_plateau_refine(model: Callable, x: Tensor, sigmas: list[float], *, clean: Tensor, plateau: float = 0.5,
                          repeats: int = -1, start: str = "prediction", average: bool = False, process: Process,
                          noise_sampler: Callable, callback: Callable | None = None) -> Tensor:
    """The state (B, C, ...) at the last of sigmas, refined from an estimate at a moderate level.

    model(x, sigma (B,)) -> denoised; x: the state at sigmas[0], noise on clean. The estimate is the prediction from x,
    or clean itself (start 'latent'). It is noised to the level that a share `plateau` of the steps leads to, and
    `repeats` times predicted and noised anew there, -1 for as many times as steps were left out; average: the last time
    the mean of those predictions. Euler steps follow to the end. plateau in [0, 1); at 0 the level is sigmas[0].
    Repeats 0 from 'latent' is img2img from that level. noise_sampler(sigma, sigma_next) -> unit noise.
    callback(i, x, denoised, sigma, of=all of them).
    Cost: a call for the prediction, one for each repeat and each Euler step.
    Source: Ye et al. 2024, arXiv 2406.16864, section 4.1, and the authors' sampler; average is ours.
    """
    process.lams(sigmas)
    steps = len(sigmas) - 1
    _check(plateau, repeats, start)
    left_out = min(round(plateau * steps), steps - 1)
    level, rest = sigmas[left_out], sigmas[left_out:]
    at = x.new_full((len(x),), level)

    def noised(estimate: Tensor) -> Tensor:
        return process.alpha(level) * estimate + level * noise_sampler(level, level).to(estimate)

    estimate = model(x, x.new_full((len(x),), sigmas[0])) if start == "prediction" else clean
    total = 0.0 * clean
    times = left_out if repeats < 0 else repeats
    x = noised(estimate)
    for i in range(times):
        estimate = model(x, at)
        total = total + estimate
        if callback is not None:
            callback(i, x, estimate, level, of=times + len(rest) - 1)
        x = noised(total / times if average and i == times - 1 else estimate)
    for i, (sigma, sigma_next) in enumerate(pairwise(rest)):
        denoised = model(x, x.new_full((len(x),), sigma))
        if callback is not None:
            callback(times + i, x, denoised, sigma, of=times + len(rest) - 1)
        x = denoised + sigma_next / sigma * (x - denoised)
    return x


def _check(plateau: float, repeats: int, start: str) -> None:
    if not 0.0 <= plateau < 1.0:
        raise ValueError(f"plateau must be at least 0 and below 1, got {plateau}; 0.5 is the middle of the schedule")
    if repeats < -1:
        raise ValueError(f"repeats must be at least 0, or -1 for as many as steps are left out, got {repeats}")
    if start not in STARTS:
        raise ValueError(f"start must be one of {', '.join(STARTS)}, got {start!r}")
