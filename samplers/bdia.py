"""BDIA: each step also runs the last one backwards, which makes the sampler exactly invertible."""
import math
from itertools import pairwise

from .exponential import lagrange_weights
from .linear import Stage, Step, Update
from .process import VE, Process
from .transfer import RETURN_D, ddim, eps_of

BASES = ("ddim", "edm_heun", "dpmpp")


def plan_bdia(sigmas: list[float], *, gamma: float = 0.5, scaling: str = "vp", last: str = "denoise",
              base: str = "ddim", process: Process = VE) -> list[Step]:
    """z_next = gamma (z_before - T_before) + T_next, T_j = the base's step from the state at hand to the level of z_j.

    z is the state of unit size ('vp', the paper's) or as it is ('ve'); flow models take it as it is. base: 'ddim',
    'edm_heun' or 'dpmpp', DPM-Solver++(2M)'s exact integral; gamma = 0 is the base. With DDIM gamma = 1 is a leapfrog,
    order 2 and only neutrally stable, gamma below it order 1; with the others the order is 2 for any. For gamma > 0 a
    step of DDIM can be undone: z_before = T_before + (z_next - T_next) / gamma. last: at sigma = 0 return D ('denoise')
    or go on with the formula ('exact', what an inversion needs). NFE len(sigmas) - 1; edm_heun twice that, less one
    where the schedule ends at 0.
    Source: Zhang et al. 2023, arXiv 2307.10829, eq. 17 to 20. The other bases' T_before is ours: the integral back of
    what is known there, the mean slope of its two ends (edm_heun) or D's straight line through them (dpmpp).
    """
    if base not in BASES:
        raise ValueError(f"base must be one of {', '.join(BASES)}, got {base!r}")
    if not 0.0 <= gamma <= 1.0:
        raise ValueError(f"gamma must lie in [0, 1], got {gamma}")
    if scaling not in ("vp", "ve"):
        raise ValueError(f"scaling must be 'vp' or 've', got {scaling!r}")
    if last not in ("denoise", "exact"):
        raise ValueError(f"last must be 'denoise' or 'exact', got {last!r}")
    lams = process.lams(sigmas)
    in_vp = scaling == "vp" and process is VE
    size = [(1.0 + sigma * sigma) ** -0.5 if in_vp else 1.0 for sigma in sigmas]
    move = {"ddim": _ddim, "edm_heun": _heun, "dpmpp": _dpmpp}[base]
    steps = []
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        predict = move(process, sigmas, lams, i, i + 1)
        if sigma_next == 0.0 and last == "denoise":
            predict = RETURN_D
        elif i and gamma:
            back, share = move(process, sigmas, lams, i, i - 1), gamma * size[i - 1] / size[i + 1]
            coefs = [there - share * here for there, here in zip(predict.d_coefs, back.d_coefs)]
            predict = Update(predict.x_coef - share * back.x_coef, (*coefs, share))
        keep, stages = (Update(1.0),), ()  # the history holds the states, and ahead of each what the base reads
        if base != "ddim":
            keep = (*keep, eps_of(VE, sigma) if base == "edm_heun" else RETURN_D)
        if base == "edm_heun" and sigma_next > 0.0:
            stages = (Stage(sigma_next, Update(1.0, (0.0, sigma_next - sigma)), (eps_of(VE, sigma_next),)),)
        steps.append(Step(sigma, sigma_next, predict, stages, keep=keep))
    return steps


def _ddim(process: Process, sigmas: list[float], lams: list[float], i: int, to: int) -> Update:
    """From level i to level `to`, of D and the state; as the others, without the state before it, which comes next."""
    x_coef, d_coef = ddim(process, sigmas[i], sigmas[to])
    return Update(x_coef, (d_coef, 0.0))


def _dpmpp(process: Process, sigmas: list[float], lams: list[float], i: int, to: int) -> Update:
    """Of D, D, the state, and D before it."""
    (x_coef, d_coef), weight = ddim(process, sigmas[i], sigmas[to]), 0.0
    if i and math.isfinite(lams[i - 1]) and math.isfinite(lams[to]):
        nodes = [0.0, lams[i - 1] - lams[i]]
        weight = process.alpha(sigmas[to]) * lagrange_weights(lams[to] - lams[i], nodes)[1]
    return Update(x_coef, (d_coef - weight, 0.0, 0.0, weight))


def _heun(process: Process, sigmas: list[float], lams: list[float], i: int, to: int) -> Update:
    """Of D, the slope at the next level (none at 0), the slope, the state, and the last step's two slopes."""
    half, staged = (sigmas[to] - sigmas[i]) / 2.0, sigmas[i + 1] > 0.0
    if to < i:
        return Update(1.0, (*[0.0] * (1 + staged), half, 0.0, 0.0, half))
    return Update(1.0, (0.0, half, half, 0.0, 0.0, 0.0)) if staged else Update(0.0, (1.0, 0.0, 0.0, 0.0, 0.0))
