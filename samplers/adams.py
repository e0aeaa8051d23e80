"""Solvers that carry e = (x - D) / sigma along sigma: dx / dsigma = e, on VE and on flow models alike.

On a VE model e is the predicted noise, on a flow model the velocity; the equation is the same, so every plan here keeps
its order on both and starts at a flow's sigma = 1 as anywhere else.
"""
import functools
import math
from itertools import pairwise

from .exponential import monic
from .linear import Step, Update
from .process import VE, Process
from .transfer import RETURN_D, eps_of

BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def adams_steps(sigmas: list[float], process: Process, weights_of) -> list[Step]:
    """x_next = x + sum_j C_j e_j, the C of step i from weights_of(i), newest first; the step to 0 returns D."""
    process.lams(sigmas)
    steps = []
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        keep = (eps_of(VE, sigma),)
        if sigma_next == 0.0:
            steps.append(Step(sigma, 0.0, RETURN_D, keep=keep))
        else:
            steps.append(Step(sigma, sigma_next, Update(1.0, (0.0, *weights_of(i))), keep=keep))
    return steps


def bashforth_weights(sigmas: list[float], i: int, count: int) -> list[float]:
    """C of step i for a polynomial in sigma through its own e and up to count - 1 before it."""
    return interval_weights(sigmas[max(i + 1 - count, 0):i + 1][::-1], sigmas[i], sigmas[i + 1])


def interval_weights(nodes: list[float], start: float, end: float) -> list[float]:
    """Integrals from start to end of the Lagrange basis on nodes: exact for polynomials of degree < len(nodes)."""
    points, weights = [(node - start) / (end - start) for node in nodes], []
    for j, point in enumerate(points):
        others = points[:j] + points[j + 1:]
        area = math.fsum(coef / (k + 1) for k, coef in enumerate(monic(others)))
        weights.append((end - start) * area / math.prod(point - other for other in others))
    return weights


def integral(function, start: float, end: float) -> float:
    """Integral of function(sigma) over sigma, by 48 Gauss-Legendre points in log sigma."""
    points, shares = _gauss_legendre(48)
    low, high = math.log(start), math.log(end)
    levels = [math.exp(low + (point + 1.0) / 2.0 * (high - low)) for point in points]
    return math.fsum(share * (high - low) / 2.0 * level * function(level) for share, level in zip(shares, levels))


@functools.cache
def _gauss_legendre(count: int) -> tuple[list[float], list[float]]:
    """Points in [-1, 1] and their shares."""
    import numpy as np

    points, shares = np.polynomial.legendre.leggauss(count)
    return points.tolist(), shares.tolist()
