"""RePaint: inpainting by a plain model, which goes back up the schedule to bring new and kept parts together."""
import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from ..samplers.ddim import plan_ddim
from ..samplers.linear import Step, Update
from ..samplers.process import Process
from .known import known_latent, new_share


def visits(steps: int, jump_length: int, resamples: int) -> list[int]:
    """The places of a schedule of `steps` steps that RePaint visits one after the other, 0 being its first level.

    From every jump_length-th place above the end, the end included, it goes back up jump_length places,
    resamples - 1 times. Source: Lugmayr et al. 2022, arXiv 2201.09865, algorithm 2 and its schedule.
    """
    if jump_length < 1 or resamples < 1:
        raise ValueError(f"jump_length and resamples must be at least 1, got {jump_length} and {resamples}")
    left = dict.fromkeys(range(0, steps - jump_length, jump_length), resamples - 1)
    places, from_end = [0], steps
    while from_end > 0:
        from_end -= 1
        places.append(steps - from_end)
        if left.get(from_end, 0) > 0:
            left[from_end] -= 1
            places += [steps - from_end - k for k in range(1, jump_length + 1)]
            from_end += jump_length
    return places


def plan_repaint(sigmas: list[float], *, jump_length: int = 10, resamples: int = 10, eta: float = 1.0,
                 process: Process) -> list[Step]:
    """Steps between the places visited: down by DDIM of that eta, up (sigma_next > sigma) by noise, no model call.

    Up: x_next = alpha_next / alpha x + sqrt(sigma_next^2 - (alpha_next / alpha sigma)^2) noise.
    """
    down = plan_ddim(sigmas, eta=eta, process=process)
    steps = []
    for place, following in pairwise(visits(len(down), jump_length, resamples)):
        if following > place:
            steps.append(down[place])
        else:
            sigma, sigma_next = sigmas[place], sigmas[following]
            ratio = process.alpha(sigma_next) / process.alpha(sigma)
            spread = math.sqrt((sigma_next - ratio * sigma) * (sigma_next + ratio * sigma))
            steps.append(Step(sigma, sigma_next, Update(ratio, noise_coef=spread)))
    return steps


@torch.no_grad()
def repaint(model: Callable, x: Tensor, steps: list[Step], *, share: Tensor, known: Tensor, process: Process,
            noise_sampler: Callable, callback: Callable | None = None) -> Tensor:
    """Carries x (B, ...) through a plan of plan_repaint; after each step down the kept part is the known latent under
    as much noise, the same draw as the step's own.

    share: 1 where the picture is made, 0 where known (B, ...) is kept. callback(i, x, denoised, sigma, of=calls).
    """
    calls, done = sum(step.sigma_next < step.sigma for step in steps), 0
    for step in steps:
        noise = noise_sampler(step.sigma, step.sigma_next)
        if step.sigma_next > step.sigma:
            x = step.predict(x, (), noise)
            continue
        denoised = model(x, x.new_full((len(x),), step.sigma))
        if callback is not None:
            callback(done, x, denoised, step.sigma, of=calls)
        done += 1
        kept = process.alpha(step.sigma_next) * known + step.sigma_next * noise
        x = share * step.predict(x, (denoised,), noise) + (1.0 - share) * kept
    return x


def sample_repaint(model: Callable, x: Tensor, sigmas: list[float], *, jump_length: int = 10, resamples: int = 10,
                   eta: float = 1.0, area: Tensor | None = None, known: Tensor | None = None, mask: Tensor | None,
                   clean: Tensor, process: Process, noise_of: Callable, callback: Callable | None = None) -> Tensor:
    """x (B, ...) at sigmas[0] -> a picture that is the known one where it is kept, and made to fit it elsewhere.

    area, mask: see new_share; known: the latent kept, else clean, what the run was given. eta: 1 is DDPM's noise, 0
    DDIM, where only kept parts and the ways up are noisy. resamples: how often each stretch of jump_length steps is
    gone through. Model calls: with N = len(sigmas) - 1 and J = len(range(0, N - jump_length, jump_length)),
    N + J (resamples - 1) jump_length.
    Source: Lugmayr et al. 2022, arXiv 2201.09865, algorithm 1 and 2, eq. 8.
    """
    steps = plan_repaint(sigmas, jump_length=jump_length, resamples=resamples, eta=eta, process=process)
    return repaint(model, x, steps, share=new_share(area, mask, x), known=known_latent(known, clean, x),
                   process=process, noise_sampler=noise_of("repaint"), callback=callback)
