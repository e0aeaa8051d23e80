"""DPM-Solver-v3: the reference's runs, orders, limits, and what can't work."""
import json
import math
from pathlib import Path

import pytest
import torch
from ems_runs import BY_PROCESS, START, constant, levels, made_up, measured, recording, rms, solve, tensor, unit_noise
from gmm import UNIT_NOISE, denoise, denoise_flow, log_spaced, logit_spaced

from odeon.measure.ems import ems_of
from odeon.samplers.ddim import plan_ddim
from odeon.samplers.dpm_solver import plan_dpm_solver
from odeon.samplers.dpm_solver_pp import plan_dpm_solver_pp
from odeon.samplers.dpm_solver_v3 import EMS, sample_dpm_solver_v3
from odeon.samplers.exponential_adams import plan_exponential_adams
from odeon.samplers.linear import run
from odeon.samplers.process import FLOW, VE
from odeon.samplers.unipc import plan_unipc

GOLDEN = json.loads((Path(__file__).parent / "golden" / "solvers" / "dpm_solver_v3.json").read_text())


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


@BY_PROCESS
def test_levels_stay_where_statistics_are_read_between(process):
    model, top = (denoise, 14.6) if process is VE else (denoise_flow, 0.95)
    sigmas, x, calls = [top, 0.61 * top, 0.3 * top, 0.15 * top, 0.08 * top, 0.05], top * UNIT_NOISE, []

    def end(points, snap="interpolate", levels=sigmas):
        return solve(recording(model, calls), x, levels, made_up(process, [top, 0.05], points), process, snap=snap)

    fine, coarse, finer = (end(points) for points in (20000, 100, 300))
    assert [sigma for _, sigma, _ in calls[:5]] == pytest.approx(sigmas[:-1], rel=1e-12)
    assert rms(end(20000, "nearest") - fine) < 2e-3 and rms(end(300, "nearest") - fine) > 0.05
    assert 6.0 < rms(coarse - fine) / rms(finer - fine) < 12.0  # of order 2 in their spacing
    if process is VE:
        assert torch.equal(coarse, end(100, levels=[top * 1.001, *sigmas[1:]]))  # up to half a cell beyond the end
    first, last = process.lams([top, 0.05])
    even = [process.sigma(first + (last - first) * i / 5) for i in range(6)]
    assert (end(100, levels=even) - end(100, "nearest", even)).abs().max() < 1e-9


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


@pytest.mark.parametrize(("change", "sigmas", "options", "message"), [
    (None, levels(4), {"order": 4}, "order must be 1, 2 or 3, got 4"),
    (None, levels(4), {"half": "high"}, "half must be one of off, high_noise, low_noise, got 'high'"),
    (None, levels(4), {"snap": "floor"}, "snap must be one of nearest, interpolate, got 'floor'"),
    (None, [20.0, 1.0, 0.05], {"snap": "interpolate"}, "measured from sigma 14.6 to 0.05, the schedule has 20"),
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
