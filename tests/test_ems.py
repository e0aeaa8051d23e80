"""The statistics of DPM-Solver-v3: what is measured, how a measurement goes on, and what can't work."""
import math

import pytest
import torch
from ems_runs import BY_PROCESS, START, levels, measured, recording, rms, solve, tensor, unit_noise
from gmm import denoise, denoise_flow

from odeon.measure.ems import ems_cost, ems_of, measure_ems
from odeon.samplers.dpm_solver_v3 import EMS
from odeon.samplers.exponential_adams import plan_exponential_adams
from odeon.samplers.linear import run
from odeon.samplers.process import FLOW, VE


@BY_PROCESS
def test_one_gaussian_is_solved_exactly(process):
    """sigma eps is linear in x there: l is its slope, f a constant, and the first-order step has no error."""
    std, mean = 0.6, tensor([0.3, -1.0, 2.0])
    top, bottom = (14.6, 0.05) if process is VE else (0.99, 0.05)

    alpha = process.alpha
    gain = lambda sigma: alpha(sigma) ** 2 * std ** 2 + sigma ** 2
    model = lambda x, sigma: mean + alpha(sigma) * std ** 2 / gain(sigma) * (x - alpha(sigma) * mean)
    state = measured(model, unit_noise(8, 1, (3,)), 1000, process=process, sigma_max=top, sigma_min=bottom)
    ems = ems_of(state, smooth=0)
    grid = [process.sigma(ems.lam_first + (ems.lam_last - ems.lam_first) * i / 1000) for i in range(1001)]
    wanted = tensor([sigma ** 2 / gain(sigma) for sigma in grid])[:, None]
    assert (ems.l - wanted).abs().max() < 1e-9 and ems.s.abs().max() == 0.0
    x = top * unit_noise(5, 2, (3,))
    exact = alpha(bottom) * mean + math.sqrt(gain(bottom) / gain(top)) * (x - alpha(top) * mean)
    for stride in (1000, 500, 100):
        assert (solve(model, x, grid[::stride], ems, process, order=1) - exact).abs().max() < 1e-4


def visited(noise, points, places):
    """EMS of small differences, and (x, sigma, D) at some places of their grid."""
    calls = []
    state = measured(recording(denoise, calls), noise, points, nudge=1e-3)
    return ems_of(state, smooth=0), [calls[2 * place] for place in places]


def test_the_diagonal_is_right_within_its_standard_error():
    places, scores = (0, 20, 30, 40), []
    ems, visits = visited(unit_noise(400, 11), 60, places)
    for place, (x, sigma, _) in zip(places, visits):
        jacobian = torch.func.vmap(torch.func.jacfwd(lambda x, sigma=sigma: denoise(x[None], sigma)[0]))(x)
        diagonal = jacobian.diagonal(dim1=1, dim2=2)
        variance = (jacobian.square().sum(2) - diagonal.square()).mean(0) / len(x)
        scores.append(((ems.l[place] - 1.0 + diagonal.mean(0)).abs() - 1e-5).clamp(min=0.0) / variance.sqrt())
    assert torch.stack(scores).max() < 3.0 and torch.stack(scores[:2]).square().mean() > 0.3


def test_scale_and_bias_are_a_regression_of_exact_derivatives():
    places, h = (40, 150, 260), math.log(14.6 / 0.05) / 300
    ems, visits = visited(unit_noise(200, 12), 300, places)
    for place, (x, sigma, _) in zip(places, visits):
        level = torch.tensor(sigma, dtype=torch.float64)
        l_now, l_slope = ems.l[place], (ems.l[place + 1] - ems.l[place - 1]) / (2.0 * h)
        eps = lambda x, level: (x - denoise(x, level)) / level
        e = eps(x, level)
        _, e1 = torch.func.jvp(eps, (x, level), (-level * e, -level))  # along the ODE, d sigma / d lam = -sigma
        f, f1 = sigma * e - l_now * x, sigma * ((l_now - 1.0) * e + e1) - l_slope * x
        s = ((f * f1).mean(0) - f.mean(0) * f1.mean(0)) / f.var(0, correction=0)
        assert (ems.s[place] - s).abs().max() < 5e-3 and (ems.b[place] - f1.mean(0) + s * f.mean(0)).abs().max() < 1e-3


def test_both_derivatives_agree():
    exact, usual, tiny = (ems_of(measured(denoise, unit_noise(128, 13), 20, batch=64, **options))
                          for options in ({"jacobian": "jvp"}, {}, {"nudge": 1e-4}))
    assert all((a - b).abs().max() < allowed for a, b, allowed in zip(exact, usual, (0.02, 0.1, 0.01)))
    assert all((a - b).abs().max() < 1e-4 for a, b in zip(exact[:3], tiny[:3]))


def half_precision(x, sigma):
    """What a network that runs in float16 makes of it: rounded input, rounded eps."""
    size = math.hypot(1.0, sigma)
    seen = (x / size).half().float() * size
    return x - sigma * ((seen - denoise(seen.double(), sigma)) / sigma).half().float()


def test_half_precision_spoils_nothing():
    fine = run(denoise, START, plan_exponential_adams(levels(2000), order=4))
    full = ems_of(measured(denoise, unit_noise(128, 14), 120))
    half = ems_of(measured(half_precision, unit_noise(128, 14).float(), 120))
    errors = [rms(solve(denoise, START, levels(20), ems, order=3) - fine) for ems in (full, half)]
    assert rms(full.l - half.l) < 2e-3 and errors[1] < 1.1 * errors[0]


@BY_PROCESS
def test_a_measurement_goes_on_where_it_stopped(process):
    model, top = (denoise, 14.6) if process is VE else (denoise_flow, 0.999)
    options = {"process": process, "sigma_max": top, "sigma_min": 0.05, "points": 12, "batch": 3}
    noise, calls, total = unit_noise(8, 21), [], ems_cost(8, points=12, process=process)
    whole = list(measure_ems(recording(model, calls), noise, **options))
    assert sum(len(x) for x, *_ in calls) == whole[-1].done == whole[0].total == total
    assert [progress.done for progress in whole] == sorted({progress.done for progress in whole})
    broken = [progress for progress, _ in zip(measure_ems(model, noise, **options), range(13 + 4))][-1]
    assert int(broken.state["samples"]) == 3 and broken.preview.shape == (3, 16)
    rest = list(measure_ems(model, noise, state=broken.state, **options))
    assert len(rest) == 2 * 13 and all(torch.equal(whole[-1].state[key], rest[-1].state[key]) for key in broken.state)
    again = list(measure_ems(model, noise, state=rest[-1].state, **options))
    assert [(progress.done, progress.state is rest[-1].state) for progress in again] == [(total, True)]
    singly = measured(model, noise, **{**options, "batch": 1})
    assert all(torch.allclose(singly[key], value, rtol=1e-10, atol=1e-10) for key, value in rest[-1].state.items())


def test_means_over_channels():
    model = lambda x, sigma: x / (1.0 + tensor([0.5, 2.0])[:, None, None] * sigma ** 2)
    state = measured(model, unit_noise(32, 22, (2, 3, 4)), 40)
    full, channel = ems_of(state), ems_of(state, spatial="channel", about={"cfg": 7.5})
    assert full.l.shape == (41, 2, 3, 4) and channel.s.shape == channel.b.shape == (41, 2, 1, 1)
    assert (full.l.mean((2, 3), keepdim=True) - channel.l).abs().max() < 1e-12 and channel.about == {"cfg": 7.5}
    whole = EMS(*(table.expand(-1, -1, 5, 6) for table in channel[:3]), *channel[3:])
    out, same = (solve(model, 14.6 * unit_noise(2, 23, (2, 5, 6)), levels(5), ems) for ems in (channel, whole))
    assert (out - same).abs().max() < 1e-14 and torch.isfinite(out).all()


@pytest.mark.parametrize(("options", "message"), [
    ({"jacobian": "vjp"}, "jacobian must be 'jvp' or 'finite_diff', got 'vjp'"),
    ({"points": 1}, "points must be 2"), ({"sigma_min": 0.0}, "sigma_min above 0"), ({"nudge": 0.0}, "nudge above 0"),
    ({"sigma_max": 1.0, "process": FLOW}, "sigma_max below 1, got 0.05 and 1; take 0.999 for 1"),
    ({"sigma_max": 0.01}, "must strictly decrease"),
    ({"model": lambda x, sigma: x * math.nan}, "NaN or infinite values at sigma 14.6; try a higher precision"),
    ({"model": lambda x, sigma: torch.nn.functional.scaled_dot_product_attention(*[x[None, None]] * 3)[0, 0],
      "jacobian": "jvp"}, "operation without forward derivative.* Choose jacobian = fin"),
    ({"state": measured(denoise, unit_noise(2, 1), 9)}, r"measured on tables of \(10, 16\) .* makes \(9, 16\)"),
    ({"state": measured(denoise, unit_noise(2, 1), 8, sigma_max=9.0)}, "go on with the same settings, or start anew"),
    ({"of": {"spatial": "pixel"}}, "spatial must be 'full' or 'channel', got 'pixel'"),
    ({"of": {"smooth": 9}}, "smooth must lie in 0 to 8, the points of this measurement, got 9"),
    ({"noise": unit_noise(1, 1)}, "EMS need at least 2 finished samples, got 1"),
])
def test_what_can_t_be_measured_is_said(options, message):
    settings = {"model": denoise, "noise": unit_noise(4, 1), "points": 8, "of": {}, **options}
    with pytest.raises(ValueError, match=message):
        of = settings.pop("of")
        ems_of(measured(**settings), **of)
