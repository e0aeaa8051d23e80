"""Gradient estimation: the predicted noise pushed past its last value."""
from itertools import pairwise

from .linear import Step, Update
from .process import FLOW, VE, Process
from .transfer import RETURN_D, eps_of


def plan_gradient_estimation(sigmas: list[float], *, gamma: float = 2.0, mu: float = 0.0, s_noise: float = 1.0,
                             last: str = "denoise", process: Process = VE) -> list[Step]:
    """x_next = x + (sigma_p - sigma) (gamma e_0 + (1 - gamma) e_1) + sqrt(sigma_next^2 - sigma_p^2) noise.

    sigma_p = (sigma_next / sigma^mu)^(1 / (1 - mu)): mu = 0 adds no noise, 1/2 is close to DDPM. gamma = 1 is DDIM;
    gamma = 2 is the paper's choice, of order 1 like DDIM but with less error at few steps. last: at sigma = 0 the step
    either returns D ('denoise') or follows the same formula ('follow', as published). NFE len(sigmas) - 1.
    Source: Permenter & Yuan 2023, arXiv 2306.04848, algorithm 1 and section 5.
    """
    if not 0.0 <= mu < 1.0:
        raise ValueError(f"mu must lie in [0, 1), got {mu}")
    if mu > 0.0 and process is FLOW:
        raise ValueError("gradient estimation adds noise in the VE form only; on flow models set mu to 0, or take DDIM "
                         "with eta")
    if last not in ("denoise", "follow"):
        raise ValueError(f"last must be 'denoise' or 'follow', got {last!r}")
    process.lams(sigmas)
    steps = []
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        keep = (eps_of(VE, sigma),)
        if sigma_next == 0.0 and last == "denoise":
            steps.append(Step(sigma, 0.0, RETURN_D, keep=keep))
            continue
        to = (sigma_next / sigma ** mu) ** (1.0 / (1.0 - mu))
        weights = (gamma, 1.0 - gamma) if i else (1.0,)
        noise = s_noise * max(sigma_next ** 2 - to ** 2, 0.0) ** 0.5
        steps.append(Step(sigma, sigma_next, Update(1.0, (0.0, *((to - sigma) * w for w in weights)), noise),
                          keep=keep))
    return steps
