"""Guidance intervals and scale schedules: their ends, curves and words."""
import math

import pytest
import torch
from gmm import denoise, log_spaced

from odeon.guidance.scale_schedule import edm_sigma, interval_scale, numbers_of, points_of, scheduled_scale
from odeon.samplers.exponential_adams import plan_exponential_adams
from odeon.samplers.linear import run


def test_the_interval_is_open_below_and_closed_above():
    at = {sigma: interval_scale(7.0, sigma, sigma_hi=2.9, sigma_lo=0.28) for sigma in (3.0, 2.9, 1.0, 0.28, 0.1)}
    assert at == {3.0: 1.0, 2.9: 7.0, 1.0: 7.0, 0.28: 1.0, 0.1: 1.0}
    for end in (2.9, 0.28):  # as float32 keeps it
        assert interval_scale(7.0, torch.tensor(end).item(), sigma_hi=2.9, sigma_lo=0.28) == at[end]
    assert interval_scale(7.0, math.inf, sigma_hi=-1.0, sigma_lo=0.0) == 7.0
    assert interval_scale(7.0, 9.0, outside_scale=2.5) == 2.5


def test_a_flow_s_time_is_its_noise_over_its_picture():
    for sigma, t in ((5.42, 0.844), (2.90, 0.744), (0.28, 0.219)):
        assert edm_sigma(t, flow=True) == pytest.approx(sigma, rel=0.01)
    assert edm_sigma(1.0, flow=True) == math.inf and edm_sigma(80.0, flow=False) == 80.0


@pytest.mark.parametrize("curve", ["linear", "cosine"])
def test_curves_rise_from_the_outside_scale_to_the_whole(curve):
    scales = [interval_scale(9.0, sigma, sigma_hi=4.0, sigma_lo=0.25, outside_scale=1.0, curve=curve)
              for sigma in (4.0, 2.0, 1.0, 0.5, 0.2501)]
    assert scales == sorted(scales) and scales[0] == 1.0 and scales[-1] == pytest.approx(9.0, abs=0.01)
    assert scales[2] == pytest.approx(5.0)  # sigma / (1 + sigma) is halfway between 0.8 and 0.2
    assert interval_scale(9.0, math.inf, sigma_hi=-1.0, sigma_lo=0.0, curve=curve) == 1.0


def test_tables_are_factors_at_even_places():
    options = {"sigma_hi": 4.0, "sigma_lo": 0.25, "curve": "table"}
    assert interval_scale(8.0, 4.0, table="0.5, 1, 0", **options) == 4.0
    assert interval_scale(8.0, 1.0, table="0.5, 1, 0", **options) == pytest.approx(8.0)
    assert interval_scale(8.0, 1.0, table="0.25", **options) == 2.0


def test_schedules_are_linear_in_log_sigma_and_flat_beyond():
    points = points_of("10: 1, 1: 3\n0.1: 2")
    assert points == [(10.0, 1.0), (1.0, 3.0), (0.1, 2.0)]
    found = [scheduled_scale(5.0, sigma, points) for sigma in (math.inf, 10.0, 10.0 ** 0.5, 1.0, 0.1, 0.01)]
    assert found == pytest.approx([5.0, 5.0, 10.0, 15.0, 10.0, 10.0])
    assert scheduled_scale(5.0, 1.0, points, unit="cfg") == 3.0
    assert scheduled_scale(5.0, 0.3, points_of("2: 1")) == 5.0


def test_guidance_in_the_middle_alone_keeps_the_class_s_spread():
    """At scale 4 on the mixture: the distance of the samples' covariance and mean to the exact class is at least a
    fifth smaller when only the middle levels are guided."""
    start = 14.6 * torch.randn(2000, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    plan = plan_exponential_adams([*log_spaced(24, top=14.6, bottom=0.03), 0.0], order=2)

    def samples(**interval):
        def model(x, sigma):
            cond, uncond = denoise(x, sigma, 0), denoise(x, sigma)
            return uncond + interval_scale(4.0, sigma, **interval) * (cond - uncond)
        return run(model, start, plan)

    def distance(x, exact):
        roots = [torch.linalg.eigh(value.T.cov()) for value in (x, exact)]
        (root, other) = (vectors @ values.clamp(min=0.0).sqrt().diag() @ vectors.T for values, vectors in roots)
        cross = torch.linalg.eigvalsh(root @ other @ other @ root).clamp(min=0.0).sqrt().sum()
        spread = x.T.cov().trace() + exact.T.cov().trace() - 2.0 * cross
        return ((x.mean(0) - exact.mean(0)).square().sum() + spread).sqrt()

    exact = run(lambda x, sigma: denoise(x, sigma, 0), start, plan)
    whole = samples(sigma_hi=-1.0, sigma_lo=0.0)
    middle = samples(sigma_hi=1.5, sigma_lo=0.2)
    assert distance(middle, exact) < 0.8 * distance(whole, exact)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="curve must be one of"):
        interval_scale(2.0, 1.0, curve="x")
    with pytest.raises(ValueError, match="need 0 <= sigma_lo <= sigma_hi"):
        interval_scale(2.0, 1.0, sigma_hi=1.0, sigma_lo=2.0)
    with pytest.raises(ValueError, match="unit must be one of"):
        scheduled_scale(2.0, 1.0, [(1.0, 1.0)], unit="x")
    for text in ("", "1: 2, 3: 4", "-1: 2"):
        with pytest.raises(ValueError, match="the sigmas falling"):
            points_of(text)
    for text in ("5", "a: 1", "1:2:3"):
        with pytest.raises(ValueError, match="need parts 'sigma: value'"):
            points_of(text)
    with pytest.raises(ValueError, match="must be finite"):
        points_of("5: nan")
    for text in ("", "x"):
        with pytest.raises(ValueError, match="number such as|numbers such as"):
            numbers_of(text)
