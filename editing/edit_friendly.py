"""Edit-friendly DDPM inversion: noise maps of a picture that hold its layout, for edits by words."""
import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from ..samplers.linear import Update
from ..samplers.process import Process
from .inversion import require_picture
from .noise_maps import NoiseMaps


def posterior(process: Process, sigma: float, sigma_next: float, eta: float) -> tuple[Update, float]:
    """(the mean of a DDPM step as an update of x by D, its standard deviation v).

    mean = alpha_next D + sqrt(sigma_next^2 - v^2) e with e = (x - alpha D) / sigma; v = eta sigma_next sqrt(1 - (alpha
    sigma_next / (alpha_next sigma))^2), 0 for the step to sigma 0. Source: Song et al. 2020, arXiv 2010.02502, eq. 12
    and 16.
    """
    alpha, alpha_next = process.alpha(sigma), process.alpha(sigma_next)
    v = eta * sigma_next * math.sqrt(1.0 - (alpha * sigma_next / (alpha_next * sigma)) ** 2)
    e_coef = math.sqrt(sigma_next * sigma_next - v * v)
    return Update(e_coef / sigma, (alpha_next - e_coef * alpha / sigma,)), v


def extract(denoise: Callable, clean: Tensor, sigmas: list[float], *, eta: float = 1.0, exact_last: bool = True,
            process: Process, noise_sampler: Callable, callback: Callable | None = None) -> tuple[Tensor, Tensor]:
    """(states (N + 1, B, C, ...) at every level, noise maps (N, B, C, ...)) of clean (B, C, ...), both on the CPU.

    Every level has noise of its own: x_i = alpha_i clean + sigma_i eps_i; z_i = (x_{i+1} - mean_i(x_i)) / v_i, so that
    DDPM steps with these z pass through all x_i and end at clean. denoise(x, sigma (B,)) -> D under the source's words.
    The step to sigma 0 has v = 0: its map is what is missing of clean where exact_last, else 0, as published.
    sigmas: strictly decreasing. NFE len(sigmas) - 1. Source: Huberman-Spiegelglas et al. 2023, arXiv 2304.06140,
    algorithm 1.
    """
    if not 0.0 < eta <= 1.0:
        raise ValueError(f"eta must lie in (0, 1], got {eta}; without noise there are no maps: take DDIM inversion")
    process.lams(sigmas)
    require_picture(clean)
    noised = [process.alpha(sigma) * clean + sigma * noise_sampler(sigma, 0.0).to(clean) if sigma > 0.0 else clean
              for sigma in sigmas]
    x, states, maps = noised[0], [noised[0].cpu()], []
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        mean, v = posterior(process, sigma, sigma_next, eta)
        denoised = denoise(x, x.new_full((len(x),), sigma))
        if callback is not None:
            callback(i, x, denoised, sigma)
        middle = mean(x, (denoised,))
        z = (noised[i + 1] - middle) / (v or 1.0)
        if i == len(sigmas) - 2 and not exact_last:
            z = torch.zeros_like(z)
        x = middle + (v or 1.0) * z  # and not noised[i + 1], so that rounding does not add up
        states.append(x.cpu())
        maps.append(z.cpu())
    return torch.stack(states), torch.stack(maps)


def sample_edit_friendly(denoise: Callable, x: Tensor, sigmas: list[float], *, noise_maps: NoiseMaps,
                         skip: float = 0.36, clean: Tensor, mask: Tensor | None = None, process: Process,
                         callback: Callable | None = None) -> Tensor:
    """DDPM steps with the noise of a picture: the picture itself under the words and CFG it was inverted with, its
    edit under others.

    x gives the size alone. denoise(x, sigma (B,)) -> D; sigmas: those of the inversion. skip in [0, 1]: share of the
    steps, from the noisy end, that is left out; 1 gives the picture. mask (B, C, ...): 1 where the picture is made; the
    rest has the picture's own states, and ends as clean. NFE the steps that are left.
    Source: arXiv 2304.06140, section 3.3.
    """
    if not 0.0 <= skip <= 1.0:
        raise ValueError(f"skip must lie in [0, 1], got {skip:g}: it is the share of the steps left out, 0.36 for 36 "
                         "of 100")
    states, maps = noise_maps.at_run("edit_friendly", sigmas, x)
    levels = [*noise_maps.sigmas]
    steps = len(levels) - 1
    first = round(skip * steps)
    state = states[first].to(x)
    for i in range(first, steps):
        mean, v = posterior(process, levels[i], levels[i + 1], noise_maps.about["eta"])
        if mask is not None:
            state = state * mask + states[i].to(x) * (1.0 - mask)
        denoised = denoise(state, state.new_full((len(state),), levels[i]))
        if callback is not None:
            callback(i - first, state, denoised, levels[i], of=steps - first)
        state = mean(state, (denoised,)) + (v or 1.0) * maps[i].to(x)
    return state if mask is None else state * mask + clean.to(x) * (1.0 - mask)
