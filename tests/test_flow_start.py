"""Flow models start at sigma = 1, where log-SNR is infinite: how methods get over it, and the other way to count."""
import pytest
import torch
from gmm import denoise_flow

from odeon.samplers.corrector import add_corrector
from odeon.samplers.ddim import plan_ddim
from odeon.samplers.dpm_solver import plan_dpm_solver
from odeon.samplers.dpm_solver_pp import plan_dpm_solver_pp
from odeon.samplers.exponential_adams import plan_exponential_adams
from odeon.samplers.linear import run
from odeon.samplers.process import CLIPPED, FLOW, VE
from odeon.samplers.unipc import plan_unipc

STARTS = torch.randn(64, 16, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
PLANS = (plan_dpm_solver_pp, plan_dpm_solver, plan_unipc, plan_exponential_adams)


def levels(count):
    return [1.0 - 0.98 * i / count for i in range(count + 1)]


@pytest.fixture(scope="module")
def exact():
    return run(denoise_flow, STARTS, plan_exponential_adams(levels(2000), order=4, process=FLOW))


def error(steps, exact, starts=STARTS):
    return (run(denoise_flow, starts, steps) - exact).square().mean(1).sqrt().median().item()


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.__name__)
def test_log_sigma_is_the_ve_form_and_changes_nothing_on_ve(plan):
    assert plan(levels(6), lambda_mode="log_sigma", process=FLOW) == plan(levels(6), process=VE)
    assert plan(levels(6), lambda_mode="log_sigma", process=FLOW) != plan(levels(6), process=FLOW)
    assert plan(levels(6), lambda_mode="log_sigma", process=VE) == plan(levels(6), process=VE)
    with pytest.raises(ValueError, match=r"flow sigmas must lie in \[0, 1\]"):
        plan([1.5, 0.5], lambda_mode="log_sigma", process=FLOW)
    with pytest.raises(ValueError, match="lambda_mode must be one of log_snr, log_sigma, log_snr_clipped, got"):
        plan(levels(6), lambda_mode="snr", process=FLOW)


def test_first_step_is_corrected_with_bh2_s_limit():
    """From ever nearer to sigma = 1 bh2's step tends to the one taken from there."""
    first = add_corrector(plan_ddim([1.0, 0.8, 0.5, 0.2], process=FLOW), order=1, process=FLOW)[0].correct
    assert (first.x_coef, *first.d_coefs) == pytest.approx((0.8, 0.1, 0.1))
    near = add_corrector(plan_ddim([1.0 - 1e-9, 0.8, 0.5, 0.2], process=FLOW), order=1, process=FLOW)[0].correct
    assert near.d_coefs == pytest.approx(first.d_coefs, abs=1e-6) and near.x_coef == pytest.approx(first.x_coef)


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.__name__)
def test_log_snr_clipped_is_log_snr_from_0_9999_and_changes_nothing_below(plan):
    """As near as 0.9999 is to 1: the first step itself stays DDIM's."""
    multistep = {"method": "multistep"} if plan is plan_dpm_solver else {}
    options = {"lambda_mode": "log_snr_clipped", "order": 2, **multistep}
    clipped = plan(levels(12), process=FLOW, **options)
    near = plan([0.9999, *levels(12)[1:]], order=2, process=FLOW, **multistep)
    for a, b in zip(clipped[1:], near[1:]):
        assert a.predict.d_coefs == pytest.approx(b.predict.d_coefs, abs=1e-12)
    x = STARTS[:4]
    assert torch.allclose(run(denoise_flow, x, clipped[:1]), run(denoise_flow, x, plan_ddim(levels(12)[:2],
                                                                                           process=FLOW)), atol=1e-12)
    assert CLIPPED.lams([1.0, 0.99995, 0.9]) == sorted({*CLIPPED.lams([1.0, 0.99995, 0.9])})  # so fine it may be
    assert torch.isfinite(run(denoise_flow, x, plan([1.0, 0.99995, 0.9999, 0.9, 0.0], process=FLOW, **options))).all()
    below = [0.9, 0.6, 0.3, 0.1, 0.0]
    assert plan(below, process=FLOW, **options) == plan(below, order=2, process=FLOW, **multistep)
    assert plan([2.0, 1.0, 0.5], process=VE, **options) == plan([2.0, 1.0, 0.5], order=2, **multistep)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("plan", [plan_dpm_solver_pp, plan_exponential_adams], ids=lambda plan: plan.__name__)
def test_second_step_uses_the_first_prediction(plan, order):
    steps, finite = (plan(sigmas, order=order, process=FLOW) for sigmas in (levels(12), [0.95, *levels(12)[1:]]))
    assert len(steps[1].predict.d_coefs) == 2 and steps[1].predict.d_coefs[1] < 0.0
    assert steps[order:] == finite[order:]  # from there on as without sigma = 1
    assert steps[1].predict.d_coefs == pytest.approx(plan(levels(12), order=2, process=VE)[1].predict.d_coefs)
    assert [len(plan(levels(count), order=3, process=FLOW)[1].predict.d_coefs) for count in (7, 8)] == [1, 2]


@pytest.mark.parametrize("count", [6, 8, 10, 15])
def test_it_gains(count, exact):
    """Against the step of order 1 that ignores the first prediction, and against no correction of the first step."""
    plan = plan_dpm_solver_pp(levels(count), lower_order_below=0, process=FLOW)
    ignoring = [*plan[:1], plan_ddim(levels(count), process=FLOW)[1], *plan[2:]]
    assert error(plan, exact) < error(ignoring, exact)
    unipc = plan_unipc(levels(count), process=FLOW)
    assert error(unipc, exact) < error([unipc[0]._replace(correct=None), *unipc[1:]], exact)


@pytest.mark.parametrize("count", [8, 10])
def test_it_gains_at_order_3(count):
    """By a few hundredths, that 64 starts don't tell from chance."""
    starts = torch.randn(256, 16, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    exact = run(denoise_flow, starts, plan_exponential_adams(levels(1000), order=4, process=FLOW))
    for plan in (plan_dpm_solver_pp(levels(count), order=3, process=FLOW),
                 plan_exponential_adams(levels(count), process=FLOW)):
        ignoring = [*plan[:1], plan_ddim(levels(count), process=FLOW)[1], *plan[2:]]
        assert error(plan, exact, starts) < error(ignoring, exact, starts)


def test_the_step_to_zero_is_the_last_of_low_order():
    """UniPC ends on orders 2 and 1 of which the step to 0 is the last: D there is of order 1 already."""
    ended = plan_unipc([14.6, 5.0, 2.0, 0.7, 0.2, 0.0], order=2)
    assert len(ended[3].predict.d_coefs) == 2 and len(plan_unipc([14.6, 5.0, 2.0, 0.7, 0.2])[3].predict.d_coefs) == 1
    multistep = plan_dpm_solver_pp([14.6, 5.0, 2.0, 0.7, 0.2, 0.0])
    assert len(multistep[3].predict.d_coefs) == 2 and multistep[4].predict.d_coefs[0] == 1.0
