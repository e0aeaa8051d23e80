"""Lambda-DDIM: DDIM in coordinates that grow or decay in time, an error of its own against that of DDIM."""
import math
from itertools import pairwise

from .adams import integral
from .clock import Clock, linear_vp_clock
from .linear import Step, Update
from .process import VE, Process
from .transfer import RETURN_D, eps_of


def plan_lambda_ddim(sigmas: list[float], *, lam: float = -1.0, time_map: str = "linear_vp", process: Process = VE,
                     clock: Clock | None = None, phi: list[float] | None = None) -> list[Step]:
    """exp(lam t_next) x_next = exp(lam t) (1 - lam (t - t_next)) x + (Phi(t_next) - Phi(t)) e,
    Phi(t) the integral of exp(lam tau) dsigma from t = 0.

    lam = 0 is DDIM; useful values are negative, near -1. t: the time of the published SDE ('linear_vp', 0 to 1), or the
    model's ('model', clock, scaled to 1000 steps). A step's start is expanded in its length, so that a constant
    prediction is not carried over exactly: what the method trades for less error elsewhere. Order 1. The step to
    sigma = 0 returns D. phi: values of Phi at sigmas, in place of the quadrature. NFE len(sigmas) - 1.
    Source: Pandey et al. 2023, arXiv 2310.07894, section 3 with B = lam I.
    """
    if process is not VE:
        raise ValueError("lambda-DDIM is made of the VP time of noise-prediction models, which flow models have not; "
                         "take "
                         "DDIM or exponential Adams")
    if time_map not in ("linear_vp", "model"):
        raise ValueError(f"time_map must be 'linear_vp' or 'model', got {time_map!r}")
    process.lams(sigmas)
    time_of = linear_vp_clock().time_of
    if time_map == "model" and clock is not None:
        def time_of(sigma: float) -> float:
            return clock.time_of(sigma) / 1000.0

    steps = []
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        keep = (eps_of(VE, sigma),)
        if sigma_next == 0.0:
            steps.append(Step(sigma, 0.0, RETURN_D, keep=keep))
            continue
        time, time_next = time_of(sigma), time_of(sigma_next)
        grown = phi[i + 1] - phi[i] if phi else integral(
            lambda level: math.exp(lam * time_of(level)), sigma, sigma_next)
        back = math.exp(-lam * time_next)
        ratio = math.exp(lam * (time - time_next)) * (1.0 - lam * (time - time_next))
        steps.append(Step(sigma, sigma_next, Update(ratio, (0.0, back * grown)), keep=keep))
    return steps
