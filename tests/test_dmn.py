"""DM-NonUniform: its bound is the authors' to rounding, and its levels lower it at least as far as theirs."""
import math

import gmm
import pytest
import torch
from golden_runs import load

from odeon import NODE_CLASS_MAPPINGS
from odeon.models.levels import DiscreteLevels
from odeon.samplers.clock import clock_of_table
from odeon.samplers.dpm_solver_pp import plan_dpm_solver_pp
from odeon.samplers.exponential import lagrange_weights
from odeon.samplers.exponential_adams import plan_exponential_adams
from odeon.samplers.linear import run
from odeon.samplers.process import FLOW, VE
from odeon.samplers.table import table_of
from odeon.schedules import dmn
from odeon.schedules.dmn import INITS, WEIGHTS, dmn_sigmas, initial_lams, objective
from odeon.schedules.family import family_sigmas

RUNS = load("schedules/dmn")["runs"]
SD = {"sigma_max": 14.614641, "sigma_min": 0.029167}
CLOCK = clock_of_table(DiscreteLevels().sigmas.tolist())


@pytest.mark.parametrize("run_", RUNS, ids=lambda run_: "-".join(map(str, run_["settings"].values())))
def test_golden_objective_and_how_low_it_gets(run_):
    assert objective(run_["lambda"]) == pytest.approx(run_["objective_final"], rel=1e-9)
    assert objective(run_["lambda_init"]) == pytest.approx(run_["objective_init"], rel=1e-9)
    settings = run_["settings"]
    top, low = (math.exp(-run_["lambda"][place]) for place in (0, -1))
    init = {"unif_t": "time_uniform", "unif": "logsnr"}[settings["init"]]
    # theirs reads log alpha between a table's places, ours log sigma
    assert initial_lams(settings["N"], init, top, low, process=VE, clock=CLOCK) == pytest.approx(
        run_["lambda_init"], abs=2e-5)
    found = dmn_sigmas(settings["N"], init=init, end="sigma_min", sigma_max=top, sigma_min=low, clock=CLOCK)
    assert found.before == pytest.approx(run_["objective_init"], rel=1e-5)
    assert found.after < (0.9 if settings["N"] >= 10 else 1.01) * run_["objective_final"]
    assert len(found.sigmas) == settings["N"] + 1


def test_five_steps_have_one_answer():
    """Where the search has few kinks the levels agree, not only their bound."""
    theirs = [math.exp(-lam) for lam in RUNS[0]["lambda"]]
    for init in INITS:
        ours = dmn_sigmas(5, init=init, end="sigma_min", sigma_max=theirs[0], sigma_min=theirs[-1]).sigmas
        assert ours.tolist() == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize("process", [VE, FLOW], ids=lambda process: process.name)
def test_the_bound_sums_what_a_solver_makes_of_each_prediction(process):
    """At three steps, orders 1, 2, 1: read off the coefficients of plans, DDIM and exponential Adams."""
    sigmas = [0.9, 0.7, 0.4, 0.1]
    lams = process.lams(sigmas)
    one = table_of(plan_exponential_adams(sigmas, order=1, process=process))
    two = table_of(plan_exponential_adams(sigmas, order=2, process=process))
    # in u = x / sigma a step adds its coefficients / sigma_next
    states = torch.tensor([*sigmas[1:]], dtype=torch.float64)[:, None]
    parts = [one.d[1:] / states, two.d[1:] / states]
    terms = [parts[0][0], parts[1][1] - parts[1][0], parts[0][2] - parts[0][1]]
    for weight, power in (("latent", 2), ("pixel", 1)):
        if process is VE:  # the form of unit variance
            errors = [(s / math.hypot(1.0, s)) ** power * math.hypot(1.0, s) for s in sigmas[:-1]]
        else:
            errors = [s ** power / (1.0 - s) for s in sigmas[:-1]]
        scale = torch.tensor(errors, dtype=torch.float64)
        expected = sum(torch.hypot(*[(term * scale)[i] for i in (0, 1)]) if i_term == 1 else (term * scale).abs().sum()
                       for i_term, term in enumerate(terms))
        assert objective(lams, weight=weight, process=process) == pytest.approx(expected.item(), rel=1e-9)


def test_the_weights_are_the_integrals_of_exponential_adams():
    for h in ([0.4], [0.3, 0.4], [0.5, 0.3, 0.4], [2.0, 0.1, 1.5]):
        nodes = [-sum(h[len(h) - 1 - k:-1]) for k in range(len(h))]
        ours = [weight * math.exp(-h[-1]) for weight in dmn._weights(h)][::-1]
        assert ours == pytest.approx(lagrange_weights(h[-1], nodes), rel=1e-9)


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("process", [VE, FLOW], ids=lambda process: process.name)
def test_levels_fall_between_the_ends_and_lower_the_bound(process, weight):
    ends = SD if process is VE else {"sigma_max": 1.0, "sigma_min": 0.003}
    for steps in (1, 2, 3, 4, 6, 12):
        found = dmn_sigmas(steps, weight, process=process, **ends)
        assert len(found.sigmas) == steps + 1 and (found.sigmas.float().diff() < 0).all()
        assert found.sigmas[0] == ends["sigma_max"] and found.sigmas[-1] == 0.0
        if steps > 1:
            assert found.sigmas[-2] == ends["sigma_min"]
        assert found.after <= found.before * (1.0 + 1e-9)
    found = dmn_sigmas(6, weight, end="sigma_min", process=process, **ends)
    assert len(found.sigmas) == 7 and found.sigmas[-1] == ends["sigma_min"]


def test_every_start_leads_to_nearly_the_same_bound():
    for process, ends in ((VE, SD), (FLOW, {"sigma_max": 1.0, "sigma_min": 0.003})):
        after = [dmn_sigmas(9, init=init, process=process, **ends).after for init in INITS]
        assert max(after) < 1.05 * min(after)


STARTS = torch.randn(256, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def error(sigmas, process, exact):
    """Median rms error of DPM-Solver++(2M) on the exact mixture, from 256 starts."""
    denoise = gmm.denoise if process is VE else gmm.denoise_flow
    steps = plan_dpm_solver_pp(sigmas.tolist(), order=2, lower_order_below=0, process=process)
    return (run(denoise, STARTS * sigmas[0], steps) - exact).square().mean(1).sqrt().median().item()


def test_where_it_helps_and_where_not_is_as_the_help_page_says():
    """At 7 steps: a third of Karras' error, under half of even timesteps'; on a flow five times that of even steps."""
    fine = [*gmm.log_spaced(300, SD["sigma_max"], SD["sigma_min"]), 0.0]
    exact = run(gmm.denoise, STARTS * fine[0], plan_exponential_adams(fine, order=3))
    found, karras, normal = (error(sigmas, VE, exact) for sigmas in (
        dmn_sigmas(7, clock=CLOCK, **SD).sigmas, family_sigmas(7, "karras", **SD),
        family_sigmas(7, "normal", levels=DiscreteLevels())))
    assert found < 0.4 * karras and found < 0.5 * normal
    fine = [1.0, *gmm.logit_spaced(300, top=0.9995, bottom=1e-4), 0.0]
    exact = run(gmm.denoise_flow, STARTS, plan_exponential_adams(fine, order=3, process=FLOW))
    found = error(dmn_sigmas(7, sigma_max=1.0, sigma_min=0.001, process=FLOW).sigmas, FLOW, exact)
    assert found > 4.0 * error(family_sigmas(7, "flow_shift", shift=1.0), FLOW, exact)


@pytest.mark.parametrize(("options", "message"), [
    ({"steps": 0}, "steps must be at least 1"), ({"weight": "x"}, "weight must be one of latent"),
    ({"init": "x"}, "init must be one of"), ({"end": "x"}, "end must be one of"),
    ({"sigma_min": 20.0}, "need 0 < sigma_min < sigma_max"), ({"process": FLOW}, "at or below 1"),
])
def test_bad_input_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        dmn_sigmas(**{**SD, **options})


def test_the_node_reports_what_was_gained():
    node = NODE_CLASS_MAPPINGS["OdeonSigmasDMN"]()
    sigmas, report = node.build(steps=8, weight="latent", init="logsnr", end="append_zero", **SD)
    assert sigmas.dtype == torch.float32 and len(sigmas) == 9
    before, after = objective([-math.log(v) for v in family_sigmas(8, "exponential", **SD)[:-1].tolist()]), dmn_sigmas(
        8, init="logsnr", **SD).after
    assert f"{before:.4g}" in report and f"{after:.4g}" in report
    model = NODE_CLASS_MAPPINGS["OdeonShapesCheckpoint"]().load("shapes-unet")[0]
    sigmas, _ = node.build(model=model, steps=8, weight="latent", init="time_uniform", end="append_zero")
    assert sigmas[[0, -2]].tolist() == pytest.approx([14.6146, 0.029167], rel=1e-4)
