"""The order of convergence of a solver, measured on the exact mixture from far above it, where a first step is free."""
import math
from functools import lru_cache

from torch import Tensor

from ..samplers.exponential_adams import plan_exponential_adams
from .solvers_problems import load_mixture, solve

TOP, STEPS = 1000.0, (161, 323)  # 2 above multiples of 3: grouped solvers of order 3 end both on one of order 2


@lru_cache
def _mixture():
    return load_mixture()


def levels(steps: int) -> list[float]:
    """Evenly spaced in log sigma from 1000 to 1."""
    return _mixture().log_spaced(steps, TOP)


def end_of(solver, part: int) -> Tensor:
    """The end of solver(denoise, x, sigmas) in STEPS[part] steps, float64."""
    mixture = _mixture()
    return solver(mixture.denoise, mixture.UNIT_NOISE * TOP, levels(STEPS[part]))


@lru_cache
def exact_end() -> Tensor:
    """The same by order 4 in 4096 steps."""
    mixture = _mixture()
    return solve(mixture.denoise, mixture.UNIT_NOISE * TOP, plan_exponential_adams(levels(4096), order=4))


def order_of(coarse: Tensor, fine: Tensor) -> float:
    """The power of the number of steps by which the error falls from STEPS[0] to STEPS[1]."""
    fall = (coarse - exact_end()).norm() / (fine - exact_end()).norm()
    return math.log(fall) / math.log(STEPS[1] / STEPS[0])
