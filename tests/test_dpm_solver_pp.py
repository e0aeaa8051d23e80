import math

import pytest
import torch
from gmm import UNIT_NOISE, denoise, log_spaced

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
