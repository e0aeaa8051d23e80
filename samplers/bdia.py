"""BDIA: each step also runs the last one backwards, which makes the sampler exactly invertible."""
from itertools import pairwise

from .linear import Step, Update
from .process import VE, Process
from .transfer import ddim


def plan_bdia(sigmas: list[float], *, gamma: float = 0.5, scaling: str = "vp", last: str = "denoise",
              process: Process = VE) -> list[Step]:
    """z_next = gamma (z_before - T_before) + T_next, T_j = DDIM from the state at hand to the level of z_j.

    z is the state of unit size ('vp', the paper's) or as it is ('ve'); flow models take it as it is. gamma = 0 is
    DDIM, order 1; gamma = 1 is a leapfrog, order 2 and only neutrally stable; in between order 1. For gamma > 0 the
    step can be undone: z_before = T_before + (z_next - T_next) / gamma. last: at sigma = 0 return D ('denoise') or go
    on with the formula ('exact', what an inversion needs). NFE len(sigmas) - 1.
    Source: Zhang et al. 2023, arXiv 2307.10829, eq. 17 to 20.
    """
    if not 0.0 <= gamma <= 1.0:
        raise ValueError(f"gamma must lie in [0, 1], got {gamma}")
    if scaling not in ("vp", "ve"):
        raise ValueError(f"scaling must be 'vp' or 've', got {scaling!r}")
    if last not in ("denoise", "exact"):
        raise ValueError(f"last must be 'denoise' or 'exact', got {last!r}")
    process.lams(sigmas)
    in_vp = scaling == "vp" and process is VE
    size = [(1.0 + sigma * sigma) ** -0.5 if in_vp else 1.0 for sigma in sigmas]
    keep = (Update(1.0),)  # the history holds the states
    steps = []
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x_coef, d_coef = ddim(process, sigma, sigma_next)
        predict = Update(x_coef, (d_coef,))
        if i and gamma and (sigma_next > 0.0 or last == "exact"):
            x_back, d_back = ddim(process, sigma, sigmas[i - 1])
            share = gamma * size[i - 1] / size[i + 1]
            predict = Update(x_coef - share * x_back, (d_coef - share * d_back, 0.0, share))
        steps.append(Step(sigma, sigma_next, predict, keep=keep))
    return steps
