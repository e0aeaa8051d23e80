import pytest
import torch

from odeon.schedules.power import power_sigmas


def test_is_the_formula():
    sigmas = power_sigmas(5, 80.0, 0.002, rho=7.0)
    expected = [(80 ** (1 / 7) + i / 4 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(5)] + [0.0]
    assert sigmas.dtype == torch.float64
    assert sigmas.tolist() == pytest.approx(expected, rel=1e-14)


def test_limits():
    assert power_sigmas(5, 5.0, 1.0, rho=1.0).tolist() == pytest.approx([5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    assert power_sigmas(1, 5.0, 1.0).tolist() == pytest.approx([5.0, 0.0])
    geometric = power_sigmas(9, 16.0, 1.0, rho=1e6)[:-1].log2().diff()
    assert torch.allclose(geometric, geometric.new_full((8,), -0.5), atol=1e-4)


@pytest.mark.parametrize(("arguments", "message"), [
    ((0, 10.0, 1.0), "steps must be at least 1, got 0"),
    ((5, 1.0, 10.0), "need 0 < sigma_min <= sigma_max, got 10.0 and 1.0; swap the two"),
    ((5, 1.0, 0.0), "need 0 < sigma_min"),
    ((5, 2.0, 1.0, 0.0), "rho must be above 0"),
    ((5, 1.0, 1.0), "would repeat it"),
])
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        power_sigmas(*arguments)
