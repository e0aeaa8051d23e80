"""Schedules for reflowed and segmented flows, solvers that start anew, and step annealing."""
import math

import gmm
import pytest
import scipy.stats
import torch
from golden_runs import load
from hypothesis import given
from hypothesis import settings as running
from hypothesis import strategies as st

from odeon import NODE_CLASS_MAPPINGS, host
from odeon.host.common import planned
from odeon.models.levels import DiscreteLevels
from odeon.samplers.clock import FLOW_CLOCK
from odeon.samplers.ddim import plan_ddim
from odeon.samplers.dpm_solver_pp import plan_dpm_solver_pp
from odeon.samplers.exponential_adams import plan_exponential_adams
from odeon.samplers.linear import run
from odeon.samplers.process import FLOW, VE
from odeon.schedules.reflow import KINDS, reflow_sigmas
from odeon.schedules.segmented import INNER, restart_history, segment_ends, segmented_sigmas
from odeon.schedules.step_anneal import STRATEGIES, annealed_steps, step_anneal_sigmas

ALONE = {"sigma_max": 1.0, "sigma_min": 0.001}
SD = {"sigma_max": 14.614641, "sigma_min": 0.029167}


# reflow

@running(max_examples=100, deadline=None, derandomize=True)
@given(steps=st.integers(1, 200), kind=st.sampled_from(["sigmoid", "u_shape", "uniform"]), kappa=st.floats(0.0, 20.0),
       a=st.floats(0.0, 12.0))
def test_reflow_schedules_fall_and_are_symmetric(steps, kind, kappa, a):
    sigmas = reflow_sigmas(steps, kind, kappa=kappa, a=a, **ALONE)
    assert (sigmas.diff() < 0).all() and sigmas[[0, -1]].tolist() == [1.0, 0.0]
    assert len(sigmas) == steps + 1
    assert torch.allclose(sigmas + sigmas.flip(0), torch.ones_like(sigmas), atol=1e-12)


def test_what_float32_cannot_tell_apart_is_dropped():
    sigmas = reflow_sigmas(20, "sigmoid", kappa=50.0, **ALONE)
    assert len(sigmas) < 21 and (sigmas.float().diff() < 0).all()


def test_reflow_formulas_and_limits():
    def g(u):
        return 1.0 / (1.0 + math.exp(-u))

    kappa, steps = 7.0, 9
    times = [(g(kappa * (i / steps - 0.5)) - g(-kappa / 2)) / (g(kappa / 2) - g(-kappa / 2)) for i in range(steps + 1)]
    ours = reflow_sigmas(steps, "sigmoid", kappa=kappa, **ALONE)
    assert ours.tolist() == pytest.approx([1.0 - t for t in times], abs=1e-12)
    even = reflow_sigmas(steps, "uniform", **ALONE)
    for tiny in (0.0, 1e-12, 1e-6):
        assert torch.allclose(reflow_sigmas(steps, "sigmoid", kappa=tiny, **ALONE), even, atol=1e-9)
        assert torch.allclose(reflow_sigmas(steps, "u_shape", a=tiny, **ALONE), even, atol=1e-9)
    for kind in ("sigmoid", "u_shape"):
        gaps = -reflow_sigmas(10, kind, **ALONE).diff()
        assert gaps[0] == gaps.min() and gaps[4] == gaps.max()


def test_u_shape_has_the_density_of_its_name():
    times = (1.0 - reflow_sigmas(2000, "u_shape", a=4.0, **ALONE)).numpy()
    whole = math.e ** 4 - 1.0
    found = scipy.stats.kstest(times, lambda t: 0.5 + (math.e ** (4 * t) - math.e ** (4 * (1 - t))) / (2.0 * whole))
    assert found.statistic < 1.0 / 2000 + 1e-6


def test_reflow_in_edm_form_and_on_ve_models():
    edm = reflow_sigmas(6, "edm", **ALONE)
    karras = [(80 ** (1 / 7) + i / 5 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(6)]
    assert edm.tolist() == pytest.approx([v / (1 + v) for v in karras] + [0.0], rel=1e-12)
    for kind in KINDS:
        sigmas = reflow_sigmas(7, kind, process=VE, **SD)
        assert sigmas[[0, -1]].tolist() == pytest.approx([SD["sigma_max"], 0.0], rel=1e-12)
        assert (sigmas.diff() < 0).all() and len(sigmas) == 8
        if kind != "edm":  # as far apart in flow time
            times = sigmas / (1 + sigmas)
            assert torch.allclose(times / times[0], reflow_sigmas(7, kind, **ALONE), atol=1e-12)


def test_u_shape_samples_a_flow_better_than_even_steps():
    """The help page's word: DPM-Solver++(2M) in 10 steps on the exact mixture as a flow, from 256 starts."""
    x = torch.randn(256, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fine = [1.0, *gmm.logit_spaced(300, top=0.9995, bottom=1e-4), 0.0]
    exact = run(gmm.denoise_flow, x, plan_exponential_adams(fine, order=3, process=FLOW))

    def error(kind):
        steps = plan_dpm_solver_pp(reflow_sigmas(10, kind, **ALONE).tolist(), order=2, lower_order_below=0,
                                   process=FLOW)
        return (run(gmm.denoise_flow, x, steps) - exact).square().mean(1).sqrt().median().item()

    even = error("uniform")
    assert error("u_shape") < 0.7 * even and error("sigmoid") > even and error("edm") > 2.0 * even


# segments

VELOCITIES = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def straight_in_four(x, sigma):
    """D of a flow with one velocity in each quarter of its time; at an end, that of the quarter below."""
    return x - sigma * VELOCITIES[min(int((1.0 - sigma) * 4.0 + 1e-9), 3)]


X = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
END = X - 0.25 * VELOCITIES.sum(0)


def test_one_euler_step_a_piece_is_exact_on_a_piecewise_straight_flow():
    cases = ((4, 1, True), (8, 1, True), (4, 3, True), (3, 1, False), (5, 1, False), (1, 1, False))
    for segments, substeps, exact in cases:
        sigmas = segmented_sigmas(segments, substeps, **ALONE).tolist()
        end = run(straight_in_four, X, plan_ddim(sigmas, process=FLOW))
        assert ((end - END).abs().max() < 1e-12) == exact, segments


@pytest.mark.parametrize("inner", INNER)
def test_a_multistep_solver_is_exact_there_only_if_it_forgets(inner):
    sigmas = segmented_sigmas(4, 3, inner, **ALONE).tolist()
    for order in (2, 3):
        def plan(levels, order=order):
            return plan_exponential_adams(levels, order=order, process=FLOW)

        restarted = restart_history(plan, sigmas, at=segment_ends(4)[1:-1])
        assert (run(straight_in_four, X, restarted) - END).abs().max() < 1e-12
        assert (run(straight_in_four, X, plan(sigmas)) - END).abs().max() > 1e-2


def test_pieces_are_equal_in_flow_time_and_divided_as_asked():
    for process, ends in ((FLOW, ALONE), (VE, SD)):
        borders = segment_ends(5, sigma_max=ends["sigma_max"], process=process)
        flow = [sigma if process is FLOW else sigma / (1.0 + sigma) for sigma in borders]
        assert flow == pytest.approx([flow[0] * (1 - i / 5) for i in range(6)], abs=1e-12)
        for inner in INNER:
            sigmas = segmented_sigmas(5, 3, inner, process=process, **ends)
            assert sigmas[::3].tolist() == borders and (sigmas.diff() < 0).all() and len(sigmas) == 16
    linear, karras, log = (segmented_sigmas(2, 4, inner, **ALONE) for inner in INNER)
    assert torch.allclose(linear, torch.linspace(1, 0, 9, dtype=torch.float64))
    assert torch.allclose((karras[:5] ** (1 / 7)).diff().diff(), torch.zeros(3, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(log[:5].log().diff().diff(), torch.zeros(3, dtype=torch.float64), atol=1e-12)
    assert log[-2] == pytest.approx(0.001) and karras[-1] == 0.0


PLANS = sorted(name for name, cls in NODE_CLASS_MAPPINGS.items() if hasattr(cls, "PLAN")
               and not {"ratios", "iia", "ems"} & {key for group in cls.INPUT_TYPES().values() for key in group})


@pytest.mark.parametrize("name", PLANS)
def test_a_restarted_run_is_the_runs_of_its_pieces(name):
    """Whatever the solver keeps: values, corrections, stages, noise."""
    cls, sigmas = NODE_CLASS_MAPPINGS[name], segmented_sigmas(3, 4, **ALONE).tolist()
    options = {key: spec[1].get("default", spec[0][0] if isinstance(spec[0], list) else None)
               for group in cls.INPUT_TYPES().values() for key, spec in group.items() if key != "noise_maps"}

    def plan(levels):
        return planned(cls.PLAN, levels, process=FLOW, clock=FLOW_CLOCK, **options)

    def noise(sigma, sigma_next):
        return torch.randn(X.shape, generator=torch.Generator().manual_seed(int(1e6 * sigma)), dtype=X.dtype)

    def model(x, sigma):
        return torch.tanh(x) * (1.0 + sigma)

    try:
        whole = run(model, X, restart_history(plan, sigmas, at=segment_ends(3)[1:-1]), noise_sampler=noise)
    except ValueError as error:
        assert "flow models" in str(error) or "FON counts" in str(error)
        return
    x = X
    for first in (0, 4, 8):
        x = run(model, x, plan(sigmas[first:first + 5]), noise_sampler=noise)
    assert torch.equal(whole, x)


def test_restarts_are_found_by_level():
    lengths = []

    def plan(levels):
        lengths.append(len(levels) - 1)
        return plan_ddim(levels, process=FLOW)

    sigmas = [1.0, 0.8, 0.6, 0.4, 0.2, 0.0]
    for at, expected in (([], [5]), ([0.5], [3, 2]), ([0.6], [2, 3]), ([0.6 - 1e-8], [2, 3]), ([0.9, 0.85], [1, 4]),
                         ([2.0, 1.0], [5]), ([0.0], [5]), ([0.7, 0.3], [2, 2, 1])):
        lengths.clear()
        assert restart_history(plan, sigmas, at=at) == plan_ddim(sigmas, process=FLOW)
        assert lengths == expected, at


def test_the_segmented_node_gives_a_sampler_that_restarts():
    node = NODE_CLASS_MAPPINGS["OdeonSigmasSegmented"]()
    solver = host.solver(plan_exponential_adams, order=3)
    sigmas, restarted = node.build(segments=4, substeps=3, inner="linear", sampler=solver)
    assert sigmas.dtype == torch.float32 and len(sigmas) == 13
    steps = planned(*host.plan_of(restarted)[:1], sigmas.tolist(), process=FLOW, clock=FLOW_CLOCK)
    used = [len(step.predict.d_coefs) for step in steps]
    assert used[0] == 1 and used[3:] == [1, 2, 3, 1, 2, 3, 1, 2, 1]  # the first piece starts at sigma = 1
    _, euler = node.build(segments=4, substeps=1, inner="linear")
    assert planned(*host.plan_of(euler)[:1], [1.0, 0.5, 0.0], process=FLOW, clock=FLOW_CLOCK) == plan_ddim(
        [1.0, 0.5, 0.0], process=FLOW)
    with pytest.raises(ValueError, match="needs a SAMPLER with a plan"):
        node.build(segments=4, substeps=1, inner="linear", sampler=object())


# step annealing

@pytest.mark.parametrize("run_", load("schedules/disa")["runs"], ids=lambda run_: str(run_["settings"].values()))
def test_golden_step_counts(run_):
    settings = run_["settings"]
    ours = [annealed_steps(settings["ar_num_iter"], i, upper=settings["diff_upper_steps"],
                           lower=settings["diff_lower_steps"], strategy=settings["strategy"])
            for i in range(settings["ar_num_iter"])]
    assert ours == run_["steps_per_iteration"]


@running(max_examples=200, deadline=None, derandomize=True)
@given(segments=st.integers(1, 40), lower=st.integers(1, 20), more=st.integers(0, 60),
       strategy=st.sampled_from(STRATEGIES))
def test_steps_fall_from_upper_to_lower(segments, lower, more, strategy):
    counts = [annealed_steps(segments, i, upper=lower + more, lower=lower, strategy=strategy) for i in range(segments)]
    assert all(after <= before for before, after in zip(counts, counts[1:]))
    assert counts[0] == (lower if strategy == "constant" and segments > 1 else lower + more)
    assert counts[-1] == lower or segments == 1
    if strategy == "two-stage" and segments > 1 and more:
        assert counts.count(lower + more) == segments // 2


def test_the_schedule_keeps_its_range_and_shape():
    base = segmented_sigmas(20, **ALONE).tolist()
    first = step_anneal_sigmas(base, 8, 0, upper=20, lower=4)
    assert first.tolist() == base  # its own number of steps
    last = step_anneal_sigmas(base, 8, 7, upper=20, lower=4)
    assert len(last) == 5 and last[[0, -2, -1]].tolist() == [base[0], base[-2], 0.0]
    node = NODE_CLASS_MAPPINGS["OdeonSigmasStepAnneal"]()
    sigmas, steps = node.build(torch.tensor(base), segments=8, index=3, upper=20, lower=4, strategy="cosine")
    assert steps == len(sigmas) - 1 == annealed_steps(8, 3, upper=20, lower=4, strategy="cosine")
    assert sigmas.dtype == torch.float32


@pytest.mark.parametrize(("call", "message"), [
    (lambda: reflow_sigmas(5, "x", **ALONE), "kind must be one of sigmoid"),
    (lambda: reflow_sigmas(0, **ALONE), "steps must be at least 1"),
    (lambda: reflow_sigmas(5, kappa=-1.0, **ALONE), "kappa and a must be at least 0"),
    (lambda: reflow_sigmas(5, sigma_max=2.0, sigma_min=0.1), "at or below 1"),
    (lambda: segmented_sigmas(0, **ALONE), "segments must be at least 1"),
    (lambda: segmented_sigmas(4, 0, **ALONE), "substeps must be at least 1"),
    (lambda: segmented_sigmas(4, 2, "x", **ALONE), "inner must be one of linear"),
    (lambda: segmented_sigmas(4, 2, "log", sigma_max=1.0, sigma_min=0.3), "sigma_min must lie between 0 and"),
    (lambda: annealed_steps(4, 4), "index must lie in 0 to 3"),
    (lambda: annealed_steps(4, 0, upper=3, lower=5), "need 1 <= lower <= upper"),
    (lambda: annealed_steps(4, 0, strategy="x"), "strategy must be one of linear"),
])
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_reflow_node_asks_the_model_for_its_levels():
    node, inputs = NODE_CLASS_MAPPINGS["OdeonSigmasReflow"], {"steps": 6, "kind": "u_shape", "kappa": 10.0, "a": 4.0}
    alone, = node().build(**inputs, sigma_max=-1.0, sigma_min=-1.0)
    assert torch.equal(alone, reflow_sigmas(6, "u_shape", a=4.0, **ALONE).float())
    eps = host.make_model(torch.nn.Identity(), prediction="eps", levels=DiscreteLevels(), channels=4,
                          rgb_factors=[[0.1] * 3] * 4)
    of_model, = node().build(**inputs, sigma_max=-1.0, sigma_min=-1.0, model=eps)
    assert of_model[0].item() == pytest.approx(SD["sigma_max"], rel=1e-5) and of_model[-1] == 0.0
