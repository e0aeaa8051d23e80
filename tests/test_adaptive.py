"""Samplers that pick their steps: the reference's runs, accuracy, flow models, batches and what they refuse."""
import json
from pathlib import Path

import pytest
import torch
from gmm import UNIT_NOISE, denoise, denoise_flow

from odeon.samplers.adaptive import sample_dpm_solver_adaptive, sample_pf_ode
from odeon.samplers.clock import linear_vp_clock
from odeon.samplers.exponential_adams import plan_exponential_adams
from odeon.samplers.linear import run
from odeon.samplers.process import FLOW, VE

FOLDER = Path(__file__).parent / "golden" / "solvers"
VP = linear_vp_clock()


def model_of(function, calls):
    def model(x, sigma):
        calls.append(sigma)
        return torch.cat([function(item[None], level.item()) for item, level in zip(x, sigma)])

    return model


def runs(name):
    golden = json.loads((FOLDER / f"{name}.json").read_text())
    for entry in golden["runs"]:
        yield (entry["settings"], *(torch.tensor(values, dtype=torch.float64)
                                    for values in (golden["starts"][entry["start"]], entry["x_final"])))


def test_pf_ode_repeats_the_reference():
    for settings, start, wanted in runs("pf_ode_rk45"):
        calls, variable = [], settings.get("variable", "vp_time")
        ends = ([VP.sigma_of(settings["T"]), VP.sigma_of(settings["eps"])] if variable == "vp_time"
                else [settings["sigma_max"], settings["sigma_min"]])
        out = sample_pf_ode(model_of(denoise, calls), start, ends, rtol=settings["rtol"], atol=settings["atol"],
                            variable=variable, norm="batch", process=VE)
        assert (out - wanted).abs().max() < 1e-9 and len(calls) == settings["nfev"], settings


def test_dpm_solver_adaptive_repeats_the_reference():
    for settings, start, wanted in runs("dpm_solver_adaptive"):
        calls = []
        options = {key: settings[key] for key in ("order", "rtol", "atol")}
        ends = [settings["sigma_max"], settings["sigma_min"]]
        out = sample_dpm_solver_adaptive(model_of(denoise, calls), start, ends, process=VE, **options)
        assert (out - wanted).abs().max() < 1e-9 and 3 <= settings["nfe"] - len(calls) <= 8, settings


@pytest.fixture(scope="module")
def exact():
    levels = [14.6 * (0.05 / 14.6) ** (i / 2000) for i in range(2001)]
    return run(denoise, 14.6 * UNIT_NOISE, plan_exponential_adams(levels, order=4))


def error(sample, exact, **options):
    return (sample(model_of(denoise, []), 14.6 * UNIT_NOISE, [14.6, 0.05], process=VE, **options) - exact).norm().item()


def test_tighter_tolerances_bring_less_error(exact):
    loose, tight = (error(sample_pf_ode, exact, rtol=tol, atol=tol) for tol in (1e-3, 1e-6))
    assert tight < loose / 500.0
    for order in (2, 3):
        errors = [error(sample_dpm_solver_adaptive, exact, order=order, rtol=tol, atol=0.16 * tol)
                  for tol in (0.2, 0.05, 0.01, 0.002)]
        assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 50.0


def test_a_picture_takes_its_own_steps():
    model = model_of(denoise, [])
    batch = sample_pf_ode(model, 14.6 * UNIT_NOISE[:3], [14.6, 0.05, 0.0], rtol=1e-4, atol=1e-4, process=VE)
    for i in range(3):
        alone = sample_pf_ode(model, 14.6 * UNIT_NOISE[i:i + 1], [14.6, 0.05, 0.0], rtol=1e-4, atol=1e-4, process=VE)
        assert (batch[i:i + 1] - alone).abs().max() < 1e-12


@pytest.mark.parametrize("sample", [sample_pf_ode, sample_dpm_solver_adaptive])
def test_flow_from_pure_noise_to_the_end(sample):
    fine = run(denoise_flow, UNIT_NOISE, plan_exponential_adams([1.0 - i / 2000 for i in range(2001)], process=FLOW))
    seen = []
    out = sample(model_of(denoise_flow, []), UNIT_NOISE, [1.0, 0.5, 0.002, 0.0], process=FLOW, rtol=1e-4, atol=1e-4,
                 callback=lambda i, x, denoised, sigma: seen.append((i, sigma)))
    assert (out - fine).abs().max() < 0.02
    assert [i for i, _ in seen] == list(range(len(seen))) and seen[-1][1] == pytest.approx(0.002)


@pytest.mark.parametrize(("sample", "options", "message"), [
    (sample_pf_ode, {"rtol": 0.0}, "rtol and atol must be above 0"),
    (sample_pf_ode, {"variable": "t"}, "variable must be one of lambda, sigma, vp_time, got 't'"),
    (sample_pf_ode, {"norm": "max"}, "norm must be 'per_sample' or 'batch'"),
    (sample_pf_ode, {"max_calls": 20}, "needs more than 20 model calls .* it reached sigma"),
    (sample_pf_ode, {"variable": "vp_time", "process": FLOW}, "for flow models choose lambda or sigma"),
    (sample_dpm_solver_adaptive, {"order": 4}, "order must be 2 or 3, got 4"),
    (sample_dpm_solver_adaptive, {"norm": "max"}, "norm must be 'batch_max' or 'pooled'"),
    (sample_dpm_solver_adaptive, {"max_calls": 20}, "needs more than 20 model calls"),
])
def test_what_can_t_work_is_said(sample, options, message):
    top = 1.0 if options.get("process") is FLOW else 14.6
    with pytest.raises(ValueError, match=message):
        sample(model_of(denoise, []), top * UNIT_NOISE, [top, 0.05, 0.0], **{"process": VE, **options})
