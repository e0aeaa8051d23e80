"""EDM's sampler: Heun's method in sigma, with optional churn."""
import math
from itertools import pairwise

from .linear import Stage, Step, Update
from .process import VE, Process
from .transfer import RETURN_D, eps_of


def plan_edm_heun(sigmas: list[float], *, s_churn: float = 0.0, s_min: float = 0.0, s_max: float = 1000.0,
                  s_noise: float = 1.0, alpha: float = 1.0, process: Process = VE) -> list[Step]:
    """Two model calls a step, at its start and at `alpha` of its way in sigma: 1 Heun, 2/3 Ralston, 1/2 midpoint.

    s_churn: before a step from a sigma within [s_min, s_max] the state is noised up to sigma (1 + gamma), gamma =
    min(s_churn / steps, sqrt(2) - 1); s_noise: factor on that noise. On flow models the state is also scaled, so that
    it has the signal of its new level, and sigma = 1 stays. The step to sigma = 0 is Euler's, which returns D.
    NFE 2 len(sigmas) - 3 for schedules that end at 0. Order 2.
    Source: Karras et al. 2022, arXiv 2206.00364, algorithms 1 and 2; alpha: appendix D.2.
    """
    if not 0.0 < alpha <= 1.0:
        raise ValueError(f"alpha must lie in (0, 1], got {alpha}")
    if s_churn < 0.0:
        raise ValueError(f"s_churn must be at least 0, got {s_churn}")
    process.lams(sigmas)
    levels = sum(sigma > 0.0 for sigma in sigmas)
    gamma = min(s_churn / levels, math.sqrt(2.0) - 1.0)
    steps = []
    for sigma, sigma_next in pairwise(sigmas):
        hot = min(sigma * (1.0 + gamma), process.sigma_limit) if s_min <= sigma <= s_max else sigma
        before = None if hot <= sigma else _churn(process, sigma, hot, s_noise)
        if sigma_next == 0.0:
            steps.append(Step(hot, 0.0, RETURN_D, before=before))
            continue
        h, share = sigma_next - hot, 1.0 / (2.0 * alpha)
        inner = hot + alpha * h
        stage = Stage(inner, Update(1.0, (0.0, alpha * h)), (eps_of(VE, inner),))
        steps.append(Step(hot, sigma_next, Update(1.0, (0.0, h * share, h * (1.0 - share))), (stage,),
                          keep=(eps_of(VE, hot),), before=before))
    return steps


def _churn(process: Process, sigma: float, hot: float, s_noise: float) -> Update:
    ratio = process.alpha(hot) / process.alpha(sigma)
    return Update(ratio, (), s_noise * math.sqrt(hot * hot - (ratio * sigma) ** 2))
