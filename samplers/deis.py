"""DEIS: the noise prediction extrapolated by polynomials, or carried by Runge-Kutta steps, along its own integral."""
import math
from itertools import pairwise

from .adams import adams_steps, bashforth_weights, integral
from .clock import Clock, linear_vp_clock
from .linear import Stage, Step, Update
from .process import FLOW, VE, Process
from .transfer import RETURN_D, eps_of

VARIANTS = ("tAB", "rhoAB", "rhoRK")
TIME_MAPS = ("model", "linear_vp", "edm")
# name -> nodes c, rows of a (newest stage last), weights b
TABLEAUS = {
    "heun2": ((0.0, 1.0), ((1.0,),), (1 / 2, 1 / 2)),
    "kutta3": ((0.0, 1 / 2, 1.0), ((1 / 2,), (-1.0, 2.0)), (1 / 6, 4 / 6, 1 / 6)),
    "ralston3": ((0.0, 1 / 2, 3 / 4), ((1 / 2,), (0.0, 3 / 4)), (2 / 9, 3 / 9, 4 / 9)),
    "heun3": ((0.0, 1 / 3, 2 / 3), ((1 / 3,), (0.0, 2 / 3)), (1 / 4, 0.0, 3 / 4)),
    "vdh3": ((0.0, 8 / 15, 2 / 3), ((8 / 15,), (1 / 4, 5 / 12)), (1 / 4, 0.0, 3 / 4)),
    "ssprk3": ((0.0, 1.0, 1 / 2), ((1.0,), (1 / 4, 1 / 4)), (1 / 6, 1 / 6, 4 / 6)),
    "rk4": ((0.0, 1 / 2, 1 / 2, 1.0), ((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6, 2 / 6, 2 / 6, 1 / 6)),
}


def plan_deis(sigmas: list[float], *, variant: str = "tAB", ab_order: int = 2, rk: str = "heun2",
              time_map: str = "model", process: Process = VE, clock: Clock | None = None) -> list[Step]:
    """x_next = x + sum_j C_j e_j, C_j the integral over sigma of the Lagrange basis through the last values of e.

    variant: the basis is of polynomials in the model's time ('tAB') or in sigma ('rhoAB'), of degree ab_order (0 is
    DDIM; warms up); 'rhoRK' takes a Runge-Kutta step `rk` of several model calls instead, with no history.
    time_map: 'model' asks the model (clock), 'linear_vp' is the published SDE with rates 0.1 to 20, 'edm' the one whose
    sigma is 0.002 at time 0.001 and 80 at time 1, as in ComfyUI. On flow models time is sigma and tAB is rhoAB.
    The step to sigma = 0 returns D.
    Source: Zhang & Chen 2022, arXiv 2204.13902, eq. 15 and section 3.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
    if variant == "rhoRK":
        return _runge_kutta(sigmas, rk, process)
    if not 0 <= ab_order <= 3:
        raise ValueError(f"ab_order must be 0, 1, 2 or 3, got {ab_order}")
    if variant == "tAB" and process is not FLOW:
        if time_map not in TIME_MAPS:
            raise ValueError(f"time_map must be one of {', '.join(TIME_MAPS)}, got {time_map!r}")
        used = clock if time_map == "model" and clock is not None else linear_vp_clock(
            *(_rates(0.002, 80.0) if time_map == "edm" else ()))
        return adams_steps(sigmas, process, lambda i: _time_weights(sigmas, i, ab_order, used))
    return adams_steps(sigmas, process, lambda i: bashforth_weights(sigmas, i, ab_order + 1))


def _rates(low: float, high: float, time: float = 1e-3) -> tuple[float, float]:
    """The noise rates at times 0 and 1 of the linear SDE whose sigma is `low` at `time` and `high` at 1."""
    first, last = math.log1p(low * low), math.log1p(high * high)
    slope = 2.0 * (last - first / time) / (1.0 - time)
    return last - slope / 2.0, last + slope / 2.0


def _time_weights(sigmas: list[float], i: int, degree: int, clock: Clock) -> list[float]:
    """Integrals over sigma of the Lagrange basis in time; their sum is exact."""
    nodes = [clock.time_of(sigma) for sigma in sigmas[max(i - degree, 0):i + 1][::-1]]

    def basis(sigma: float, node: float) -> float:
        time = clock.time_of(sigma)
        return math.prod((time - other) / (node - other) for other in nodes if other != node)

    weights = [integral(lambda sigma, node=node: basis(sigma, node), sigmas[i], sigmas[i + 1]) for node in nodes]
    weights[0] += sigmas[i + 1] - sigmas[i] - math.fsum(weights)
    return weights


def _runge_kutta(sigmas: list[float], rk: str, process: Process) -> list[Step]:
    if rk != "euler" and rk not in TABLEAUS:
        raise ValueError(f"rk must be one of euler, {', '.join(TABLEAUS)}, got {rk!r}")
    process.lams(sigmas)
    nodes, rows, ends = TABLEAUS.get(rk, ((0.0,), (), (1.0,)))
    steps = []
    for sigma, sigma_next in pairwise(sigmas):
        if sigma_next == 0.0:
            steps.append(Step(sigma, 0.0, RETURN_D))
            continue
        h = sigma_next - sigma
        stages = tuple(Stage(sigma + c * h, Update(1.0, (0.0, *(h * a for a in reversed(row)))),
                             (eps_of(VE, sigma + c * h),)) for c, row in zip(nodes[1:], rows))
        steps.append(Step(sigma, sigma_next, Update(1.0, (0.0, *(h * b for b in reversed(ends)))), stages,
                          keep=(eps_of(VE, sigma),)))
    return steps
