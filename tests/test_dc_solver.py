"""DC-Solver and the search of its ratios against recorded runs of the authors' code, and on starts it never saw."""
import math
import sys

import pytest
import torch
from gmm import UNIT_NOISE, denoise, denoise_flow, log_spaced
from golden_runs import load, tensor

from odeon.measure.dc_ratios import dc_cost, search_dc_ratios, teacher_cost, teacher_states
from odeon.samplers.clock import FLOW_CLOCK, Clock
from odeon.samplers.dc_cpr import coeffs_of_text, cpr_ratios, fit_cpr, rows_of_text, sd21_coeffs
from odeon.samplers.dc_solver import DCRatios, plan_dc_solver, ratios_of_text, read_at
from odeon.samplers.ddim import plan_ddim
from odeon.samplers.exponential_adams import plan_exponential_adams
from odeon.samplers.linear import run
from odeon.samplers.process import FLOW, VE

GOLDEN = load("solvers/dc_solver")
CPR = load("solvers/dc_solver_cpr")
BETAS = torch.linspace(0.00085 ** 0.5, 0.012 ** 0.5, 1000, dtype=torch.float64) ** 2
LOG_ALPHAS = (0.5 * torch.cumprod(1.0 - BETAS, dim=0).log()).tolist()


def log_alpha(time):
    """The authors' schedule: log alpha by straight lines in t over t = 1/1000, ..., 1."""
    low = min(math.floor(time * 1000.0 - 1.0), 998)
    return LOG_ALPHAS[low] + (time * 1000.0 - 1.0 - low) * (LOG_ALPHAS[low + 1] - LOG_ALPHAS[low])


def even_times(steps):
    return [1.0 - 0.999 * i / steps for i in range(steps + 1)]


def levels_at(times):
    return [math.sqrt(math.expm1(-2.0 * log_alpha(time))) for time in times]


def clock_of(sigmas, times):
    table = dict(zip(sigmas, times))
    return Clock(table.__getitem__, None)


def last_of(progress):
    return list(progress)[-1].state


def states_of(model, x, steps):
    states = []
    end = run(model, x, steps, callback=lambda i, x, denoised, sigma: states.append(x))
    return [*states, end]


def starts(seed, count):
    noise = torch.randn(count, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return noise / math.exp(LOG_ALPHAS[-1])


def test_golden_runs():
    assert GOLDEN["runs"]
    for entry in GOLDEN["runs"]:
        settings = entry["settings"]
        steps = plan_dc_solver(
            settings["sigmas_ve"], ratios=DCRatios(tuple(settings["dc_ratios"]), tuple(settings["sigmas_ve"])),
            order=settings["order"], variant=settings["variant"], dc_order=settings["dc_order"],
            lower_order_final=settings["lower_order_final"], clock=clock_of(settings["sigmas_ve"], settings["times"]))
        out = run(denoise, tensor(GOLDEN["starts"][entry["start"]]), steps)
        assert (out - tensor(entry["x_final"])).abs().max() < 1e-9, settings
        assert len(steps) == settings["nfe"]


@pytest.fixture(scope="module")
def published():
    """The recorded search: its start, schedule, and the targets of its authors, the last of 200 DDIM states above each
    level, compared at unit size."""
    recorded = GOLDEN["search"][0]
    times, fine = even_times(5), even_times(200)
    sigmas = levels_at(times)
    x = tensor(recorded["noise"]) / math.exp(LOG_ALPHAS[-1])
    states, targets = states_of(denoise, x, plan_ddim(levels_at(fine))), []
    for time in times[1:]:
        place = max(i for i, other in enumerate(fine) if other > time + 1e-9)
        targets.append(states[place] * math.exp(log_alpha(fine[place]) - log_alpha(time)))
    return {"x": x, "sigmas": sigmas, "targets": targets, "wanted": recorded["settings"]["dc_ratios_found"],
            "options": {"clock": clock_of(sigmas, times), "variant": "bh1"}}


def search(case, **options):
    return search_dc_ratios(denoise, case["x"], case["sigmas"], case["targets"], **case["options"], **options)


def test_golden_search(published):
    found = last_of(search(published, method="adamw"))["ratios"].tolist()
    assert found == pytest.approx(published["wanted"], abs=2e-3)
    by_brent = last_of(search(published))["ratios"].tolist()
    assert by_brent == pytest.approx(published["wanted"], abs=2e-2)  # AdamW has not arrived after its 40 steps


def test_every_step_is_at_the_least_error(published):
    """Moving one ratio either way leaves that step's end farther from its target."""
    ratios = last_of(search(published))["ratios"].tolist()

    def error(i, change):
        moved = tuple(ratios[:i] + [ratios[i] + change] + [1.0] * (4 - i))
        steps = plan_dc_solver(published["sigmas"], ratios=DCRatios(moved), **published["options"])
        ends = states_of(denoise, published["x"], steps)
        return (ends[i + 1] - published["targets"][i]).square().mean().item()

    for i in (2, 3, 4):
        assert error(i, 0.0) <= min(error(i, -0.01), error(i, 0.01))


@pytest.fixture(scope="module")
def others():
    """Starts that no search saw, and where they lead."""
    x = starts(seed=7, count=4096)
    return x, run(denoise, x, plan_exponential_adams(levels_at(even_times(200))))


# Mean squared error on the others relative to UniPC's, measured: 1.00, 0.92 and 0.82; searched against the teacher's
# states at the levels themselves 1.07, 1.09 and 0.96. Ratios from 10 starts, as published, scatter from 0.99 to 1.25 at
# 5 steps: they are fitted to those.
@pytest.mark.parametrize(("steps", "most"), [(5, 1.02), (6, 0.95), (8, 0.95)])
def test_search_helps_starts_it_never_saw(steps, most, others):
    times = even_times(steps)
    sigmas = levels_at(times)
    clock, x = clock_of(sigmas, times), starts(seed=100, count=1024)

    def error(ratios):
        steps = plan_dc_solver(sigmas, ratios=DCRatios(tuple(ratios)), variant="bh1", clock=clock)
        return (run(denoise, others[0], steps) - others[1]).square().mean().item()

    errors = []
    for lag in (0, 1):
        targets = last_of(teacher_states(denoise, x, sigmas, lag=lag))["states"]
        found = last_of(search_dc_ratios(denoise, x, sigmas, targets, clock=clock, variant="bh1"))
        errors.append(error(found["ratios"].tolist()) / error([1.0] * steps))
    assert errors[1] <= most and errors[1] < errors[0], errors


def test_a_missing_scipy_is_named(published, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match=r"pip install 'odeon\[science\]', or choose method adamw"):
        list(search(published))


@pytest.mark.parametrize("method", ["brent", "adamw"])
@pytest.mark.parametrize("uncorrected", [0, 3])
def test_search_marches_as_the_sampler_does_and_costs_what_it_says(method, uncorrected, published):
    calls = []

    def model(x, sigma):
        calls.append(sigma)
        return denoise(x, sigma)

    reports = list(search_dc_ratios(model, published["x"], published["sigmas"], published["targets"], method=method,
                                    iters=9, uncorrected=uncorrected, **published["options"]))
    assert [len(report.state["ratios"]) for report in reports] == [1, 2, 3, 4, 5]
    assert reports[-1].done == reports[-1].total == len(calls)
    cost = dc_cost(published["sigmas"], uncorrected=uncorrected, method=method, iters=9)
    assert len(calls) == cost if method == "adamw" else len(calls) <= cost
    assert all(report.done <= report.total for report in reports)
    assert max(calls) == published["sigmas"][0] and min(calls) == published["sigmas"][4]
    plan = plan_dc_solver(published["sigmas"], ratios=DCRatios(tuple(reports[-1].state["ratios"].tolist())),
                          uncorrected=uncorrected, **published["options"])
    assert torch.equal(run(denoise, published["x"], plan), reports[-1].state["x"])


def test_search_goes_on_where_it_stopped(published):
    whole = list(search(published))
    for report in whole[:-1]:
        rest = list(search(published, state=report.state))
        assert len(rest) == len(whole) - len(report.state["ratios"])
        assert all(torch.equal(rest[-1].state[key], value) for key, value in whole[-1].state.items())
    assert list(search(published, state=whole[-1].state)) == []


@pytest.mark.parametrize("solver", ["ddim", "exponential_adams"])
def test_teacher_goes_on_where_it_stopped(solver):
    sigmas, x = log_spaced(6, top=14.6, bottom=0.05), 14.6 * UNIT_NOISE.float()

    def teach(state=None):
        return list(teacher_states(denoise, x, sigmas, steps=60, solver=solver, state=state))

    whole = teach()
    assert [report.done for report in whole] == [10, 20, 30, 40, 50, 60] and whole[0].total == teacher_cost(sigmas, 60)
    rest = teach(whole[2].state)
    assert len(rest) == 3 and torch.equal(rest[-1].state["states"], whole[-1].state["states"])


@pytest.mark.parametrize(("process", "model"), [(VE, denoise), (FLOW, denoise_flow)], ids=["VE", "flow"])
def test_teacher_is_true(process, model):
    sigmas = [1.0, 0.8, 0.5, 0.2, 0.05, 0.0] if process is FLOW else [14.6, 5.0, 2.0, 0.4, 0.05, 0.0]
    x = sigmas[0] * UNIT_NOISE
    fine = [a * (b / a) ** (k / 500) for a, b in zip(sigmas[:-2], sigmas[1:-1]) for k in range(500)] + [0.05]
    exact = torch.stack(states_of(model, x, plan_exponential_adams(fine, process=process))[500::500])
    errors = {}
    for solver, lag in (("ddim", 0), ("ddim", 1), ("exponential_adams", 0)):
        found = last_of(teacher_states(model, x, sigmas, process=process, steps=100, solver=solver, lag=lag))["states"]
        errors[solver, lag] = (found - exact).square().mean().sqrt().item()
    assert errors["exponential_adams", 0] < 0.05 * errors["ddim", 0], errors
    assert errors["ddim", 1] < 0.1


def test_search_on_a_flow_from_pure_noise_in_half_precision_too():
    sigmas, x = [1.0, 0.9, 0.75, 0.5, 0.25, 0.0], UNIT_NOISE
    found = {}
    for variable in ("timestep", "sigma", "lambda"):
        for dtype in (torch.float64, torch.bfloat16):
            with torch.inference_mode():
                targets = last_of(teacher_states(denoise_flow, x.to(dtype), sigmas, steps=40, process=FLOW))["states"]
                state = last_of(search_dc_ratios(denoise_flow, x.to(dtype), sigmas, targets, process=FLOW,
                                                 clock=FLOW_CLOCK, variable=variable))
            found[variable, dtype] = state["ratios"].tolist()
    assert all(len(ratios) == 4 and ratios[:2] == [1.0, 1.0] for ratios in found.values())
    assert found["timestep", torch.float64] == found["sigma", torch.float64]  # a flow's time is its sigma
    for variable in ("timestep", "lambda"):
        assert found[variable, torch.bfloat16] == pytest.approx(found[variable, torch.float64], abs=0.1)


def test_a_node_infinitely_far_away_drops_out():
    far = read_at([-1e9, -1.0, 0.5], 2, 1.2, 2).d_coefs
    assert read_at([-math.inf, -1.0, 0.5], 2, 1.2, 2).d_coefs == pytest.approx(far[:2], abs=1e-8)
    assert read_at([-math.inf, 0.5], 1, 1.2, 1).d_coefs == (1.0,)


def test_ratios_fit_their_schedule_whether_or_not_it_ends_at_zero():
    sigmas = log_spaced(4, top=14.6, bottom=0.03)
    ratios = DCRatios((1.0, 1.0, 1.1, 0.9), tuple(sigmas))
    wanted = plan_dc_solver(sigmas, ratios=ratios, variable="lambda")
    options = {"ratios": ratios, "variable": "lambda", "lower_order_final": False}
    assert plan_dc_solver([*sigmas, 0.0], **options)[:4] == plan_dc_solver(sigmas, **options)
    single = torch.tensor(sigmas).tolist()  # as a host hands float32 levels over
    assert plan_dc_solver(single, ratios=ratios, variable="lambda")[2].keep[0].d_coefs == pytest.approx(
        wanted[2].keep[0].d_coefs, rel=1e-4)
    with pytest.raises(ValueError, match=r"the ratios were found for sigmas \[14.6, .*\], got \[14.6, .*0.031\]; "
                                         "search again for this schedule"):
        plan_dc_solver([*sigmas[:-1], 0.031], ratios=ratios, variable="lambda")


def test_cpr_matches_the_authors_code():
    assert sd21_coeffs() == tuple(CPR["coeffs"])
    for entry in CPR["runs"]:
        found = cpr_ratios(entry["settings"]["CFG"], entry["settings"]["NFE"])
        assert found.values == pytest.approx(entry["ratios"], abs=1e-9) and found.sigmas is None


def test_cpr_is_found_again_from_its_own_ratios():
    pairs = [(cfg, steps) for cfg in (1.5, 3.0, 5.0, 7.5, 11.0) for steps in (5, 6, 8, 10, 14)]
    coeffs = fit_cpr([(cfg, steps, cpr_ratios(cfg, steps).values) for cfg, steps in pairs])
    for cfg, steps in [*pairs, (2.0, 7), (9.0, 12), (12.0, 20)]:
        assert cpr_ratios(cfg, steps, coeffs).values == pytest.approx(cpr_ratios(cfg, steps).values, rel=1e-6)
    text = "\n".join(f"{cfg}, {steps}: " + ", ".join(map(repr, cpr_ratios(cfg, steps).values)) for cfg, steps in pairs)
    assert fit_cpr(rows_of_text(text + "\n\n")) == coeffs
    assert coeffs_of_text(", ".join(map(repr, coeffs))) == coeffs
    assert ratios_of_text(" 1, 1,1.03 ") == ratios_of_text("[1, 1, 1.03]") == DCRatios((1.0, 1.0, 1.03))


SIGMAS = [9.0, 5.0, 2.0, 0.7, 0.2]
ONES = DCRatios((1.0,) * 4)


def rows(pairs):
    return [(cfg, steps, cpr_ratios(cfg, steps).values) for cfg, steps in pairs]


def searched(**options):
    targets = options.pop("targets", [UNIT_NOISE] * 4)
    return list(search_dc_ratios(denoise, UNIT_NOISE, SIGMAS, targets, **{"variable": "sigma", **options}))


@pytest.mark.parametrize(("call", "message"), [
    (lambda: ratios_of_text("1, 1, x"), "ratios must be numbers with commas between them, such as '1, 1, 1.03'; "
                                        "number 3 is 'x'"),
    (lambda: ratios_of_text("1, nan"), "number 2 is 'nan'"),
    (lambda: plan_dc_solver(SIGMAS, ratios=ONES), "'timestep' needs the model's clock"),
    (lambda: plan_dc_solver(SIGMAS, ratios=ONES, dc_order=4), "dc_order must be 1, 2 or 3, got 4"),
    (lambda: plan_dc_solver(SIGMAS, ratios=ONES, variable="t"), "variable must be one of timestep, lambda, sigma, got"),
    (lambda: searched(method="newton"), "method must be one of brent, adamw, got 'newton'"),
    (lambda: searched(iters=0), "iters must be at least 1, got 0"),
    (lambda: searched(low=1.1), "need low < 1 < high, got 1.1 and 1.6"),
    (lambda: searched(targets=[UNIT_NOISE]), "the end of each of the 4 steps above sigma 0, got 1"),
    (lambda: searched(targets=[math.nan * UNIT_NOISE] * 4), "the error of step 3 at ratio .* is nan"),
    (lambda: list(teacher_states(denoise, UNIT_NOISE, SIGMAS, solver="heun")), "solver must be one of exponential"),
    (lambda: list(teacher_states(denoise, UNIT_NOISE, SIGMAS, steps=3)), "a teacher of 3 steps is no finer than"),
    (lambda: list(teacher_states(denoise, UNIT_NOISE, SIGMAS, steps=8, lag=2)), "below the 2 fine steps of an"),
    (lambda: cpr_ratios(13.0, 8), r"cfg must lie in \[1, 12\], got 13"),
    (lambda: cpr_ratios(7.5, 4), r"steps must lie in \[5, 20\], got 4"),
    (lambda: cpr_ratios(7.5, 8, (1.0, 2.0)), "has 36 coefficients, got 2"),
    (lambda: fit_cpr([]), "0 searches with 0 guidance scales and 0 numbers of steps leave 36 of the 36"),
    (lambda: fit_cpr(rows([(7.5, 8), (7.5, 10), (7.5, 12), (5.0, 8), (5.0, 9)])), "5 searches with 2 guidance scales"),
    (lambda: fit_cpr(rows([(cfg, steps) for cfg in (1.0, 2.0, 4.0, 8.0) for steps in (8, 12)])), "2 numbers of steps"),
    (lambda: fit_cpr([(7.5, 8, [1.0] * 7)]), "a search of 8 steps has 8 ratios, got 7 at cfg 7.5"),
    (lambda: rows_of_text("7.5: 1, 1"), "line 1 must be cfg, steps: ratios"),
    (lambda: rows_of_text("\n7.5 5: 1, 1"), "line 2 must begin with cfg, steps"),
    (lambda: coeffs_of_text("1, 2"), "must be 36 numbers with commas between them, got 2"),
])
def test_what_can_t_work_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()
