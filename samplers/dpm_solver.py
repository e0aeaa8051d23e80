"""DPM-Solver and what it shares with DPM-Solver++: exponential integrators in the noise or the data prediction.

With m the prediction, eps or D, and z = -h for eps, +h for D, h the step in lambda:
    x_next = ratio x + scale (W_0 m + W_1 T_1 + W_2 T_2 / 2),   W_k = z times the integral of exp(-z (1 - u)) u^k,
ratio = alpha_next / alpha and scale = sigma_next for eps, sigma_next / sigma and alpha_next for D. T_1, T_2 are the
first two derivatives of m over the step, from earlier steps (multistep) or from model calls inside it (singlestep).
"""
import math
from itertools import pairwise
from typing import NamedTuple

from .exponential import exponential_moment
from .exponential_adams import reaches_infinity
from .linear import Stage, Step, Update
from .process import VE, Process, counted_in
from .transfer import RETURN_D, ddim, eps_of, first_order

METHODS = ("multistep", "singlestep", "grouped", "fast")
ENDS = ("at_zero", "before_zero")


class Options(NamedTuple):
    """What the plans of both prediction types take; predicts_noise tells the two apart."""
    predicts_noise: bool
    order: int
    method: str
    midpoint: bool  # order 2 weighs T_1 by W_0 / 2 instead of W_1, order 3 leaves T_2 out
    lower_order_below: int
    halve_t2: bool
    r1: float
    r2: float
    midpoint_stages: bool = False  # order 3 weighs the slope in the state of its third call by half of W_0 too
    before_zero: bool = False  # the low orders at the end are all above 0, none of them the step to it


def plan_dpm_solver(sigmas: list[float], *, order: int = 2, method: str = "singlestep", solver_type: str = "dpmsolver",
                    lower_order_below: int = 10, third_order_term: str = "exact", r1: float = 0.0, r2: float = 0.0,
                    lambda_mode: str = "log_snr", lower_order_end: str = "at_zero",
                    process: Process = VE) -> list[Step]:
    """Steps of DPM-Solver-1, -2 or -3 in the noise prediction.

    method: 'singlestep' takes every interval in one step of `order` model calls, 'grouped' joins up to `order`
    intervals to one step that calls the model at their levels (one call an interval), 'fast' is grouped on levels of
    its own, even in lambda between the first and the last above 0, 'multistep' calls once a step.
    solver_type: 'dpmsolver' or 'taylor', two weightings of the same order; 'midpoint_stages' is dpmsolver with order
    2's weight in the state of order 3's third call too, as diffusers has it. r1, r2: where in the step (0 to 1, by
    lambda) singlestep calls the model; 0 is the paper's 1/2 (order 2), or 1/3 and 2/3 (order 3).
    lower_order_below: multistep schedules of fewer steps end on orders ..., 2, 1; 0 never. third_order_term:
    multistep of order 3; 'reference' halves its last term, as the published code does, which leaves order 2.
    lower_order_end: multistep, grouped and fast end on low orders, of which the step to 0 is the last ('at_zero');
    'before_zero' ends on them above 0 already, grouped of order 2 on a pair of order 1, as diffusers' schedulers do
    that can't end at 0. lambda_mode: see counted_in. The step to sigma = 0 returns D, a step of order 1. A flow's step
    from sigma = 1, where log-SNR is infinite, is taken in the VE form.
    Source: Lu et al. 2022, arXiv 2206.00927, algorithms 1 to 4 and appendix; the authors' code for multistep.
    """
    if solver_type not in ("dpmsolver", "taylor", "midpoint_stages"):
        raise ValueError(f"solver_type must be 'dpmsolver', 'taylor' or 'midpoint_stages', got {solver_type!r}")
    if lower_order_end not in ENDS:
        raise ValueError(f"lower_order_end must be one of {', '.join(ENDS)}, got {lower_order_end!r}")
    options = Options(True, order, method, solver_type != "taylor", lower_order_below,
                      third_order_is_halved(third_order_term), r1, r2, solver_type == "midpoint_stages",
                      lower_order_end == "before_zero")
    return plan(sigmas, options, counted_in(process, sigmas, lambda_mode))


def _from(sigma: float, options: Options, process: Process) -> Process:
    """The process of a singlestep from sigma: VE from a flow's pure noise, where its own has no weights."""
    is_lost = process.alpha(sigma) == 0.0 and (options.predicts_noise or math.isinf(process.lams([sigma, 0.0])[0]))
    return VE if is_lost else process


def third_order_is_halved(third_order_term: str) -> bool:
    if third_order_term not in ("exact", "reference"):
        raise ValueError(f"third_order_term must be 'exact' or 'reference', got {third_order_term!r}")
    return third_order_term == "reference"


def plan(sigmas: list[float], options: Options, process: Process) -> list[Step]:
    """The steps of either family."""
    if options.order not in (1, 2, 3):
        raise ValueError(f"order must be 1, 2 or 3, got {options.order}")
    if options.method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {options.method!r}")
    process.lams(sigmas)
    to_zero = sigmas[-1] == 0.0
    if options.method == "multistep" and not (options.before_zero and to_zero):
        return _multistep(sigmas, options, process)
    finite = [sigma for sigma in sigmas if sigma > 0.0]
    if options.method == "multistep":
        steps = _multistep(finite, options, process) if len(finite) > 1 else []
    else:
        groups = _groups(finite, options, process, to_zero=to_zero)
        steps = [singlestep(levels, options, _from(levels[0], options, process)) for levels in groups]
    return [*steps, Step(finite[-1], 0.0, RETURN_D)] if to_zero else steps


def orders_of(calls: int, order: int) -> list[int]:
    """Orders of singlesteps that cost so many model calls, the low ones last."""
    if order < 3:
        return [order] * (calls // order) + [1] * (calls % order)
    if calls % 3 == 0:
        return [3] * (calls // 3 - 1) + [2, 1]
    return [3] * (calls // 3) + [calls % 3]


def _orders(intervals: int, options: Options, *, to_zero: bool) -> list[int]:
    """Orders of the steps over so many intervals above 0, which a step to 0 may follow.

    That one is of order 1 and costs a call, so that grouped ends on the paper's orders for a call more, without their
    last. fast spreads its steps evenly: the fewer, the longer, and long ones in eps overshoot, so that instead of one
    step there, one of three calls gives up a call.
    """
    order, calls = options.order, intervals + 1
    if options.before_zero and to_zero and options.method == "grouped" and order == 2 and intervals % 2 == 0:
        return [2] * (intervals // 2 - 1) + [1, 1] if intervals else []
    if options.before_zero or not to_zero:
        return orders_of(intervals, order)
    if options.method == "grouped":
        *orders, last = orders_of(calls, order)
        return orders + [last - 1] * (last > 1)
    if options.predicts_noise and order == 3 and calls % 3 == 0 and calls > 3:
        return [3] * (calls // 3 - 2) + [2, 2, 1]
    return orders_of(intervals, order)


def _groups(levels: list[float], options: Options, process: Process, *, to_zero: bool) -> list[list[float]]:
    """Levels of each singlestep: its first, those of its inner model calls, its last."""
    intervals = len(levels) - 1
    if options.method == "singlestep":
        shares = _shares(options)
        return [[sigma, *between(sigma, sigma_next, shares, process), sigma_next]
                for sigma, sigma_next in pairwise(levels)]
    orders = _orders(intervals, options, to_zero=to_zero)
    if options.method == "fast":
        ends = [i / len(orders) for i in range(1, len(orders))]
        nodes = [levels[0], *between(levels[0], levels[-1], ends, process), levels[-1]]
        return [[sigma, *between(sigma, sigma_next, _thirds(order), process), sigma_next]
                for order, (sigma, sigma_next) in zip(orders, pairwise(nodes))]
    starts = [sum(orders[:i]) for i in range(len(orders))]
    return [levels[start:start + order + 1] for start, order in zip(starts, orders)]


def _thirds(order: int) -> list[float]:
    return [i / order for i in range(1, order)]


def _shares(options: Options) -> list[float]:
    given = (options.r1, options.r2)[:options.order - 1]
    shares = [r or default for r, default in zip(given, _thirds(options.order))]
    if any(not 0.0 < r < 1.0 for r in shares) or sorted(set(shares)) != shares:
        raise ValueError(f"need 0 < r1 < r2 < 1, got r1 = {shares[0]:g}, r2 = {shares[-1]:g}; 0 takes the defaults")
    return shares


def between(sigma: float, sigma_next: float, shares: list[float], process: Process) -> list[float]:
    """The levels at shares of the way in lambda; from a flow's sigma = 1, of the way in -log sigma."""
    if process.alpha(sigma) == 0.0:
        process = VE
    high, low = process.lams([sigma, sigma_next])
    return [process.sigma(high + share * (low - high)) for share in shares]


def _ratio_and_scale(options: Options, process: Process, sigma: float, sigma_next: float) -> tuple[float, float]:
    if options.predicts_noise:
        return process.alpha(sigma_next) / process.alpha(sigma), sigma_next
    return sigma_next / sigma, process.alpha(sigma_next)


def singlestep(levels: list[float], options: Options, process: Process) -> Step:
    """One step of order len(levels) - 1, calling the model at all levels but the last."""
    sigma, *inner, sigma_next = levels
    sign = -1.0 if options.predicts_noise else 1.0
    lams = process.lams(levels)
    h = lams[-1] - lams[0]
    shares = [(lam - lams[0]) / h for lam in lams[1:-1]]

    def update(level: float, share: float, slopes: list[float]) -> Update:
        """To `level`, with the weights of (m_j - m_0) for the inner calls so far, the newest first."""
        ratio, scale = _ratio_and_scale(options, process, sigma, level)
        whole = scale * exponential_moment(0, -share * h) if options.predicts_noise else ddim(process, sigma, level)[1]
        coefs = [scale * weight for weight in slopes]
        coefs.append(whole - sum(coefs))
        return Update(ratio, (0.0, *coefs) if options.predicts_noise else tuple(coefs))

    def keep(level: float) -> tuple[Update, ...] | None:
        return (eps_of(process, level),) if options.predicts_noise else None

    stages = []
    for i, level in enumerate(inner):
        slopes = [] if i == 0 else [shares[1] / shares[0] * _slope(sign * shares[1] * h, options.midpoint_stages)]
        stages.append(Stage(level, update(level, shares[i], slopes), keep(level)))
    last = update(sigma_next, 1.0, _slopes(shares, sign * h, options.midpoint))
    return Step(sigma, sigma_next, last, tuple(stages), keep=keep(sigma))


def _slope(z: float, midpoint: bool) -> float:
    """The weight of T_1 alone."""
    return exponential_moment(0, z) / 2.0 if midpoint else exponential_moment(1, z)


def _slopes(shares: list[float], z: float, midpoint: bool) -> list[float]:
    """Weights of (m_j - m_0) in a whole step, the newest inner call first."""
    if not shares:
        return []
    if len(shares) == 1:
        return [_slope(z, midpoint) / shares[0]]
    r1, r2 = shares
    first = exponential_moment(1, z)
    if midpoint:
        return [first / r2, 0.0]
    second = exponential_moment(2, z)
    return [(second - r1 * first) / (r2 * (r2 - r1)), (r2 * first - second) / (r1 * (r2 - r1))]


def _multistep(sigmas: list[float], options: Options, process: Process) -> list[Step]:
    lams = process.lams(sigmas)
    hs = [lam_next - lam for lam, lam_next in pairwise(lams)]
    steps = []
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        past = [h for h in hs[:i] if math.isfinite(h)][::-1]
        used = min(options.order, len(past) + 1) if math.isfinite(hs[i]) else 1
        if len(hs) < options.lower_order_below:
            used = min(used, len(hs) - i)
        z = -hs[i] if options.predicts_noise else hs[i]
        weights = differences(hs[i], past[:used - 1], z, options.midpoint, options.halve_t2)
        if not options.predicts_noise:
            alpha_next = process.alpha(sigma_next)
            coefs = [alpha_next * w for w in weights]
            x_coef, base = ddim(process, sigma, sigma_next)
            coefs[0] += base
            steps.append(Step(sigma, sigma_next, Update(x_coef, tuple(coefs))))
        elif sigma_next == 0.0:
            steps.append(Step(sigma, sigma_next, RETURN_D))
        else:
            x_coef, d_coef, eps_coef = first_order(process, sigma, sigma_next)
            coefs = [sigma_next * w for w in weights]
            coefs[0] += eps_coef
            steps.append(Step(sigma, sigma_next, Update(x_coef, (d_coef, *coefs)), keep=(eps_of(process, sigma),)))
    if not options.predicts_noise and reaches_infinity(lams, options.order):
        steps[1:2] = _multistep(sigmas, options, VE)[1:2]
    return steps


def differences(h: float, past: list[float], z: float, midpoint: bool, halve_t2: bool) -> list[float]:
    """W_1 T_1 + W_2 T_2 / 2 written out in m_0, m_1, ..., from the past steps, newest first; W_k at z."""
    if not past:
        return [0.0]
    first, r0 = exponential_moment(1, z), past[0] / h
    if len(past) == 1:
        slope = _slope(z, midpoint) / r0
        return [slope, -slope]
    r1, second = past[1] / h, exponential_moment(2, z) / 2.0
    newest, older = (1.0 / r0, -1.0 / r0, 0.0), (0.0, 1.0 / r1, -1.0 / r1)  # the two divided differences
    t1 = [a + r0 / (r0 + r1) * (a - b) for a, b in zip(newest, older)]
    t2 = [(1.0 if halve_t2 else 2.0) * (a - b) / (r0 + r1) for a, b in zip(newest, older)]
    return [first * a + second * b for a, b in zip(t1, t2)]
