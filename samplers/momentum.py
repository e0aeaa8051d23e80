"""Adams-Bashforth solvers with momentum: wider steps before they diverge, at high guidance and few steps."""
import math
from itertools import pairwise

from .linear import Step, Update
from .process import VE, Process
from .transfer import RETURN_D, eps_of

METHODS = ("ghvb", "hb", "nesterov", "dpmpp_2m_hb")


def _combination(order: int, beta: float) -> list[float]:
    """Weights of v_0, v_1, ... whose sum with v's decay beta has the order; beta = 1: Adams-Bashforth."""
    b = beta
    return {1: [b], 2: [(2 + b) / 2, -(2 - b) / 2],
            3: [(18 + 5 * b) / 12, -(24 - 8 * b) / 12, (6 - b) / 12],
            4: [(46 + 9 * b) / 24, -(78 - 19 * b) / 24, (42 - 5 * b) / 24, -(10 - b) / 24],
            5: [(1650 + 251 * b) / 720, -(3420 - 646 * b) / 720, (2880 - 264 * b) / 720, -(1380 - 106 * b) / 720,
                (270 - 19 * b) / 720]}[order]


def plan_momentum(sigmas: list[float], *, method: str = "ghvb", order: float = 3.6, beta: float = 0.8,
                  process: Process = VE) -> list[Step]:
    """x_next = x + (sigma_next - sigma) u, u out of the predicted noises e and a running mean v of them.

    order: k - 1 + b with b in (0, 1], the momentum; an integer is plain Adams-Bashforth of that order.
    'ghvb': v <- (1 - b) v + b e, u the combination of the last k v that keeps order k - 1 and more; 'hb': u = v <-
    (1 - b) v + b p, p the Adams combination of order k, which drops to order 1; 'nesterov' mixes p in once more.
    'dpmpp_2m_hb': DPM-Solver++(2M) on the mean of its extrapolated D with weight `beta`, no use of order.
    The step to sigma = 0 returns D. NFE len(sigmas) - 1.
    Source: Wizadwongsa et al. 2023, arXiv 2307.11118, algorithms 1 to 3; the authors' code.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if method == "dpmpp_2m_hb":
        return _dpm_solver_pp_heavy_ball(sigmas, beta, process)
    if not 0.0 < order <= 5.0:
        raise ValueError(f"order must lie in (0, 5], got {order}")
    process.lams(sigmas)
    most = math.ceil(order)
    mixed = order - (most - 1)
    steps = []
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        keep, weights = _rule(method, min(i + 1, most), mixed, i, sigma)
        predict = RETURN_D if sigma_next == 0.0 else Update(
            1.0, (0.0, *((sigma_next - sigma) * weight for weight in weights)))
        steps.append(Step(sigma, sigma_next, predict, keep=keep))
    return steps


def _rule(method: str, count: int, b: float, i: int, sigma: float) -> tuple[tuple[Update, ...], list[float]]:
    """What a step keeps, and the weights of the kept values in u."""
    eps = eps_of(VE, sigma)
    if method == "ghvb":
        mean = eps if i == 0 else Update(b * eps.x_coef, (b * eps.d_coefs[0], 1.0 - b))
        return (mean,), [weight / b for weight in _combination(count, b)]
    # history, newest first: v_0, e_0, v_1, e_1, ...
    adams = _combination(count, 1.0)
    spread = [value for weight in adams[1:] for value in (0.0, weight)]
    if i == 0:
        return (eps, Update(0.0, (0.0, 1.0))), [1.0]
    mean = Update(0.0, (0.0, b * adams[0], 1.0 - b, *(b * weight for weight in spread[1:])))
    if method == "hb":
        return (eps, mean), [1.0]
    return (eps, mean), [1.0 - b, b * adams[0], *(b * weight for weight in spread)]


def _dpm_solver_pp_heavy_ball(sigmas: list[float], beta: float, process: Process) -> list[Step]:
    if not 0.0 < beta <= 1.0:
        raise ValueError(f"beta must lie in (0, 1], got {beta}")
    lams = process.lams(sigmas)
    steps = []
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        h = lams[i + 1] - lams[i]
        before = lams[i] - lams[i - 1] if i else math.inf
        # history, newest first: v_0, D_0, v_1, D_1, ...
        current, extrapolated = RETURN_D, Update(0.0, (0.0, 1.0))
        if math.isfinite(before) and math.isfinite(h):
            slope = h / (2.0 * before)
            share = 1.0 if i == 1 else beta
            extrapolated = Update(0.0, (0.0, share * (1.0 + slope), 1.0 - share, -share * slope))
        scale = -process.alpha(sigma_next) * math.expm1(-h)
        predict = RETURN_D if sigma_next == 0.0 else Update(sigma_next / sigma, (0.0, scale))
        steps.append(Step(sigma, sigma_next, predict, keep=(current, extrapolated)))
    return steps
