"""One More Step: a start that knows what pure noise should become, in front of any sampler."""
import math

from torch import Tensor

from .process import VE, Process

NOISES = ("fresh", "fresh_variance", "deterministic")


def noise_share(sigma: float, kind: str = "fresh", *, process: Process = VE) -> float:
    """What unit noise is multiplied by, beside sigma, in the step from pure noise to sigma.

    'fresh' is new noise and 'deterministic' the very noise that the step started from (DDIM): both 1. 'fresh_variance'
    is new noise weighed by the variance sigma^2 / (alpha^2 + sigma^2) where its root belongs, as the published code has
    it: 0.2 % less than 1 at Stable Diffusion's highest level.
    """
    if kind not in NOISES:
        raise ValueError(f"noise must be one of {', '.join(NOISES)}, got {kind!r}")
    if kind != "fresh_variance":
        return 1.0
    return sigma / math.hypot(process.alpha(sigma), sigma)


def one_more_step(mean: Tensor, noise: Tensor, sigma: float, *, kind: str = "fresh", process: Process = VE) -> Tensor:
    """The state at sigma, alpha mean + sigma share noise: one step down from pure noise, whose prediction is `mean`.

    A model that predicts v says it as mean = -v. Plain sampling starts with mean = 0, though a little of the picture is
    left at its highest level, and so pulls every picture to the middle.
    Source: Hu et al. 2023, arXiv 2311.15744, algorithm 2; kind: see noise_share.
    """
    return process.alpha(sigma) * mean + sigma * noise_share(sigma, kind, process=process) * noise
