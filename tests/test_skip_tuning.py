import pytest

from odeon.guidance.skip_tuning import factor_at, skip_factors


def test_factors_go_from_the_deepest_to_the_top():
    assert skip_factors([0, 1, 2, 3], rho_top=1.0, rho_bottom=0.7) == pytest.approx([0.7, 0.8, 0.9, 1.0])
    assert skip_factors([0, 0, 1, 1], rho_top=1.0, rho_bottom=0.8) == pytest.approx([0.8, 0.8, 1.0, 1.0])
    assert skip_factors([0, 0], rho_bottom=0.8) == [0.8, 0.8]
    assert skip_factors([0, 1, 2], rho_top=1.0, rho_bottom=1.0) == [1.0, 1.0, 1.0]


def test_a_linear_schedule_ends_at_1():
    assert factor_at(0.8, 1.0, "linear") == pytest.approx(0.8) and factor_at(0.8, 0.0, "linear") == 1.0
    assert factor_at(0.8, 0.0) == 0.8
    with pytest.raises(ValueError, match="time_schedule must be"):
        factor_at(0.8, 0.5, "cosine")
