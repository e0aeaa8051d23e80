"""Orders, limits and refusals of the deterministic samplers."""
import math

import pytest
import torch
from gmm import UNIT_NOISE, denoise, denoise_flow, log_spaced, logit_spaced

from odeon.samplers.accelerated_ddim import plan_accelerated_ddim
from odeon.samplers.adams import interval_weights
from odeon.samplers.bdia import plan_bdia
from odeon.samplers.clock import FLOW_CLOCK, clock_of_table, linear_vp_clock
from odeon.samplers.corrector import add_corrector
from odeon.samplers.dc_solver import DCRatios, plan_dc_solver
from odeon.samplers.ddim import plan_ddim
from odeon.samplers.deis import TABLEAUS, plan_deis
from odeon.samplers.dpm_solver import orders_of, plan_dpm_solver
from odeon.samplers.dpm_solver_pp import plan_dpm_solver_pp
from odeon.samplers.edm_heun import plan_edm_heun
from odeon.samplers.exponential_adams import plan_exponential_adams
from odeon.samplers.gradient_estimation import plan_gradient_estimation
from odeon.samplers.jump import jump
from odeon.samplers.lambda_ddim import plan_lambda_ddim
from odeon.samplers.linear import run
from odeon.samplers.momentum import plan_momentum
from odeon.samplers.pndm import plan_pndm
from odeon.samplers.process import FLOW, VE
from odeon.samplers.unipc import plan_unipc

VP_CLOCK = linear_vp_clock()


@pytest.fixture(scope="module")
def exact():
    return {VE: run(denoise, 1000.0 * UNIT_NOISE, plan_exponential_adams(log_spaced(8192), order=4)),
            FLOW: run(denoise_flow, 0.999 * UNIT_NOISE,
                      plan_exponential_adams(logit_spaced(8192), order=4, process=FLOW))}


def slope(plan, exact, process, counts=(320, 640)):
    grid, model, start = ((log_spaced, denoise, 1000.0) if process is VE else (logit_spaced, denoise_flow, 0.999))
    coarse, fine = ((run(model, start * UNIT_NOISE, plan(grid(n))) - exact[process]).norm() for n in counts)
    return math.log2(coarse / fine)


BOTH = {
    "ddim": (1, lambda s, p: plan_ddim(s, process=p)),
    "heun": (2, lambda s, p: plan_edm_heun(s, process=p)),
    "ralston": (2, lambda s, p: plan_edm_heun(s, alpha=2 / 3, process=p)),
    "rhoAB0": (1, lambda s, p: plan_deis(s, variant="rhoAB", ab_order=0, process=p)),
    "rhoAB1": (2, lambda s, p: plan_deis(s, variant="rhoAB", ab_order=1, process=p)),
    "rhoAB2": (3, lambda s, p: plan_deis(s, variant="rhoAB", ab_order=2, process=p)),
    "tAB1": (2, lambda s, p: plan_deis(s, ab_order=1, time_map="linear_vp", process=p)),
    "tAB2": (3, lambda s, p: plan_deis(s, ab_order=2, time_map="linear_vp", process=p)),
    "iPNDM-V 2": (2, lambda s, p: plan_pndm(s, variant="iPNDM-V", max_order=2, process=p)),
    "iPNDM-V 3": (3, lambda s, p: plan_pndm(s, variant="iPNDM-V", max_order=3, process=p)),
    "iPNDM": (2, lambda s, p: plan_pndm(s, process=p)),
    "S-PNDM": (2, lambda s, p: plan_pndm(s, variant="S-PNDM", process=p)),
    "F-PNDM": (2, lambda s, p: plan_pndm(s, variant="F-PNDM", process=p, clock=VP_CLOCK if p is VE else FLOW_CLOCK)),
    "BDIA, Heun": (2, lambda s, p: plan_bdia(s, gamma=0.5, base="edm_heun", process=p)),
    "BDIA, DPM-Solver++": (2, lambda s, p: plan_bdia(s, gamma=0.5, base="dpmpp", process=p)),
    "GHVB 1.8": (2, lambda s, p: plan_momentum(s, order=1.8, process=p)),
    "hb 1.8": (1, lambda s, p: plan_momentum(s, method="hb", order=1.8, process=p)),
    "dpm 1": (1, lambda s, p: plan_dpm_solver(s, order=1, process=p)),
    "dpm 2": (2, lambda s, p: plan_dpm_solver(s, order=2, process=p)),
    "dpm 2 taylor": (2, lambda s, p: plan_dpm_solver(s, order=2, solver_type="taylor", process=p)),
    "dpm 2, r1 = 0.7": (2, lambda s, p: plan_dpm_solver(s, order=2, r1=0.7, process=p)),
    "dpm 3 taylor": (3, lambda s, p: plan_dpm_solver(s, order=3, solver_type="taylor", process=p)),
    "dpm 2 multistep": (2, lambda s, p: plan_dpm_solver(s, order=2, method="multistep", process=p)),
    "dpm 3 multistep": (3, lambda s, p: plan_dpm_solver(s, order=3, method="multistep", process=p)),
    "dpm++ 2S": (2, lambda s, p: plan_dpm_solver_pp(s, order=2, method="singlestep", process=p)),
    "dpm++ 3S": (3, lambda s, p: plan_dpm_solver_pp(s, order=3, method="singlestep", solver_type="taylor", process=p)),
    "unip 2": (2, lambda s, p: plan_unipc(s, order=2, use_corrector=False, lower_order_final=False, process=p)),
    "unipc 1": (2, lambda s, p: plan_unipc(s, order=1, lower_order_final=False, process=p)),
    "unipc 2": (3, lambda s, p: plan_unipc(s, order=2, lower_order_final=False, process=p)),
    "unipc 2 noise": (3, lambda s, p: plan_unipc(s, order=2, prediction="noise", lower_order_final=False, process=p)),
    "unipc 2 vary": (3, lambda s, p: plan_unipc(s, order=2, variant="vary_coeff", lower_order_final=False, process=p)),
    "unic over ddim": (2, lambda s, p: add_corrector(plan_ddim(s, process=p), order=1, process=p)),
    "unic over 2M": (3, lambda s, p: add_corrector(plan_dpm_solver_pp(s, order=2, process=p), order=2, process=p)),
    "unic over deis": (3, lambda s, p: add_corrector(plan_deis(s, variant="rhoAB", ab_order=1, process=p), order=2,
                                                     process=p)),
}


@pytest.mark.parametrize("process", [VE, FLOW], ids=lambda process: process.name)
@pytest.mark.parametrize("name", BOTH)
def test_order_of_convergence(name, process, exact):
    order, plan = BOTH[name]
    found = slope(lambda sigmas: plan(sigmas, process), exact, process)
    assert found == pytest.approx(order, abs=0.2), found


# gradient estimation with gamma = 1.5 is Adams-Bashforth on equal steps
@pytest.mark.parametrize(("plan", "order"), [
    (plan_accelerated_ddim, 2), (lambda s: plan_bdia(s, gamma=1.0), 2), (lambda s: plan_bdia(s, gamma=0.5), 1),
    (lambda s: plan_gradient_estimation(s, gamma=1.5), 2), (lambda s: plan_gradient_estimation(s, gamma=2.0), 1),
    (plan_lambda_ddim, 1),
])
def test_order_of_methods_for_noise_prediction(plan, order, exact):
    assert slope(plan, exact, VE) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_mixed_orders_cost_what_was_asked(order):
    for calls in range(1, 41):
        assert sum(orders_of(calls, order)) == calls and max(orders_of(calls, order)) <= order
        levels = log_spaced(calls, top=14.6, bottom=0.03)
        for plan in (plan_dpm_solver, plan_dpm_solver_pp):
            for method in ("grouped", "fast"):
                steps = plan(levels, order=order, method=method)
                assert sum(1 + len(step.stages) for step in steps) == calls
                assert steps[0].sigma == levels[0] and steps[-1].sigma_next == pytest.approx(levels[-1])
        assert sum(1 + len(step.stages) for step in plan_dpm_solver(levels, order=order)) == order * calls


def test_weights_integrate_polynomials_exactly():
    nodes = [1.3, 1.9, 3.2, 4.0]
    for power in range(4):
        wanted = (0.7 ** (power + 1) - 1.3 ** (power + 1)) / (power + 1)
        found = sum(w * node ** power for w, node in zip(interval_weights(nodes, 1.3, 0.7), nodes))
        assert found == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_tab_is_exact_for_polynomials_in_time_and_sums_up(degree):
    sigmas = [5.0, 3.1, 2.0, 1.2, 0.7]
    step = plan_deis(sigmas, ab_order=degree, time_map="linear_vp")[-1]
    weights, nodes = step.predict.d_coefs[1:], [VP_CLOCK.time_of(sigma) for sigma in sigmas[-2::-1]]
    assert math.fsum(weights) == pytest.approx(0.7 - 1.2, abs=1e-12)
    fine = [1.2 * (0.7 / 1.2) ** (i / 20000) for i in range(20001)]
    times = [VP_CLOCK.time_of(sigma) for sigma in fine]
    wanted = sum((b - a) * (s ** degree + t ** degree) / 2.0 for a, b, s, t in zip(fine, fine[1:], times, times[1:]))
    assert sum(w * node ** degree for w, node in zip(weights, nodes)) == pytest.approx(wanted, abs=1e-8)


def test_runge_kutta_tableaus_meet_their_order_conditions():
    for name, (nodes, rows, ends) in TABLEAUS.items():
        order = int(name[-1])
        rows = [(), *rows]
        for row, node in zip(rows, nodes):
            assert sum(row) == pytest.approx(node, abs=1e-14)
        for power in range(order):
            assert sum(b * c ** power for b, c in zip(ends, nodes)) == pytest.approx(1 / (power + 1)), name
        if order > 2:
            inner = sum(b * a * c for b, row in zip(ends, rows) for a, c in zip(row, nodes))
            assert inner == pytest.approx(1 / 6), name


def test_clocks_are_two_way_and_true():
    table = clock_of_table([0.5, 1.0, 2.5, 7.0])
    assert [table.time_of(sigma) for sigma in (0.5, 1.0, 2.5, 7.0)] == pytest.approx([0, 1, 2, 3])
    for clock in (table, VP_CLOCK, FLOW_CLOCK):
        for sigma in (0.51, 0.9, 1.7, 6.9):
            assert clock.sigma_of(clock.time_of(sigma)) == pytest.approx(sigma, rel=1e-12)
    # beta(t) = 0.1 + 19.9 t: alpha_bar(1) = exp(-10.05)
    assert VP_CLOCK.sigma_of(1.0) == pytest.approx(math.sqrt(math.exp(10.05) - 1.0))


def test_unip_2_is_2m():
    sigmas = [14.6, 9.0, 5.0, 2.0, 1.1, 0.4, 0.1, 0.0]
    ours = plan_unipc(sigmas, order=2, use_corrector=False, lower_order_final=False)
    for a, b in zip(ours, plan_dpm_solver_pp(sigmas, order=2, lower_order_below=0)):
        assert a.predict.d_coefs == pytest.approx(b.predict.d_coefs, rel=1e-13)


def test_order_1_of_everything_is_ddim():
    sigmas = [14.6, 5.0, 2.0, 0.4, 0.1, 0.0]
    wanted = run(denoise, 14.6 * UNIT_NOISE, plan_ddim(sigmas))
    for steps in (plan_dpm_solver(sigmas, order=1), plan_unipc(sigmas, order=1, use_corrector=False),
                  plan_deis(sigmas, ab_order=0), plan_deis(sigmas, variant="rhoAB", ab_order=0),
                  plan_bdia(sigmas, gamma=0.0),
                  plan_deis(sigmas, variant="rhoRK", rk="euler"), plan_pndm(sigmas, max_order=1),
                  plan_momentum(sigmas, order=1.0), plan_lambda_ddim(sigmas, lam=0.0),
                  plan_gradient_estimation(sigmas, gamma=1.0)):
        assert (run(denoise, 14.6 * UNIT_NOISE, steps) - wanted).abs().max() < 1e-12


@pytest.mark.parametrize("process", [VE, FLOW], ids=lambda process: process.name)
def test_ddim_noise_leaves_the_right_spread(process):
    """From a known picture one step leaves exactly noise of the next level around it, at every eta."""
    sigma, sigma_next = 0.8, 0.35
    for eta in (0.0, 0.4, 1.0):
        update = plan_ddim([sigma, sigma_next], eta=eta, process=process)[0].predict
        spread = math.hypot(update.x_coef * sigma, update.noise_coef)
        assert spread == pytest.approx(sigma_next, rel=1e-12)
    posterior = (sigma_next / sigma) ** 2 * (process.alpha(sigma) / process.alpha(sigma_next)) ** 2
    assert update.noise_coef == pytest.approx(sigma_next * math.sqrt(1.0 - posterior))


@pytest.mark.parametrize("process", [VE, FLOW], ids=lambda process: process.name)
def test_churn_keeps_signal_and_noise_apart(process):
    steps = plan_edm_heun([0.9, 0.6, 0.3, 0.0], s_churn=1.0, process=process)
    for step, sigma in zip(steps, (0.9, 0.6, 0.3)):
        ratio, noise = step.before.x_coef, step.before.noise_coef
        assert ratio * process.alpha(sigma) == pytest.approx(process.alpha(step.sigma))
        assert math.hypot(ratio * sigma, noise) == pytest.approx(step.sigma) and sigma < step.sigma <= 1.4143 * sigma
    assert plan_edm_heun([1.0, 0.5, 0.0], s_churn=1.0, process=FLOW)[0].before is None  # nothing to add at sigma 1


def test_dc_solver_with_ratios_of_one_is_unipc_and_moves_what_it_is_told():
    sigmas = [14.6, 9.0, 5.0, 2.0, 0.7, 0.2]
    plain = run(denoise, 14.6 * UNIT_NOISE, plan_unipc(sigmas, order=3))
    ones = run(denoise, 14.6 * UNIT_NOISE, plan_dc_solver(sigmas, ratios=DCRatios((1.0,) * 5), variable="lambda"))
    assert (ones - plain).abs().max() < 1e-12
    moved = plan_dc_solver(sigmas, ratios=DCRatios((1.0, 1.0, 1.2, 1.0, 1.0)), variable="lambda")
    lams = [-math.log(sigma) for sigma in sigmas]
    weights = moved[2].keep[0].d_coefs
    for power in range(3):  # a polynomial in lambda is read where it was asked
        at = 1.2 * lams[2] - 0.2 * lams[1]
        assert sum(w * lam ** power for w, lam in zip(weights, lams[2::-1])) == pytest.approx(at ** power, abs=1e-12)


def test_a_flow_starts_at_pure_noise():
    sigmas = [1.0 - i / 24 for i in range(25)]
    fine = run(denoise_flow, UNIT_NOISE, plan_ddim([1.0 - i / 4000 for i in range(4001)], process=FLOW))
    for steps in (plan_dpm_solver(sigmas, order=2, process=FLOW), plan_dpm_solver(sigmas, order=3, process=FLOW),
                  plan_dpm_solver(sigmas, method="multistep", process=FLOW), plan_unipc(sigmas, order=3, process=FLOW),
                  plan_unipc(sigmas, prediction="noise", process=FLOW), plan_deis(sigmas, process=FLOW),
                  plan_edm_heun(sigmas, process=FLOW), plan_pndm(sigmas, process=FLOW),
                  plan_dpm_solver_pp(sigmas, method="fast", order=3, process=FLOW)):
        out = run(denoise_flow, UNIT_NOISE, steps)
        euler = run(denoise_flow, UNIT_NOISE, plan_ddim(sigmas, process=FLOW))
        assert (out - fine).norm() < (euler - fine).norm()


def test_predictions_settle_before_states():
    levels = [14.6 * (0.03 / 14.6) ** (i / 400) for i in range(401)]
    path = []
    end = run(denoise, 14.6 * UNIT_NOISE, plan_exponential_adams(levels, order=4),
              callback=lambda i, x, denoised, sigma: path.append((x, denoised)))
    end, ratios = denoise(end, levels[-1]), []
    for x, denoised in path[::40]:
        to_prediction, to_state = ((value - end).norm().item() for value in (denoised, x))
        ratios.append(to_state / to_prediction)
    assert min(ratios) > 1.5 and max(ratios) < 20.0, ratios


def test_a_jump_returns_the_prediction_there():
    sigmas = [14.6, 5.0, 2.0, 0.7, 0.4, 0.1, 0.0]
    for steps in (plan_dpm_solver_pp(sigmas), add_corrector(plan_deis(sigmas), order=2), plan_edm_heun(sigmas)):
        seen = []
        run(denoise, 14.6 * UNIT_NOISE, steps, callback=lambda i, x, denoised, sigma, seen=seen: seen.append(denoised))
        out = run(denoise, 14.6 * UNIT_NOISE, jump(steps, jump_sigma=0.5))
        assert (out - seen[4]).abs().max() < 1e-12
    assert jump(plan_ddim([14.6, 5.0, 2.0]), jump_sigma=0.5) == plan_ddim([14.6, 5.0, 2.0])


@pytest.mark.parametrize(("call", "message"), [
    (lambda s: jump(plan_ddim(s), jump_sigma=3.0), "is not below the first level 0.9; lower it"),
    (lambda s: jump(plan_ddim(s), jump_sigma=0.0), "must be above 0"),
    (lambda s: plan_ddim(s, eta=1.5), "eta must lie in"),
    (lambda s: plan_deis(s, variant="ab"), "variant must be one of tAB, rhoAB, rhoRK, got 'ab'"),
    (lambda s: plan_deis(s, ab_order=4), "ab_order must be 0, 1, 2 or 3, got 4"),
    (lambda s: plan_deis(s, variant="rhoRK", rk="rk5"), "rk must be one of euler, heun2"),
    (lambda s: plan_dpm_solver(s, order=4), "order must be 1, 2 or 3, got 4"),
    (lambda s: plan_dpm_solver(s, order=3, r1=0.8, r2=0.5), "need 0 < r1 < r2 < 1"),
    (lambda s: plan_dpm_solver(s, method="all"), "method must be one of multistep"),
    (lambda s: plan_unipc(s, order=5), "order must be 1, 2, 3 or 4, got 5"),
    (lambda s: plan_unipc(s, prediction="v"), "prediction must be 'data' or 'noise', got 'v'"),
    (lambda s: plan_pndm(s, variant="FON", process=FLOW), "FON counts in the time steps"),
    (lambda s: plan_momentum(s, order=6.0), "order must lie in"),
    (lambda s: plan_bdia(s, gamma=1.5), "gamma must lie in"),
    (lambda s: plan_bdia(s, base="heun"), "base must be one of ddim, edm_heun, dpmpp, got 'heun'"),
    (lambda s: plan_gradient_estimation(s, mu=0.5, process=FLOW), "on flow models set mu to 0"),
    (lambda s: plan_accelerated_ddim(s, process=FLOW), "for flow models take DEIS rhoAB"),
    (lambda s: plan_lambda_ddim(s, process=FLOW), "which flow models have not"),
    (lambda s: plan_dc_solver(s, ratios=DCRatios((1.0,))), "need one ratio for each of the 2 steps above sigma 0"),
    (lambda s: plan_dc_solver(s, ratios=DCRatios((1.1, 1.0))), "the first 2 ratios must be 1"),
    (lambda s: add_corrector(plan_edm_heun(s)), "UniC corrects samplers with one model call a step"),
    (lambda s: add_corrector(plan_ddim(s, eta=0.5)), "set its eta to 0"),
    (lambda s: add_corrector(plan_bdia(s)), "keeps something else, connect another"),
    (lambda s: plan_edm_heun([*s, 0.1]), "must strictly decrease"),
])
def test_what_can_t_work_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call([0.9, 0.5, 0.2, 0.0] if "ratio" not in message else [0.9, 0.5, 0.2])


def test_flow_limits_are_checked_in_every_plan():
    for plan in (plan_ddim, plan_edm_heun, plan_pndm, plan_deis, plan_unipc, plan_dpm_solver, plan_momentum, plan_bdia):
        with pytest.raises(ValueError, match="flow sigmas must lie in"):
            plan([14.6, 1.0, 0.0], process=FLOW)
    assert torch.isfinite(run(denoise, 14.6 * UNIT_NOISE, plan_unipc([14.6, 3.0, 0.0]))).all()
