"""BDIA inversion: up to the noise by steps that BDIA undoes exactly."""
from collections.abc import Callable

from torch import Tensor

from ..samplers.process import VE, Process
from ..samplers.transfer import ddim
from .inversion import exactly, require_picture, slope
from .noise_maps import NoiseMaps


def invert_bdia(denoise: Callable, clean: Tensor, sigmas: list[float], *, gamma: float = 0.96, scaling: str = "vp",
                process: Process, callback: Callable | None = None) -> tuple[Tensor, Tensor]:
    """(state at sigmas[0], state at sigmas[1]) of clean (B, C, ...) at sigmas[-1], in float64.

    One DDIM step up to the last level but one; then z_before = T_before + (z_next - T_next) / gamma, BDIA's step solved
    for its oldest state, see samplers.bdia. Rounding grows as gamma^-N; so does an alternating part that the step
    itself leaves, and makes states at low gamma and high CFG far from normal. sigmas: falling. NFE len(sigmas) - 1.
    Source: Zhang et al. 2023, arXiv 2307.10829, eq. 20.
    """
    if not 0.0 < gamma <= 1.0:
        raise ValueError(f"gamma must lie in (0, 1], got {gamma}; with 0 no step can be undone")
    if len(sigmas) < 3:
        raise ValueError(f"BDIA inversion needs at least 2 steps, got {len(sigmas) - 1}; raise the steps")
    require_picture(clean)
    denoise, after = exactly(denoise, clean)
    x = after + (sigmas[-2] - sigmas[-1]) * slope(denoise, after, sigmas[-1], process)
    steps = len(sigmas) - 1
    for i in range(steps - 1, 0, -1):
        denoised = denoise(x, x.new_full((len(x),), sigmas[i]))
        if callback is not None:
            callback(steps - 1 - i, x, denoised, sigmas[i], of=steps - 1)
        share = gamma * _gauge(scaling, process, sigmas[i - 1], sigmas[i + 1])
        before = _to(x, denoised, sigmas[i], sigmas[i - 1], process)
        x, after = before + (after - _to(x, denoised, sigmas[i], sigmas[i + 1], process)) / share, x
    return x, after


def sample_bdia_back(denoise: Callable, x: Tensor, sigmas: list[float], *, noise_maps: NoiseMaps, process: Process,
                     callback: Callable | None = None) -> Tensor:
    """The state at sigmas[-1] by BDIA's steps from the two states of an inversion: its picture under the words and CFG
    it was inverted with.

    x gives the size alone; gamma and scaling are the inversion's. NFE len(sigmas) - 2.
    """
    states, _ = noise_maps.at_run("bdia", sigmas, x)
    sigmas, steps = [*noise_maps.sigmas], len(sigmas) - 1
    denoise, wide = exactly(denoise, x)
    before, state = (kept.to(wide) for kept in states)
    for i in range(1, steps):
        denoised = denoise(state, state.new_full((len(state),), sigmas[i]))
        if callback is not None:
            callback(i - 1, state, denoised, sigmas[i], of=steps - 1)
        share = noise_maps.about["gamma"] * _gauge(noise_maps.about["scaling"], process, sigmas[i - 1], sigmas[i + 1])
        back = before - _to(state, denoised, sigmas[i], sigmas[i - 1], process)
        before, state = state, _to(state, denoised, sigmas[i], sigmas[i + 1], process) + share * back
    return state.to(x.dtype)


def _to(x: Tensor, denoised: Tensor, sigma: float, sigma_to: float, process: Process) -> Tensor:
    """DDIM from a state and its D to any level."""
    x_coef, d_coef = ddim(process, sigma, sigma_to)
    return x_coef * x + d_coef * denoised


def _gauge(scaling: str, process: Process, sigma_before: float, sigma_next: float) -> float:
    """What the difference of old states counts at the new one: states are compared at unit size in 'vp'."""
    if scaling not in ("vp", "ve"):
        raise ValueError(f"scaling must be 'vp' or 've', got {scaling!r}")
    if scaling == "ve" or process is not VE:
        return 1.0
    return ((1.0 + sigma_next * sigma_next) / (1.0 + sigma_before * sigma_before)) ** 0.5
