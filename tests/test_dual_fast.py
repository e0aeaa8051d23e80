"""DualFast: its limits, what it gains over DDIM, how it joins other wrappers, what it refuses."""
import pytest
import torch
from gmm import UNIT_NOISE, denoise, denoise_flow, log_spaced

from odeon.samplers.bdia import plan_bdia
from odeon.samplers.corrector import add_corrector
from odeon.samplers.ddim import plan_ddim
from odeon.samplers.deis import plan_deis
from odeon.samplers.dpm_solver import plan_dpm_solver
from odeon.samplers.dpm_solver_pp import plan_dpm_solver_pp
from odeon.samplers.dual_fast import dual_fast
from odeon.samplers.edm_heun import plan_edm_heun
from odeon.samplers.exponential_adams import plan_exponential_adams
from odeon.samplers.linear import run
from odeon.samplers.pndm import plan_pndm
from odeon.samplers.process import FLOW, VE
from odeon.samplers.unipc import plan_unipc

BASES = (plan_ddim, plan_exponential_adams, plan_dpm_solver_pp, plan_unipc, plan_deis,
         lambda s, **more: plan_dpm_solver(s, method="multistep", **more),
         lambda s, **more: plan_unipc(s, prediction="noise", **more))


def grid(count):
    return log_spaced(count, top=14.6, bottom=0.05)


@pytest.fixture(scope="module")
def exact():
    return run(denoise, 14.6 * UNIT_NOISE, plan_exponential_adams(grid(2000), order=4))


@pytest.mark.parametrize("process", [VE, FLOW], ids=lambda process: process.name)
@pytest.mark.parametrize("anchor", ["previous", "first"])
def test_c_zero_changes_nothing(process, anchor):
    sigmas, model = (grid(8), denoise) if process is VE else ([1.0, 0.9, 0.7, 0.5, 0.3, 0.1, 0.0], denoise_flow)
    for base in BASES:
        plain = base(sigmas, process=process)
        wrapped = dual_fast(plain, c_start=0.0, c_end=0.0, anchor=anchor, process=process)
        assert (run(model, UNIT_NOISE, wrapped) - run(model, UNIT_NOISE, plain)).abs().max() < 1e-13


@pytest.mark.parametrize("process", [VE, FLOW], ids=lambda process: process.name)
def test_half_of_the_last_change_over_ddim_is_adams_bashforth(process):
    sigmas, model = (grid(8), denoise) if process is VE else ([1.0, 0.9, 0.7, 0.5, 0.3, 0.1], denoise_flow)
    ours = dual_fast(plan_ddim(sigmas, process=process), c_start=0.5, c_end=0.5, keep_last=False, process=process)
    wanted = plan_pndm(sigmas, variant="iPNDM", max_order=2, process=process)
    assert (run(model, UNIT_NOISE, ours) - run(model, UNIT_NOISE, wanted)).abs().max() < 1e-13


@pytest.mark.parametrize("anchor", ["previous", "first"])
def test_every_anchor_is_the_prediction_it_names(anchor):
    """Step by step against the formula, with its own history of noise predictions."""
    sigmas, x, seen = grid(6), 14.6 * UNIT_NOISE, []
    for i, (sigma, sigma_next) in enumerate(zip(sigmas, sigmas[1:])):
        e = (x - denoise(x, sigma)) / sigma
        seen.append(e)
        c = 0.3 * i / 5 if i >= (2 if anchor == "previous" else 1) else 0.0
        pushed = (1.0 + c) * e - c * (seen[max(i - 2, 0)] if anchor == "previous" else seen[0])
        x = x + (sigma_next - sigma) * pushed
    ours = dual_fast(plan_ddim(sigmas), c_end=0.3, anchor=anchor, lag=2, keep_last=False)
    assert (run(denoise, 14.6 * UNIT_NOISE, ours) - x).abs().max() < 1e-12


@pytest.mark.parametrize(("count", "wanted"), [(5, (0.087, 0.059, 0.047)), (8, (0.051, 0.027, 0.027)),
                                               (10, (0.041, 0.019, 0.021))])
def test_ddim_gains(count, wanted, exact):
    """The help page's figures: alone, anchor first with c 0.1 throughout, anchor previous with c_end 0.5."""
    plain = plan_ddim(grid(count))
    found = [(run(denoise, 14.6 * UNIT_NOISE, steps) - exact).square().mean().sqrt().item() for steps in (
        plain, dual_fast(plain, anchor="first", c_start=0.1, c_end=0.1, keep_last=False), dual_fast(plain, c_end=0.5))]
    assert found == pytest.approx(wanted, abs=6e-4)
    assert max(found[1:]) < 0.75 * found[0]


def test_higher_orders_lose_on_an_exact_model(exact):
    plain = plan_dpm_solver_pp(grid(10), lower_order_below=0)
    errors = [(run(denoise, 14.6 * UNIT_NOISE, steps) - exact).norm() for steps in (plain, dual_fast(plain))]
    assert errors[1] > 1.5 * errors[0]


def test_unic_below_it_stays_and_above_it_is_refused():
    corrected = add_corrector(plan_ddim(grid(8)), order=1)
    plain, joined = (run(denoise, 14.6 * UNIT_NOISE, steps) for steps in (corrected, dual_fast(corrected)))
    assert torch.isfinite(joined).all() and (joined - plain).abs().max() > 1e-4
    assert dual_fast(corrected)[3].correct.x_coef == corrected[3].correct.x_coef
    with pytest.raises(ValueError, match="keeps something else"):
        add_corrector(dual_fast(plan_ddim(grid(8))), order=1)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: dual_fast(plan_edm_heun(grid(4))), "one model call a step; choose a multistep method"),
    (lambda: dual_fast(plan_ddim(grid(4)), anchor="last"), "anchor must be one of previous, first, got 'last'"),
    (lambda: dual_fast(plan_ddim(grid(4)), c_end=1.5), "c_end in \\[0, 1\\]"),
    (lambda: dual_fast(plan_ddim(grid(4)), lag=0), "need lag >= 1"),
    (lambda: dual_fast(plan_bdia(grid(4))), "keeps something else, connect another"),
])
def test_what_can_t_work_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()
