"""DPM-Solver-v3 and its statistics: the reference's runs, orders, limits, what is measured, and what can't work."""
import json
import math
from pathlib import Path

import pytest
import torch
from gmm import UNIT_NOISE, denoise, denoise_flow, log_spaced, logit_spaced

from odeon.measure.ems import ems_cost, ems_of, measure_ems
from odeon.samplers.ddim import plan_ddim
from odeon.samplers.dpm_solver import plan_dpm_solver
from odeon.samplers.dpm_solver_pp import plan_dpm_solver_pp
from odeon.samplers.dpm_solver_v3 import EMS, sample_dpm_solver_v3
from odeon.samplers.exponential_adams import plan_exponential_adams
from odeon.samplers.linear import run
from odeon.samplers.process import FLOW, VE
from odeon.samplers.unipc import plan_unipc

GOLDEN = json.loads((Path(__file__).parent / "golden" / "solvers" / "dpm_solver_v3.json").read_text())
START = 14.6 * UNIT_NOISE
BY_PROCESS = pytest.mark.parametrize("process", [VE, FLOW], ids=lambda process: process.name)

tensor = lambda values: torch.tensor(values, dtype=torch.float64)
levels = lambda count: log_spaced(count, 14.6, 0.05)
rms = lambda x: x.square().mean().sqrt().item()


def unit_noise(count, seed, shape=(16,)):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def recording(model, calls):
    def recorded(x, sigma):
        calls.append((x, sigma, model(x, sigma)))
        return calls[-1][2]

    return recorded


def solve(model, x, sigmas, ems, process=VE, **options):
    return sample_dpm_solver_v3(lambda x, sigma: model(x, sigma[0].item()), x, sigmas, process=process, ems=ems,
                                **options)


def measured(model, noise, points, **options):
    options = {"process": VE, "sigma_max": 14.6, "sigma_min": 0.05, "batch": len(noise), **options}
    return [progress.state for progress in measure_ems(model, noise, points=points, **options)][-1]


def constant(l_value, s_value, points=3000, process=VE, top=14.6):
    table = torch.ones(points + 1, 1, dtype=torch.float64)
    return EMS(l_value * table, s_value * table, 0.0 * table, *process.lams([top, 0.05]))


def made_up(process, sigmas, points):
    """Smooth statistics that differ from place to place."""
    first, *_, last = process.lams(sigmas)
    lam = torch.linspace(first, last, points + 1, dtype=torch.float64)[:, None]
    place = torch.arange(16, dtype=torch.float64) / 16.0
    return EMS(1.0 / (1.0 + torch.exp(2.0 * lam) * (0.3 + place)), 0.8 * torch.cos(0.5 * lam + place),
               0.3 * torch.sin(lam + place), first, last)


@pytest.mark.parametrize("entry", GOLDEN["runs"], ids=lambda entry: str(entry["settings"]["steps"]))
def test_repeats_the_reference(entry):
    settings, tables, calls = entry["settings"], [tensor(GOLDEN["ems"][key]) for key in "lsb"], []
    if settings["degenerated"]:
        tables = [torch.full_like(tables[0], value) for value in (1.0, 0.0, 0.0)]
    options = {key: settings[key] for key in ("order", "p_pseudo", "use_corrector", "c_pseudo", "lower_order_final")}
    out = solve(recording(denoise, calls), tensor(GOLDEN["starts"][entry["start"]]), settings["sigmas"],
                EMS(*tables, -math.log(14.6), -math.log(0.05)), **options)
    assert (out - tensor(entry["x_final"])).abs().max() < 1e-9
    assert [sigma for _, sigma, _ in calls] == pytest.approx(settings["sigmas"][:settings["nfe"]], rel=1e-12)


@BY_PROCESS
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(("l_value", "s_value", "plan"), [(1.0, 0.0, plan_dpm_solver_pp), (0.0, -1.0, plan_dpm_solver)])
def test_constant_statistics_are_earlier_solvers(l_value, s_value, plan, order, process):
    model, top = (denoise, 14.6) if process is VE else (denoise_flow, 0.95)
    ems = constant(l_value, s_value, process=process, top=top)
    sigmas = [process.sigma(ems.lam_first + (ems.lam_last - ems.lam_first) * i / 12) for i in range(13)]
    options = {"solver_type": "taylor", "method": "multistep", "lower_order_below": 0, "process": process}
    wanted = run(model, top * UNIT_NOISE, plan(sigmas, order=order, **options))
    found = solve(model, top * UNIT_NOISE, sigmas, ems, process, order=order, lower_order_final=False)
    assert (found - wanted).abs().max() < 1e-5


@BY_PROCESS
def test_order_of_convergence(process):
    grid, model, top = (log_spaced, denoise, 1000.0) if process is VE else (logit_spaced, denoise_flow, 0.999)
    start, ems = top * UNIT_NOISE, made_up(process, grid(2), 10240)
    exact = run(model, start, plan_exponential_adams(grid(4096), order=4, process=process))
    for order, options in ((1, {"order": 1}), (2, {"order": 2}), (3, {"order": 3}), (2, {"order": 3, "p_pseudo": True}),
                           (2, {"order": 1, "use_corrector": True}), (2, {"order": 2, "use_corrector": True})):
        coarse, fine = ((solve(model, start, grid(n), ems, process, lower_order_final=False, **options) - exact).norm()
                        for n in (160, 320))
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.1), options


def test_the_last_step_returns_the_prediction_and_the_callback_sees_every_step():
    calls, seen, ems, sigmas = [], [], constant(1.0, 0.0, 300), [*levels(6), 0.0]
    out = solve(recording(denoise, calls), START, sigmas, ems, order=3, use_corrector=True,
                callback=lambda i, x, denoised, sigma: seen.append((i, sigma, x, denoised)))
    assert len(calls) == 7 and torch.equal(out, calls[-1][2])
    assert [(i, sigma) for i, sigma, *_ in seen] == list(enumerate(sigmas[1:])) and seen[-1][2] is out
    assert all(torch.equal(denoised, call[2]) for (*_, denoised), call in zip(seen, calls))
    assert torch.equal(START, 14.6 * UNIT_NOISE) and torch.equal(solve(denoise, START, [14.6, 0.0], ems), calls[0][2])


def test_half_the_levels_are_corrected():
    ems = made_up(VE, [14.6, 0.05], 300)
    for sigmas, corrected in ((log_spaced(8, 14.6, 1.7), "high_noise"), (log_spaced(8, 1.5, 0.05), "low_noise")):
        plain = solve(denoise, sigmas[0] * UNIT_NOISE, sigmas, ems)
        found = {half: solve(denoise, sigmas[0] * UNIT_NOISE, sigmas, ems, use_corrector=True, half=half)
                 for half in ("off", "high_noise", "low_noise")}
        assert [half for half, out in found.items() if not torch.equal(out, plain)] == ["off", corrected]


def test_a_flow_starts_at_pure_noise():
    ems, sigmas, states = made_up(FLOW, [0.999, 0.01], 2000), [1.0, *logit_spaced(60, 0.98, 0.01), 0.0], []
    out = solve(denoise_flow, UNIT_NOISE, sigmas, ems, FLOW, order=3,
                callback=lambda i, x, denoised, sigma: states.append(x))
    first = run(denoise_flow, UNIT_NOISE, plan_ddim([1.0, 0.98], process=FLOW))
    assert (states[0] - first).abs().max() < 2e-3  # not 0: 0.98 is moved to a level of the EMS
    fine, euler = (run(denoise_flow, UNIT_NOISE, plan_ddim(s, process=FLOW)) for s in (
        [1.0 - i / 4000 for i in range(4001)], sigmas))
    assert rms(out - fine) < 0.5 * rms(euler - fine)
    assert torch.equal(solve(denoise_flow, UNIT_NOISE, [1.0, 0.0], ems, FLOW), denoise_flow(UNIT_NOISE, 1.0))


def test_reads_no_tensor_back_and_keeps_the_dtype():
    x = torch.empty(2, 16, device="meta")  # has no values: .item(), float(x) or `if x:` would raise
    ems = made_up(VE, [14.6, 0.05], 100)
    out = sample_dpm_solver_v3(lambda x, sigma: 0.5 * x, x, [*levels(5), 0.0], process=VE, ems=ems, order=3,
                               use_corrector=True)
    assert out.device.type == "meta" and out.shape == x.shape
    single, double = (solve(denoise, x, levels(10), ems, order=3) for x in (START.float(), START))
    assert single.dtype == torch.float32 and (single - double).abs().max() < 1e-4


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


@pytest.mark.parametrize(("steps", "options", "starts", "share"), [
    (5, {"p_pseudo": True, "use_corrector": True}, START, 0.6), (80, {}, START, 0.6),  # as the authors' settings claim
    (5, {"p_pseudo": True, "use_corrector": True}, 14.6 * unit_noise(256, 77), 0.8),
])
def test_beats_unipc(steps, options, starts, share):
    """On these levels and starts; with these options UniPC-2 is ahead at 8 to 20 steps."""
    statistics = ems_of(measured(denoise, unit_noise(512, 5), 600))
    exact = run(denoise, starts, plan_exponential_adams(levels(4000), order=4))
    ours = rms(solve(denoise, starts, levels(steps), statistics, order=3, **options) - exact)
    unipc = min(rms(run(denoise, starts, plan_unipc(levels(steps), order=order)) - exact) for order in (2, 3))
    plain = rms(solve(denoise, starts, levels(steps), constant(1.0, 0.0, 600), order=3, **options) - exact)
    assert ours < share * unipc and ours < 0.75 * plain, (ours, unipc, plain)


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


@pytest.mark.parametrize(("change", "sigmas", "options", "message"), [
    (None, levels(4), {"order": 4}, "order must be 1, 2 or 3, got 4"),
    (None, levels(4), {"half": "high"}, "half must be one of off, high_noise, low_noise, got 'high'"),
    (None, [14.6, 2.0, 1.99, 0.05], {}, "sigmas 2 and 1.99 fall on one of the EMS' 101 levels; measure with more"),
    (None, [20.0, 1.0, 0.05], {}, "measured from sigma 14.6 to 0.05, the schedule has 20; measure again"),
    (None, [14.6, 1.0, 0.02, 0.0], {}, "the schedule has 0.02; measure again for this schedule"),
    (None, [14.6, 1.0, 1.0], {}, "must strictly decrease"),
    (lambda ems: None, levels(4), {}, "needs the statistics .EMS. of its model; measure or load"),
    (lambda ems: ems._replace(s=ems.s * math.nan), levels(4), {}, "NaN or infinite values; measure them again"),
    (lambda ems: ems._replace(s=ems.s * 800.0), levels(4), {}, "a step from sigma .* overflows; measure with more"),
    (lambda ems: ems._replace(lam_last=-9.0), levels(4), {}, "rising lambda"),
    (lambda ems: ems._replace(b=ems.b[1:]), levels(4), {}, "EMS must be three equal tables"),
    (lambda ems: EMS(*[ems.l.expand(-1, 9)] * 3, *ems[3:]), levels(4), {},
     r"measured on latents of shape \(9,\), this one is \(16,\); measure with spatial = channel"),
    (lambda ems: EMS(*[ems.l[..., None]] * 3, *ems[3:]), levels(4), {}, r"of shape \(1, 1\), this one is \(16,\)"),
])
def test_what_can_t_be_sampled_is_said(change, sigmas, options, message):
    ems = constant(1.0, 0.5, 100)
    with pytest.raises(ValueError, match=message):
        solve(denoise, START, sigmas, change(ems) if change else ems, **options)


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
