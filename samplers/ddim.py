"""DDIM, from the deterministic step (eta = 0) to DDPM's posterior (eta = 1)."""
import math
from itertools import pairwise

from .linear import Step, Update
from .process import VE, Process


def plan_ddim(sigmas: list[float], *, eta: float = 0.0, s_noise: float = 1.0, process: Process = VE) -> list[Step]:
    """x_next = alpha_next D + sqrt(sigma_next^2 - s^2) eps + s noise, with
    s = eta sigma_next sqrt(1 - (SNR / SNR_next)), eps = (x - alpha D) / sigma.

    eta: 0 is the probability-flow step (Euler), 1 the posterior of DDPM. s_noise: factor on the noise.
    sigmas: strictly decreasing, the last may be 0, where the step returns D. NFE len(sigmas) - 1, order 1.
    Source: Song et al. 2020, arXiv 2010.02502, eq. 12 and 16.
    """
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta must lie in [0, 1], got {eta}; above 1 DDIM's step is undefined")
    steps = []
    lams = process.lams(sigmas)
    for (sigma, sigma_next), (lam, lam_next) in zip(pairwise(sigmas), pairwise(lams)):
        spread = eta * sigma_next * math.sqrt(-math.expm1(-2.0 * (lam_next - lam)))
        kept = math.sqrt((sigma_next - spread) * (sigma_next + spread)) / sigma
        steps.append(Step(sigma, sigma_next, Update(
            kept, (process.alpha(sigma_next) - kept * process.alpha(sigma),), s_noise * spread)))
    return steps
