"""SDE-DPM-Solver++: the data prediction carried along the reverse SDE, fresh noise in every step."""
import math
from itertools import pairwise
from typing import NamedTuple

from .dpm_solver import between, differences, third_order_is_halved
from .exponential import decay
from .linear import Stage, Step, Update
from .process import VE, Process
from .transfer import RETURN_D

METHODS = ("multistep", "singlestep", "ancestral")


class _Options(NamedTuple):
    """What the three methods take. midpoint and halve_t2: see differences; r, shared: of the second call."""
    process: Process
    eta: float
    s_noise: float
    order: int
    midpoint: bool
    halve_t2: bool
    r: float
    shared: bool


def plan_dpm_solver_pp_sde(sigmas: list[float], *, order: int = 2, method: str = "multistep", eta: float = 1.0,
                           s_noise: float = 1.0, solver_type: str = "midpoint", third_order_term: str = "exact",
                           r: float = 0.5, stage_noise: str = "shared", process: Process = VE) -> list[Step]:
    """Steps of SDE-DPM-Solver++(1), (2M), (3M) or (2S).

    method: 'multistep' calls the model once a step, orders 1 to 3, with the noise of the SDE
        du = (-eta u + (1 + eta) exp(lambda) D) dlambda + sqrt(2 eta) dW,  u = x / sigma.
    'singlestep' (order 2) calls it again at the share r of the step in lambda, on a state with that level's noise;
    'ancestral' (order 2) on a state without, takes the step to a lower level and adds noise at the end. Both draw
    eta^2 of DDPM's variance, capped where nothing of the old noise is left. eta = 0 is DPM-Solver++, eta = 1 the
    reverse SDE in every method.
    solver_type: multistep order 2, as in DPM-Solver++. third_order_term: order 3, as there. stage_noise: 'shared'
    makes the noise inside a singlestep part of the step's noise, as one Brownian path has it; 'fresh' draws both, as
    the published formula reads. The step to sigma = 0 returns D. NFE len(sigmas) - 1, of order 2 singlestep and
    ancestral twice that but for the step to 0.
    Source: Lu et al. 2022, arXiv 2211.01095, section 6 and appendix; 3M and the two-call forms as in k-diffusion.
    """
    _check(method, order, solver_type, stage_noise)
    if eta < 0.0 or not 0.0 < r < 1.0:
        raise ValueError(f"need eta >= 0 and 0 < r < 1, got eta {eta} and r {r}")
    options = _Options(process, eta, s_noise, order, solver_type == "midpoint" and order == 2,
                       third_order_is_halved(third_order_term), r, stage_noise == "shared")
    lams = process.lams(sigmas)
    if method == "multistep":
        return _multistep(sigmas, lams, options)
    step_of = _first if order == 1 else {"ancestral": _ancestral, "singlestep": _singlestep}[method]
    return [Step(sigma, 0.0, RETURN_D) if sigma_next == 0.0 else step_of(sigma, sigma_next, options)
            for sigma, sigma_next in pairwise(sigmas)]


def _check(method: str, order: int, solver_type: str, stage_noise: str) -> None:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if order not in ((1, 2, 3) if method == "multistep" else (1, 2)):
        raise ValueError(f"order must be 1, 2 or 3 (multistep) or 1 or 2, got {order} with {method}")
    if solver_type not in ("midpoint", "taylor"):
        raise ValueError(f"solver_type must be 'midpoint' or 'taylor', got {solver_type!r}")
    if stage_noise not in ("shared", "fresh"):
        raise ValueError(f"stage_noise must be 'shared' or 'fresh', got {stage_noise!r}")


def _multistep(sigmas: list[float], lams: list[float], options: _Options) -> list[Step]:
    process, eta, steps = options.process, options.eta, []
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        h = lams[i + 1] - lams[i]
        past = [b - a for a, b in pairwise(lams[:i + 1]) if math.isfinite(b - a)][::-1][:options.order - 1]
        alpha_next, z = process.alpha(sigma_next), (1.0 + eta) * h
        weights = differences(h, past, z, options.midpoint, options.halve_t2) if math.isfinite(h) else [0.0]
        coefs = [alpha_next * w for w in weights]
        coefs[0] -= alpha_next * math.expm1(-z)
        noise = options.s_noise * sigma_next * math.sqrt(1.0 - decay(eta, 2.0 * h))
        steps.append(Step(sigma, sigma_next, Update(sigma_next / sigma * decay(eta, h), tuple(coefs), noise)))
    return steps


def _split(process: Process, sigma: float, sigma_to: float, eta: float) -> tuple[float, float]:
    """(what is left of the noise at sigma, fresh noise), of state size: their squares sum to sigma_to^2."""
    alpha, alpha_to = process.alpha(sigma), process.alpha(sigma_to)
    shrink = sigma_to * alpha / (sigma * alpha_to)  # the ratio of the two levels in the VE form, 0 from a flow's top
    up = sigma_to * min(eta * math.sqrt(1.0 - shrink * shrink), 1.0)
    return math.sqrt(sigma_to * sigma_to - up * up), up


def _transfer(process: Process, sigma: float, sigma_to: float, down: float) -> tuple[float, float]:
    """alpha_to D + down * (x - alpha D) / sigma as coefficients of x and D."""
    return down / sigma, process.alpha(sigma_to) - down / sigma * process.alpha(sigma)


def _first(sigma: float, sigma_next: float, options: _Options) -> Step:
    down, up = _split(options.process, sigma, sigma_next, options.eta)
    x_coef, d_coef = _transfer(options.process, sigma, sigma_next, down)
    return Step(sigma, sigma_next, Update(x_coef, (d_coef,), options.s_noise * up))


def _ancestral(sigma: float, sigma_next: float, options: _Options) -> Step:
    """2S in the VE form to the level whose noise is left, then fresh noise; alpha is brought back with it."""
    process, r = options.process, options.r
    down, up = _split(process, sigma, sigma_next, options.eta)
    if down == 0.0:  # nothing of the old noise is left, so there is no level to go to
        return _first(sigma, sigma_next, options)
    level = process.sigma(math.log(process.alpha(sigma_next) / down))
    inner = between(sigma, level, [r], process)[0]
    to_inner, d_to_inner = _transfer(process, sigma, inner, inner)
    x_coef, d_coef = _transfer(process, sigma, sigma_next, down)
    newest = d_coef / (2.0 * r)
    return Step(sigma, sigma_next, Update(x_coef, (newest, d_coef - newest), options.s_noise * up),
                (Stage(inner, Update(to_inner, (d_to_inner,))),))


def _singlestep(sigma: float, sigma_next: float, options: _Options) -> Step:
    process, eta, s_noise, r = options.process, options.eta, options.s_noise, options.r
    inner = between(sigma, sigma_next, [r], process)[0]
    inner_down, inner_up = _split(process, sigma, inner, eta)
    down, up = _split(process, sigma, sigma_next, eta)
    to_inner, d_to_inner = _transfer(process, sigma, inner, inner_down)
    x_coef, d_coef = _transfer(process, sigma, sigma_next, down)
    newest = d_coef / (2.0 * r)
    coefs = [newest, 0.0, d_coef - newest]
    if options.shared and inner_up > 0.0:
        # the stage's noise, read off its state, goes on to the end of the step; the rest of it is drawn there
        carried = _split(process, inner, sigma_next, eta)[0] / inner
        x_coef -= carried * to_inner
        coefs[1] += carried
        coefs[2] -= carried * d_to_inner
        up = math.sqrt(max(up * up - (carried * inner_up) ** 2, 0.0))
    return Step(sigma, sigma_next, Update(x_coef, tuple(coefs), s_noise * up),
                (Stage(inner, Update(to_inner, (d_to_inner,), s_noise * inner_up), keep=(Update(1.0),)),))
