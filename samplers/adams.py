"""Solvers that carry e = (x - D) / sigma along sigma: dx / dsigma = e, on VE and on flow models alike.

On a VE model e is the predicted noise, on a flow model the velocity; the equation is the same, so every plan here keeps
its order on both and starts at a flow's sigma = 1 as anywhere else.
"""
import math
from itertools import pairwise

from .linear import Step, Update
from .process import VE, Process
from .transfer import eps_of

BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def adams_steps(sigmas: list[float], process: Process, weights_of) -> list[Step]:
    """x_next = x + sum_j C_j e_j, the C of step i from weights_of(i), newest first; the step to 0 returns D."""
    process.lams(sigmas)
    steps = []
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        keep = (eps_of(VE, sigma),)
        if sigma_next == 0.0:
            steps.append(Step(sigma, 0.0, Update(0.0, (1.0,)), keep=keep))
        else:
            steps.append(Step(sigma, sigma_next, Update(1.0, (0.0, *weights_of(i))), keep=keep))
    return steps


def interval_weights(nodes: list[float], start: float, end: float) -> list[float]:
    """Integrals from start to end of the Lagrange basis on nodes: exact for polynomials of degree < len(nodes)."""
    length = end - start
    points, weights = [(node - start) / length for node in nodes], []
    for j, point in enumerate(points):
        coefs = [length]
        for other in points[:j] + points[j + 1:]:
            shifted = [0.0, *coefs]
            coefs = [(high - other * low) / (point - other) for high, low in zip(shifted, [*coefs, 0.0])]
        weights.append(math.fsum(coef / (k + 1) for k, coef in enumerate(coefs)))
    return weights
