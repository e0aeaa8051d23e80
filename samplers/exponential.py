"""Exact integrals of exponentials times polynomials, the numbers behind every exponential integrator."""
import math


def decay(eta: float, h: float) -> float:
    """exp(-eta * h), with decay(0, inf) = 1."""
    return 1.0 if eta == 0.0 else math.exp(-eta * h)


def exponential_moment(k: int, z: float) -> float:
    """Integral over u in [0, 1] of z exp(-z (1 - u)) u^k, for any z; 1 at z = inf. Equals z k! phi_{k+1}(-z).

    Below |z| = 2 by its Taylor series, above by the recursion m_k = 1 - (k / z) m_{k-1}: each is the one of
    the two without cancellation.
    """
    if math.isinf(z):
        return 1.0
    if abs(z) < 2.0:
        term = total = z / (k + 1)
        for n in range(1, 40):
            term *= -z / (k + 1 + n)
            total += term
        return total
    moment = -math.expm1(-z)
    for j in range(1, k + 1):
        moment = 1.0 - j / z * moment
    return moment


def lagrange_weights(h: float, nodes: list[float], rate: float = 1.0) -> list[float]:
    """Weights of values at `nodes`: integral over s in [0, h] of rate exp(-rate (h - s)) L_j(s).

    L_j: the Lagrange basis on nodes (in the variable s, distinct, any order). The weights sum to
    1 - exp(-rate h). h = inf is allowed with one node.
    """
    if len(nodes) == 1:
        return [-math.expm1(-rate * h)]
    moments = [exponential_moment(k, rate * h) for k in range(len(nodes))]
    points = [node / h for node in nodes]
    weights = []
    for j, point in enumerate(points):
        others = points[:j] + points[j + 1:]
        basis = monic(others)
        scale = math.prod(point - other for other in others)
        weights.append(sum(c * moment for c, moment in zip(basis, moments)) / scale)
    return weights


def monic(roots: list[float]) -> list[float]:
    """Coefficients, lowest power first, of the product of (u - root)."""
    coefs = [1.0]
    for root in roots:
        shifted = [0.0, *coefs]
        coefs = [high - root * low for high, low in zip(shifted, [*coefs, 0.0])]
    return coefs
