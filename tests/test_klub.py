"""The bound of Align Your Steps against closed forms, measured figures and itself; schedules at other step counts."""
import itertools
import math

import pytest
import torch
from gmm import denoise
from klub_figures import SCHEDULES, C, exact_spread, gaussian, log_grid, pictures, spread

from odeon.models.levels import DiscreteLevels
from odeon.samplers.process import VE
from odeon.schedules.classic import classic_sigmas
from odeon.schedules.interpolate import interpolated_sigmas
from odeon.schedules.optimize.klub import (
    DrawnBound,
    Spread,
    draw,
    importance_level,
    importance_mass,
    measure_spread,
)
from odeon.schedules.optimize.klub_search import intervals_of


@pytest.fixture(scope="module")
def mixture():
    """The mixture's spread over 3000 paths."""
    return spread(denoise, pictures(3000))


@pytest.mark.parametrize(("low", "high", "mass"), [
    (0.1, 0.2, 10.472894619174607), (0.3, 2.0, 10.296353840736392), (1.0, 14.0, 0.21231031543914192)])
def test_mass_in_closed_form_and_its_inverse(low, high, mass):
    low, high = torch.tensor([low], dtype=torch.float64), torch.tensor([high], dtype=torch.float64)
    assert importance_mass(low, high, C).item() == pytest.approx(mass, rel=1e-12)
    shares = torch.linspace(0.0, 1.0, 11, dtype=torch.float64)
    levels = importance_level(shares, low, high, C)
    assert (importance_mass(low, levels, C, high) / mass - shares).abs().max() < 1e-6
    at = log_grid(20001, low.item(), high.item())
    density = (1.0 / (at ** 2 + C ** 2) - 1.0 / (high ** 2 + C ** 2)) / at ** 3
    assert torch.trapezoid(density, at).item() == pytest.approx(mass, rel=1e-6)


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.2), (0.3, 2.0), (1.0, 14.0)])
def test_both_estimates_meet_the_closed_form_for_gaussian_data(low, high):
    wanted = 16 * C ** 4 * importance_mass(torch.tensor(low).double(), torch.tensor(high).double(), C).item()
    interval, found = (high, high, low), {"draws": [], "table": []}
    for seed in range(10):
        data = C * torch.randn(400, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        bound = DrawnBound(gaussian, data, places=4, c=C, solver="ddim", seed=seed, process=VE)
        assert len(list(bound.learn([interval]))) == 5 and bound.calls == 5 * 400
        found["draws"].append(bound.known[interval])
        table = spread(gaussian, data, 40, low, high, seed=seed)
        found["table"].append(table.klub([interval]).item())
    for values in found.values():
        mean, error = torch.tensor(values).mean(), torch.tensor(values).std() / math.sqrt(10)
        assert abs(mean - wanted) < 3.0 * error and error < 0.02 * wanted


def test_one_draw_is_enough_where_c_is_the_data_s():
    """And the same table integrated."""
    table = exact_spread(2000, 0.1, 2.0)
    for interval in ((2.0, 2.0, 0.1), (2.0, 0.7, 0.3)):
        drawn = draw(interval, torch.tensor([0.01, 0.5, 0.9]), C)
        values = drawn.weight * table.between(drawn.t, torch.tensor(interval[1]).double())
        assert values.tolist() == pytest.approx([table.klub([interval]).item()] * 3, rel=1e-3)


@pytest.mark.parametrize(("c", "low", "high"), [(0.5, 0.1, 2.0), (0.5, 0.03, 14.6), (1.0, 0.2, 5.0)])
def test_best_single_point_for_gaussian_data(c, low, high):
    """t^2 = (PQ + sqrt(PQ (P + c^2) (Q + c^2))) / (P + Q + c^2)."""
    p, q = low ** 2, high ** 2
    best = math.sqrt((p * q + math.sqrt(p * q * (p + c * c) * (q + c * c))) / (p + q + c * c))
    tried = log_grid(2001, low * 1.01, high / 1.01).tolist()
    bounds = exact_spread(500, low, high, c).klub(
        [part for level in tried for part in intervals_of([high, level, low])]).reshape(-1, 2).sum(1)
    assert tried[int(bounds.argmin())] == pytest.approx(best, rel=5e-3)
    if (c, low) == (0.5, 0.1):
        assert best == pytest.approx(0.242366, abs=1e-6)


def test_arctan_spacing_is_euler_s_best_for_gaussian_data():
    """The end's spread misses the data's least on kl_optimal, whose c is 1."""
    levels = classic_sigmas("kl_optimal", DiscreteLevels(), 6).tolist()[:-1]

    def lost(levels):
        return -sum(math.log(1.0 - (u - low) * u / (u ** 2 + 1.0)) for u, low in itertools.pairwise(levels))

    for i, factor in itertools.product(range(1, 5), (0.9, 0.99, 1.01, 1.1)):
        assert lost([*levels[:i], levels[i] * factor, *levels[i + 1:]]) > lost(levels)


# Measured by a script that shares nothing with this, on 20000 samples.
@pytest.mark.parametrize(("name", "klub", "error"), [
    ("log-uniform", 18.19, 0.04), ("karras", 29.92, 0.08), ("arctan c=.5", 46.5, 0.2), ("AYS SD1", 82.9, 0.4),
    ("arctan c=1", 100.8, 0.5), ("SD time-uniform", 186.5, 1.2)])
def test_bounds_of_known_schedules_on_the_mixture(name, klub, error, mixture):
    found = mixture.klub(intervals_of(SCHEDULES[name])).sum().item()
    assert found == pytest.approx(klub, abs=3.0 * error + 0.012 * klub)  # 3000 paths spread by about 0.4 %


def test_the_table_gives_what_draws_give():
    data = pictures(2000, seed=1)
    table, levels = spread(denoise, data), SCHEDULES["karras"]
    for solver in ("ddim", "2m"):
        drawn = DrawnBound(denoise, data, places=6, c=C, solver=solver, seed=3, process=VE)
        parts = intervals_of(levels, solver)
        list(drawn.learn(parts))
        read = table.klub(parts, solver)
        assert [drawn.known[part] for part in parts] == pytest.approx(read.tolist(), rel=0.12)
        assert sum(drawn.known.values()) == pytest.approx(read.sum().item(), rel=0.03)


def test_2m_s_bound_of_predictions_on_a_line():
    """D = x_0 + lambda along every path: 2M misses nothing behind its first interval, DDIM (log u / t)^2."""
    levels = log_grid(200)
    lams = -levels.log()
    gaps = (lams[:, None] - lams).square() * (lams[None] - lams[:, None]).sign()
    parts = intervals_of([4.0, 2.0, 1.0, 0.3], "2m")
    table = Spread(levels, gaps)
    assert (table.klub(parts, "2m")[1:].abs() < 0.005 * table.klub(parts)[1:]).all()
    assert table.klub(parts, "2m")[0].item() == table.klub(parts)[0].item()


def test_noise_of_a_path_is_its_own_whatever_the_batch():
    data, levels = pictures(5), log_grid(4)
    sums = [list(measure_spread(denoise, data, levels, rounds=2, batch=batch, process=VE))[-1].state["sum"]
            for batch in (2, 5)]
    assert torch.allclose(sums[0], sums[1], rtol=1e-10, atol=1e-12)
    stopped = list(itertools.islice(measure_spread(denoise, data, levels, rounds=2, batch=2, process=VE), 14))[-1]
    rest = list(measure_spread(denoise, data, levels, rounds=2, batch=2, process=VE, state=stopped.state))
    assert torch.equal(rest[-1].state["sum"], sums[0]) and len(rest) == 3 * 4 + 1


def test_other_numbers_of_steps():
    sigmas = [16.0, 4.0, 1.0]
    assert interpolated_sigmas(sigmas, 2) == sigmas and interpolated_sigmas(sigmas, 1) == [16.0, 1.0]
    assert interpolated_sigmas(sigmas, 4) == pytest.approx([16.0, 8.0, 4.0, 2.0, 1.0], rel=1e-14)
    ending = [*sigmas, 0.0]
    assert interpolated_sigmas(ending, 3) == ending and interpolated_sigmas(ending, 1) == [16.0, 0.0]
    assert interpolated_sigmas(ending, 5) == pytest.approx([16.0, 8.0, 4.0, 2.0, 1.0, 0.0], rel=1e-14)
    assert interpolated_sigmas(ending, 2) == [16.0, 1.0, 0.0]
    for wrong, steps, message in (([16.0, 0.0], 2, "need two levels above 0"), ([16.0], 1, "need two levels above 0"),
                                  (sigmas, 0, "steps must be at least 1, got 0"), ([], 2, "need two levels above 0"),
                                  ([16.0, 4.0, 4.0, 0.0], 2, "falls from level to level"),
                                  ([1.0, 4.0], 1, "falls from level to level"),
                                  ([4.0, 1.0, -1.0], 2, "not below 0"), ([math.inf, 1.0], 1, "falls from level"),
                                  ([4.0, math.nan, 0.0], 3, "falls from level to level")):
        with pytest.raises(ValueError, match=message):
            interpolated_sigmas(wrong, steps)
