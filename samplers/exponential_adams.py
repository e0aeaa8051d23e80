"""Exponential Adams solvers: multistep in lambda, order 1 to 4, deterministic or stochastic."""
import math
from itertools import pairwise

from .exponential import decay, lagrange_weights
from .linear import Step, Update
from .process import VE, Process, counted_in
from .transfer import ddim


def plan_exponential_adams(sigmas: list[float], *, order: int = 3, eta: float = 0.0, s_noise: float = 1.0,
                           lambda_mode: str = "log_snr", process: Process = VE) -> list[Step]:
    """Steps exact for every D that is a polynomial in lambda of degree < order.

    With u = x / sigma:  du = (-eta u + (1 + eta) exp(lambda) D) dlambda + sqrt(2 eta) dW.
    D is replaced by the polynomial through its last `order` values. Warms up from order 1; the step to sigma = 0
    returns D. A flow's second step after sigma = 1: see reaches_infinity. lambda_mode: see counted_in; noise needs
    log_snr and takes it. Order 1 with eta = 0 is DDIM; eta = 1 is the reverse SDE. s_noise: factor on the noise.
    sigmas: strictly decreasing, the last may be 0. NFE len(sigmas) - 1.
    Error per step O(h^(order + 1)), h the step in lambda, for eta = 0.
    Source: Hochbruck & Ostermann 2010, exponential Adams; order 2 is the Taylor form of DPM-Solver++(2M), 2211.01095.
    """
    if not 1 <= order <= 4:
        raise ValueError(f"order must be 1, 2, 3 or 4, got {order}")
    if eta == 0.0:
        process = counted_in(process, sigmas, lambda_mode)
    lams = process.lams(sigmas)
    steps = []
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        h = lams[i + 1] - lams[i]
        used = order if math.isfinite(h) else 1
        nodes = [lam - lams[i] for lam in lams[i::-1][:used] if math.isfinite(lam)] or [0.0]
        coefs = [process.alpha(sigma_next) * w for w in lagrange_weights(h, nodes, rate=1.0 + eta)]
        if eta == 0.0:
            coefs[0] += ddim(process, sigma, sigma_next)[1] - math.fsum(coefs)
        steps.append(Step(sigma, sigma_next, Update(
            x_coef=sigma_next / sigma * decay(eta, h),
            d_coefs=tuple(coefs),
            noise_coef=s_noise * sigma_next * math.sqrt(1.0 - decay(eta, 2.0 * h)))))
    if eta == 0.0 and reaches_infinity(lams, order):
        steps[1:2] = plan_exponential_adams(sigmas, order=2)[1:2]
    return steps


def reaches_infinity(lams: list[float], order: int) -> bool:
    """Whether the second step takes the VE form, where its history is not infinitely far away, as it is in log-SNR.

    That step would be of order 1 else. Order 3 in fewer than 8 steps, and order 4, swing more with it than without.
    """
    return lams[0] == -math.inf and (order == 2 or order == 3 and len(lams) > 8)
