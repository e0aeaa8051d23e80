"""SDE-DPM-Solver++: its limits, the spread that it keeps, orders, and what noise inside a step is good for."""
import math

import pytest
import torch
from gmm import UNIT_NOISE, denoise, denoise_flow, log_spaced, logit_spaced

from odeon.samplers.ddim import plan_ddim
from odeon.samplers.dpm_solver_pp import plan_dpm_solver_pp
from odeon.samplers.dpm_solver_pp_sde import METHODS, plan_dpm_solver_pp_sde
from odeon.samplers.exponential_adams import plan_exponential_adams
from odeon.samplers.linear import run
from odeon.samplers.process import FLOW, VE

SIGMAS = {VE: [14.6, 7.0, 3.0, 1.2, 0.5, 0.1, 0.0], FLOW: [1.0, 0.9, 0.7, 0.5, 0.3, 0.1, 0.0]}
MODELS = {VE: denoise, FLOW: denoise_flow}
BOTH = pytest.mark.parametrize("process", [VE, FLOW], ids=lambda process: process.name)


@BOTH
def test_without_noise_it_is_dpm_solver_pp(process):
    sigmas = SIGMAS[process] if process is VE else [0.99, *SIGMAS[process][1:]]
    for order, method, plain in ((1, "multistep", "multistep"), (2, "multistep", "multistep"),
                                 (3, "multistep", "multistep"), (2, "singlestep", "singlestep"),
                                 (2, "ancestral", "singlestep")):
        ours = plan_dpm_solver_pp_sde(sigmas, order=order, method=method, eta=0.0, process=process)
        wanted = plan_dpm_solver_pp(sigmas, order=order, method=plain, lower_order_below=0,
                                    solver_type="taylor" if order == 3 else "midpoint", process=process)
        ends = [run(MODELS[process], UNIT_NOISE, steps) for steps in (ours, wanted)]
        assert (ends[0] - ends[1]).abs().max() < 1e-12, (order, method)


@BOTH
def test_taylor_weights_are_those_of_exponential_adams(process):
    for order in (1, 2):
        ours = plan_dpm_solver_pp_sde(SIGMAS[process], order=order, eta=0.7, solver_type="taylor", process=process)
        for a, b in zip(ours, plan_exponential_adams(SIGMAS[process], order=order, eta=0.7, process=process)):
            assert a.predict.d_coefs == pytest.approx(b.predict.d_coefs, rel=1e-12)
            assert (a.predict.x_coef, a.predict.noise_coef) == pytest.approx((b.predict.x_coef, b.predict.noise_coef))


@BOTH
@pytest.mark.parametrize("method", ["singlestep", "ancestral"])
def test_order_1_is_ddim_with_eta(process, method):
    for eta in (0.0, 0.6, 1.0):
        ours = plan_dpm_solver_pp_sde(SIGMAS[process], order=1, method=method, eta=eta, process=process)
        for a, b in zip(ours, plan_ddim(SIGMAS[process], eta=eta, process=process)):
            assert (a.predict.x_coef, a.predict.noise_coef) == pytest.approx((b.predict.x_coef, b.predict.noise_coef))


def spread_after(method, stage_noise="shared", count=100, eta=1.0, order=2):
    """Variance of samples of N(0, 0.25) as a share of the truth, exactly: the run is linear, so it is followed in the
    coordinates of start and draws."""
    sigmas, draws = [*log_spaced(count, top=20.0, bottom=0.01), 0.0], 0
    steps = plan_dpm_solver_pp_sde(sigmas, method=method, order=order, eta=eta, stage_noise=stage_noise)
    start = torch.zeros(1, 2 * count + 10, dtype=torch.float64)
    start[0, 0] = math.hypot(20.0, 0.5)

    def noise(sigma, sigma_next):
        nonlocal draws
        draws += 1
        return torch.zeros_like(start).index_fill_(1, torch.tensor([draws]), 1.0)

    end = run(lambda x, sigma: x * 0.25 / (0.25 + sigma * sigma), start, steps, noise_sampler=noise)
    return (end.square().sum() / 0.25).item()


@pytest.mark.parametrize("method", METHODS)
def test_gaussian_data_keep_their_spread(method):
    for eta in (0.5, 1.0):
        assert spread_after(method, eta=eta) == pytest.approx(1.0, abs=0.02)


def test_noise_inside_a_step_belongs_to_the_step():
    """Drawn twice it makes the spread wrong by a first-order term; shared, by a second-order one."""
    shared, fresh = ([abs(spread_after("singlestep", kind, count) - 1.0) for count in (50, 100)]
                     for kind in ("shared", "fresh"))
    assert fresh[1] > 3.0 * shared[1]
    assert math.log2(fresh[0] / fresh[1]) == pytest.approx(1.0, abs=0.2)
    assert math.log2(shared[0] / shared[1]) > 1.6
    assert spread_after("singlestep", "fresh", 20) == pytest.approx(0.75, abs=0.01)
    assert spread_after("singlestep", "shared", 20) == pytest.approx(0.94, abs=0.01)


@BOTH
def test_two_call_methods_are_second_order_without_noise(process):
    grid, top = (log_spaced, 1000.0) if process is VE else (logit_spaced, 0.999)
    exact = run(MODELS[process], top * UNIT_NOISE, plan_exponential_adams(grid(4096), order=4, process=process))
    for method in ("singlestep", "ancestral"):
        errors = [(run(MODELS[process], top * UNIT_NOISE, plan_dpm_solver_pp_sde(
            grid(count), method=method, eta=0.0, r=0.4, process=process)) - exact).norm() for count in (160, 320)]
        assert math.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.2), method


@pytest.mark.parametrize(("options", "message"), [
    ({"method": "fast"}, "method must be one of multistep, singlestep, ancestral, got 'fast'"),
    ({"order": 4}, "order must be 1, 2 or 3"),
    ({"order": 3, "method": "ancestral"}, "got 3 with ancestral"),
    ({"solver_type": "heun"}, "solver_type must be 'midpoint' or 'taylor'"),
    ({"stage_noise": "none"}, "stage_noise must be"),
    ({"eta": -1.0}, "need eta >= 0"),
    ({"r": 1.0}, "0 < r < 1"),
])
def test_what_can_t_work_is_said(options, message):
    with pytest.raises(ValueError, match=message):
        plan_dpm_solver_pp_sde(SIGMAS[VE], **options)
