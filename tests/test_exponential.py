import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from odeon.samplers.exponential import decay, exponential_moment, lagrange_weights


@pytest.mark.parametrize("k", range(5))
@pytest.mark.parametrize("z", [1e-9, 1e-3, 0.5, 1.9999, 2.0, 7.0, 60.0])
def test_moment_is_the_integral(k, z):
    expected, _ = quad(lambda u: z * math.exp(-z * (1.0 - u)) * u ** k, 0.0, 1.0, epsabs=0, epsrel=1e-13, limit=400)
    assert exponential_moment(k, z) == pytest.approx(expected, rel=2e-12)


def test_limits():
    assert exponential_moment(3, math.inf) == 1.0
    assert exponential_moment(0, 0.0) == 0.0
    assert decay(0.0, math.inf) == 1.0
    assert decay(1.0, math.inf) == 0.0
    assert lagrange_weights(math.inf, [0.0]) == [1.0]


@given(h=st.floats(1e-4, 20.0), rate=st.floats(0.1, 4.0), degree=st.integers(0, 3), count=st.integers(1, 4),
       gap=st.floats(0.3, 3.0))
def test_weights_integrate_polynomials_exactly(h, rate, degree, count, gap):
    nodes = [-i * gap * h for i in range(count)]
    weights = lagrange_weights(h, nodes, rate)
    if degree < count:
        expected = h ** degree * exponential_moment(degree, rate * h)
        scale = max(abs(w * node ** degree) for w, node in zip(weights, nodes)) + abs(expected)
        assert sum(w * node ** degree for w, node in zip(weights, nodes)) == pytest.approx(expected, abs=1e-12 * scale)


def test_tiny_steps_keep_their_digits():
    # exp(h) - 1 - h by subtraction would be all rounding error here
    newest, older = lagrange_weights(1e-8, [0.0, -1e-8])
    assert newest == pytest.approx(1.5e-8, rel=1e-7)
    assert older == pytest.approx(-0.5e-8, rel=1e-7)
