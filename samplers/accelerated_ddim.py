"""Accelerated DDIM: the predicted noise extrapolated in the share of signal."""
import math
from itertools import pairwise

from .linear import Step, Update
from .process import VE, Process
from .transfer import RETURN_D, eps_of


def plan_accelerated_ddim(sigmas: list[float], *, last: str = "denoise", process: Process = VE) -> list[Step]:
    """DDIM plus K (e_1 - e_0), the exact integral of e drawn on as a straight line in alpha_bar = 1 / (1 + sigma^2).

    Order 2, one model call a step. last: at sigma = 0 return D ('denoise') or follow the formula ('follow', as
    published). NFE len(sigmas) - 1.
    Source: Li et al. 2024, arXiv 2403.03852, and the authors' code, which has this form of its sampler.
    """
    if process is not VE:
        raise ValueError("accelerated DDIM counts in the alpha_bar of a noise-prediction model; for flow models take "
                         "DEIS rhoAB with ab_order 1, its counterpart")
    if last not in ("denoise", "follow"):
        raise ValueError(f"last must be 'denoise' or 'follow', got {last!r}")
    process.lams(sigmas)
    share = [1.0 / (1.0 + sigma * sigma) for sigma in sigmas]
    angle = [math.asin(math.sqrt(a)) for a in share]
    steps = []
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        weights = [sigma_next - sigma]
        if i:
            k = (share[i] * (sigma_next - sigma) + angle[i + 1] - angle[i]) / (share[i] - share[i - 1])
            weights = [weights[0] - k, k]
        predict = Update(1.0, (0.0, *weights))
        if sigma_next == 0.0 and last == "denoise":
            predict = RETURN_D
        steps.append(Step(sigma, sigma_next, predict, keep=(eps_of(VE, sigma),)))
    return steps
