"""DPM-Solver++, multistep in the data prediction: 2M and 3M."""
import math
from itertools import pairwise

from .exponential import exponential_moment
from .linear import Step, Update
from .process import VE, Process


def plan_dpm_solver_pp(sigmas: list[float], *, order: int = 2, solver_type: str = "midpoint",
                       lower_order_below: int = 10, third_order_term: str = "exact",
                       process: Process = VE) -> list[Step]:
    """Steps of DPM-Solver++(1), (2M) or (3M), by differences of the last predictions in lambda.

    With T1, T2 the first and second differences of D over the past steps, p1 = 1 - exp(-h) and p2, p3 the next
    two integrals of exp: x_new = (sigma_next / sigma) x + alpha_next (p1 D + p2 T1 + p3 T2).
    solver_type: the 2M weight of T1, 'midpoint' p1 / 2 (the paper's default), 'taylor' p2 (exact integral); both
    agree to order 2. Order 3 always takes p2 and p3, its second step follows solver_type.
    lower_order_below: schedules of fewer steps than this end on orders ..., 2, 1, as the reference does; 0 never.
    third_order_term: 'reference' halves T2, as the published code does and which leaves 3M at order 2;
    'exact' is the divided difference, order 3. The step to sigma = 0 returns D. NFE len(sigmas) - 1.
    Source: Lu et al. 2022, arXiv 2211.01095, algorithm 2 and appendix B.
    """
    _check_options(order, solver_type, third_order_term)
    lams = process.lams(sigmas)
    hs = [lam_next - lam for lam, lam_next in pairwise(lams)]
    finite_steps = len(hs) - (sigmas[-1] == 0.0)
    steps = []
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        past = [h for h in hs[:i] if math.isfinite(h)][::-1]
        used = min(order, len(past) + 1) if math.isfinite(hs[i]) else 1
        if finite_steps < lower_order_below:
            used = max(1, min(used, finite_steps - i))
        weights = _weights(hs[i], past[:used - 1], solver_type, third_order_term)
        alpha_next = process.alpha(sigma_next)
        steps.append(Step(sigma, sigma_next, Update(sigma_next / sigma, tuple(alpha_next * w for w in weights))))
    return steps


def _check_options(order: int, solver_type: str, third_order_term: str) -> None:
    if order not in (1, 2, 3):
        raise ValueError(f"order must be 1, 2 or 3, got {order}")
    if solver_type not in ("midpoint", "taylor"):
        raise ValueError(f"solver_type must be 'midpoint' or 'taylor', got {solver_type!r}")
    if third_order_term not in ("exact", "reference"):
        raise ValueError(f"third_order_term must be 'exact' or 'reference', got {third_order_term!r}")


def _weights(h: float, past: list[float], solver_type: str, third_order_term: str) -> list[float]:
    """Weights of D_0, D_1, ... for a step h after the past steps (newest first), by its order len(past) + 1."""
    p1 = -math.expm1(-h)
    if not past:
        return [p1]
    p2 = exponential_moment(1, h)  # the integral of exp(-(h - s)) s / h
    r0 = past[0] / h
    if len(past) == 1:
        slope = (p1 / 2.0 if solver_type == "midpoint" else p2) / r0
        return [p1 + slope, -slope]
    p3 = exponential_moment(2, h) / 2.0
    return _third_order(p1, p2, p3, r0=r0, r1=past[1] / h, half=third_order_term == "reference")


def _third_order(p1: float, p2: float, p3: float, *, r0: float, r1: float, half: bool) -> list[float]:
    """D_0 p1 + T1 p2 + T2 p3 written out in D_0, D_1, D_2; half: T2 as the published code has it."""
    newest, older = (1.0 / r0, -1.0 / r0, 0.0), (0.0, 1.0 / r1, -1.0 / r1)  # the two divided differences
    t1 = [a + r0 / (r0 + r1) * (a - b) for a, b in zip(newest, older)]
    t2 = [(1.0 if half else 2.0) * (a - b) / (r0 + r1) for a, b in zip(newest, older)]
    return [base + p2 * first + p3 * second for base, first, second in zip((p1, 0.0, 0.0), t1, t2)]
