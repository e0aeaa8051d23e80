"""DM-NonUniform: steps that make the most a third-order solver's error can be as small as possible."""
import math
from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ..samplers.clock import FLOW_CLOCK, Clock, linear_vp_clock
from ..samplers.process import FLOW, VE, Process
from .forms import NEAR_NOISE, check_range, even
from .power import power_sigmas

WEIGHTS = ("latent", "pixel")
INITS = ("time_uniform", "logsnr", "edm", "quad")
ENDS = ("append_zero", "sigma_min")


class Found(NamedTuple):
    """Levels (steps + 1,) in float64, and the objective at the start of the search and at its end."""
    sigmas: Tensor
    before: float
    after: float


def dmn_sigmas(steps: int = 10, weight: str = "latent", *, init: str = "time_uniform", end: str = "append_zero",
               sigma_max: float, sigma_min: float, process: Process = VE, clock: Clock | None = None) -> Found:
    """The levels between two ends that minimise `objective`, from those of `init`.

    weight: how wrong predictions are taken to be, see `objective`: 'latent' or 'pixel' models. init: even in model
    time, in log-SNR, as EDM, or in the square root of time; it hardly matters. end: 'append_zero' searches steps - 1
    steps down to sigma_min and adds one to 0; 'sigma_min' stops there. A flow's sigma_max above 0.999 counts as that
    in the search. clock: the model's time; without one the linear VP SDE's, or a flow's own. Tenths of a second.
    Source: Xue et al. 2024, arXiv 2402.17376; the authors' code, with SciPy's SLSQP in place of trust-constr, which
    on these kinks ends where rounding takes it.
    """
    check_range(steps, sigma_max, sigma_min, process)
    for value, name, known in ((weight, "weight", WEIGHTS), (init, "init", INITS), (end, "end", ENDS)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    tail = [0.0] if end == "append_zero" else []
    count = steps - len(tail)
    if count < 1:
        return Found(torch.tensor([sigma_max, 0.0], dtype=torch.float64), 0.0, 0.0)
    top = min(sigma_max, NEAR_NOISE) if process is FLOW else sigma_max
    clock = clock or (FLOW_CLOCK if process is FLOW else linear_vp_clock())
    start = initial_lams(count, init, top, sigma_min, process=process, clock=clock)
    lams = _minimised(lambda lams: objective(lams, weight=weight, process=process), start)
    inner = [process.sigma(lam) for lam in lams[1:-1]]
    before, after = (objective(values, weight=weight, process=process) for values in (start, lams))
    return Found(torch.tensor([sigma_max, *inner, sigma_min, *tail], dtype=torch.float64), before, after)


def initial_lams(count: int, init: str, sigma_max: float, sigma_min: float, *, process: Process,
                 clock: Clock) -> list[float]:
    """count + 1 values of log(alpha / sigma) from sigma_max to sigma_min to start the search from."""
    first, last = process.lams([sigma_max, sigma_min])
    if init == "logsnr":
        return even(first, last, count + 1)
    if init == "edm":
        ratios = power_sigmas(count + 1, math.exp(-first), math.exp(-last)).tolist()
        return [first, *(-math.log(ratio) for ratio in ratios[1:-2]), last]
    root = 2 if init == "quad" else 1
    start, end = (max(clock.time_of(sigma), 0.0) ** (1.0 / root) for sigma in (sigma_max, sigma_min))
    return process.lams([sigma_max, *(clock.sigma_of(time ** root) for time in even(start, end, count + 1)[1:-1]),
                         sigma_min])


def objective(lams: list[float], *, weight: str = "latent", process: Process = VE) -> float:
    """A bound on what a solver of orders 1, 2, 3, ..., 3, 2, 1 makes of wrong predictions.

    Sum of |coefficient of D_i at the end| w_i over the predictions, with w = sigma^2 / alpha ('latent') or
    sigma / alpha ('pixel') of the unit-variance form on VE models and of the flow itself; the first three steps are
    bounded each for itself. lams: rising, log(alpha / sigma).
    Source: Xue et al. 2024, arXiv 2402.17376; the authors' code.
    """
    h = [lam_next - lam for lam, lam_next in pairwise(lams)]
    power = 2 if weight == "latent" else 1
    errors = [_error(lam, power, process) for lam in lams]
    last, early = len(h) - 1, 0.0
    sums = [0.0] * len(h)
    for step in range(len(h)):
        order = 1 if step in (0, last) else 2 if step in (1, last - 1) else 3
        terms = [errors[step - order + 1 + m] * math.exp(lams[step]) * weight_
                 for m, weight_ in enumerate(_weights(h[step - order + 1:step + 1]))]
        if order == 1 or step < 3:
            early += math.hypot(*terms)
        else:
            for m, term in enumerate(terms):
                sums[step - order + 1 + m] += term
    return early + math.fsum(abs(value) for value in sums)


def _error(lam: float, power: int, process: Process) -> float:
    """sigma^power / alpha: VP's on VE models, whose alpha^2 + sigma^2 = 1; on flows alpha + sigma = 1."""
    if process is FLOW:
        return (1.0 / (1.0 + math.exp(lam))) ** power * (1.0 + math.exp(-lam))
    return (1.0 + math.exp(2.0 * lam)) ** (-0.5 * power) * math.sqrt(1.0 + math.exp(-2.0 * lam))


def _weights(h: list[float]) -> list[float]:
    """Integrals of the Lagrange polynomials of the last 1, 2 or 3 predictions times exp over the last step h[-1].

    h: the steps up to this one; the oldest prediction first; times exp(lam) of the step's start.
    """
    moments = [math.expm1(h[-1])]
    for n in range(1, len(h)):
        moments.append(h[-1] ** n * math.exp(h[-1]) - n * moments[-1])
    if len(h) == 1:
        return moments
    if len(h) == 2:
        return [-moments[1] / h[0], (moments[1] + h[0] * moments[0]) / h[0]]
    a, b = h[0], h[1]
    return [(moments[2] + b * moments[1]) / (a * (a + b)), -(moments[2] + (a + b) * moments[1]) / (a * b),
            (moments[2] + (2.0 * b + a) * moments[1] + b * (a + b) * moments[0]) / (b * (a + b))]


def _minimised(function: Callable[[list[float]], float], start: list[float]) -> list[float]:
    """The inner numbers of a rising list moved to where function(list) is least.

    Searched over the logarithms of the steps between them, so that neighbours cannot cross.
    """
    try:
        from scipy.optimize import minimize
    except ImportError as error:
        raise ImportError("DM-NonUniform needs SciPy; install it with: pip install 'odeon[science]'") from error

    def rising(logs: list[float]) -> list[float]:
        shares = [math.exp(min(max(value, -9.0), 9.0)) for value in logs]
        ends = [start[0] + (start[-1] - start[0]) * part / math.fsum(shares) for part in accumulate(shares)]
        return [start[0], *ends[:-1], start[-1]]

    logs = [math.log(after - before) for before, after in pairwise(start)]
    for _ in range(2):  # a second search from where the first one ends gains up to another 3 %
        logs = minimize(lambda logs: function(rising(logs.tolist())), logs, method="SLSQP",
                        options={"maxiter": 1000}).x.tolist()
    return rising(logs)
