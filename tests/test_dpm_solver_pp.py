import math

import pytest
import torch
from gmm import UNIT_NOISE, denoise, log_spaced

from odeon.samplers.dpm_solver import plan_dpm_solver
from odeon.samplers.dpm_solver_pp import plan_dpm_solver_pp
from odeon.samplers.exponential_adams import plan_exponential_adams
from odeon.samplers.linear import run
from odeon.samplers.process import FLOW


@pytest.fixture(scope="module")
def exact():
    return run(denoise, 1000.0 * UNIT_NOISE, plan_exponential_adams(log_spaced(8192), order=4))


@pytest.mark.parametrize(("options", "slope"), [
    ({"order": 1}, 1), ({"order": 2, "solver_type": "midpoint"}, 2), ({"order": 2, "solver_type": "taylor"}, 2),
    ({"order": 3}, 3), ({"order": 3, "third_order_term": "reference"}, 2),
])
def test_order_of_convergence(exact, options, slope):
    coarse, fine = ((run(denoise, 1000.0 * UNIT_NOISE, plan_dpm_solver_pp(log_spaced(n), **options)) - exact).norm()
                    for n in (320, 640))
    assert math.log2(coarse / fine) == pytest.approx(slope, abs=0.2)


def test_the_published_third_order_term_costs_accuracy(exact):
    right, published = ((run(denoise, 1000.0 * UNIT_NOISE, plan_dpm_solver_pp(
        log_spaced(640), order=3, third_order_term=term)) - exact).norm() for term in ("exact", "reference"))
    assert published > 8.0 * right


@pytest.mark.parametrize("order", [1, 2, 3])
def test_taylor_form_is_exponential_adams(order):
    sigmas = [14.6, 9.0, 5.0, 2.0, 1.1, 0.4, 0.1, 0.0]
    ours = plan_dpm_solver_pp(sigmas, order=order, solver_type="taylor", lower_order_below=0)
    for a, b in zip(ours, plan_exponential_adams(sigmas, order=order)):
        assert a.predict.d_coefs == pytest.approx(b.predict.d_coefs, rel=1e-12)


def test_few_steps_end_on_lower_orders():
    orders = [len(step.predict.d_coefs) for step in plan_dpm_solver_pp(log_spaced(6), order=3)]
    assert orders == [1, 2, 3, 3, 2, 1]
    assert [len(s.predict.d_coefs) for s in plan_dpm_solver_pp(log_spaced(12), order=3)][-1] == 3


def test_flow_from_pure_noise():
    steps = plan_dpm_solver_pp([1.0, 0.7, 0.4, 0.1, 0.0], order=3, lower_order_below=0, process=FLOW)
    assert [len(step.predict.d_coefs) for step in steps] == [1, 1, 2, 1]
    target = torch.full((1, 4), 0.3, dtype=torch.float64)
    assert torch.allclose(run(lambda x, sigma: target, torch.randn(1, 4, dtype=torch.float64), steps), target)


@pytest.mark.parametrize(("options", "message"), [
    ({"order": 4}, "order must be 1, 2 or 3, got 4"), ({"solver_type": "heun"}, "solver_type must be"),
    ({"third_order_term": "x"}, "third_order_term must be"),
])
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        plan_dpm_solver_pp([2.0, 1.0, 0.0], **options)


def orders(plan, count, bottom=0.0, **options):
    """Model calls of each step, the step to 0 as 0."""
    levels = [*log_spaced(count - (bottom == 0.0), top=14.6, bottom=0.03), *([bottom] if bottom == 0.0 else [])]
    return [0 if step.sigma_next == 0.0 else 1 + len(step.stages) for step in plan(levels, **options)]


def test_grouped_counts_the_step_to_zero_as_the_last_of_its_orders():
    for plan in (plan_dpm_solver, plan_dpm_solver_pp):
        for count, wanted in ((9, [3, 3, 2, 0]), (10, [3, 3, 3, 0]), (11, [3, 3, 3, 1, 0])):
            assert orders(plan, count, order=3, method="grouped") == wanted
        assert orders(plan, 9, bottom=0.03, order=3, method="grouped") == [3, 3, 2, 1]  # the paper's, where it ends
        assert orders(plan, 9, order=2, method="grouped") == [2, 2, 2, 2, 0]


def test_low_orders_before_zero():
    options = {"lower_order_end": "before_zero"}
    assert orders(plan_dpm_solver, 9, order=2, method="grouped", **options) == [2, 2, 2, 1, 1, 0]
    assert orders(plan_dpm_solver, 10, order=3, method="grouped", **options) == [3, 3, 2, 1, 0]
    assert orders(plan_dpm_solver, 15, order=3, method="fast", **options) == [3, 3, 3, 3, 2, 0]
    assert orders(plan_dpm_solver, 15, order=3, method="fast") == [3, 3, 3, 2, 2, 1, 0]
    levels = log_spaced(8, top=14.6, bottom=0.03)
    used = {"order": 3, "method": "multistep", "lower_order_below": 15}
    assert plan_dpm_solver([*levels, 0.0], **used, **options)[:-1] == plan_dpm_solver(levels, **used)
    with pytest.raises(ValueError, match="lower_order_end must be one of at_zero, before_zero, got 'x'"):
        plan_dpm_solver(levels, lower_order_end="x")


@pytest.mark.parametrize("plan", [plan_dpm_solver, plan_dpm_solver_pp], ids=lambda plan: plan.__name__)
def test_midpoint_stages_change_the_third_call_s_state_alone_and_keep_the_order(plan, exact):
    plain, staged = (plan(log_spaced(4), order=3, method="singlestep", **options)
                     for options in ({}, {"solver_type": "midpoint_stages"}))
    for a, b in zip(plain, staged):
        assert (a.predict, a.stages[0]) == (b.predict, b.stages[0]) and a.stages[1] != b.stages[1]
        assert sum(b.stages[1].update.d_coefs) == pytest.approx(sum(a.stages[1].update.d_coefs))
    coarse, fine = ((run(denoise, 1000.0 * UNIT_NOISE, plan(
        log_spaced(n), order=3, method="singlestep", solver_type="midpoint_stages")) - exact).norm() for n in (80, 160))
    assert math.log2(coarse / fine) == pytest.approx(3.0, abs=0.2)
