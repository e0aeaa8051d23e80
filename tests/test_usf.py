"""USF: the published runs, well-known solvers as decisions, orders, limits, and decisions as text."""
import json
import math
import random
from functools import partial

import pytest
import torch
from gmm import MEANS, UNIT_NOISE, WEIGHTS, denoise, denoise_flow, log_spaced, logit_spaced
from golden_runs import load, tensor

from odeon.samplers.ddim import plan_ddim
from odeon.samplers.dpm_solver import plan_dpm_solver
from odeon.samplers.dpm_solver_pp import plan_dpm_solver_pp
from odeon.samplers.exponential_adams import plan_exponential_adams
from odeon.samplers.linear import run
from odeon.samplers.process import FLOW, VE
from odeon.samplers.unipc import plan_unipc
from odeon.samplers.usf import plan_usf
from odeon.samplers.usf_decisions import (
    RELAXATIONS,
    SOLVERS,
    Decision,
    Decisions,
    Derivative,
    Taylor,
    corrected,
    decisions_of_text,
    multistep,
    text_of_decisions,
)

GOLDEN = load("schedules/usf")
MODELS = {VE: denoise, FLOW: denoise_flow}
BOTH = pytest.mark.parametrize("process", [VE, FLOW], ids=lambda process: process.name)
LEVELS = {VE: log_spaced(7, 14.6, 0.05), FLOW: logit_spaced(7, 0.99, 0.02)}


@pytest.mark.parametrize("i", range(len(GOLDEN["runs"])), ids=[golden["name"] for golden in GOLDEN["runs"]])
def test_golden_runs(i):
    golden = GOLDEN["runs"][i]
    sigmas, given = golden["sigmas"], dict(golden["decisions"])
    has_average = given["afs"] == "average_x0"  # no plan: the model answers its first call with the mean picture
    given["afs"] = {"no_afs": "no_afs", "average_x0": "no_afs", "zero_x0": "zero_x0_reference"}[given["afs"]]
    average = (WEIGHTS[:, None] * MEANS).sum(0)

    def model(x, sigma):
        return average.expand_as(x) if has_average and sigma == sigmas[0] else denoise(x, sigma)

    out = run(model, tensor(GOLDEN["x_init"]), plan_usf(sigmas, decisions=decisions_of_text(json.dumps(given))))
    assert (out - tensor(golden["x_final"])).abs().max() < 1e-9


UNIPC = partial(multistep, correct=True)
SAME = {
    "ddim": (SOLVERS["ddim"], plan_ddim),
    "dpmpp_2m": (SOLVERS["dpmpp_2m"], partial(plan_dpm_solver_pp, solver_type="taylor")),
    "dpmpp_2m midpoint": (partial(multistep, order=2, relaxation="bh2"), plan_dpm_solver_pp),
    "dpmpp_3m": (SOLVERS["dpmpp_3m"], partial(plan_dpm_solver_pp, order=3, solver_type="taylor")),
    "dpmpp_2s": (SOLVERS["dpmpp_2s"], partial(plan_dpm_solver_pp, solver_type="taylor", method="grouped")),
    "dpm_solver_2m": (SOLVERS["dpm_solver_2m"], partial(plan_dpm_solver, method="multistep")),
    "unipc_2": (SOLVERS["unipc_2"], plan_unipc),
    "unipc_3": (SOLVERS["unipc_3"], partial(plan_unipc, order=3)),
    "unipc_2 noise bh1": (partial(UNIPC, order=2, prediction="noise", relaxation="bh1"),
                          partial(plan_unipc, prediction="noise", variant="bh1")),
    "unipc_4 exact": (partial(UNIPC, order=4), partial(plan_unipc, order=4, variant="vary_coeff")),
}


@BOTH
@pytest.mark.parametrize("name", SAME)
def test_known_solvers_are_decisions(name, process):
    decide, plan = SAME[name]
    for sigmas in (LEVELS[process], [*LEVELS[process], 0.0]):
        x = sigmas[0] * UNIT_NOISE
        ours = plan_usf(sigmas, decisions=decide(len(sigmas) - 1), process=process)
        found, known = (run(MODELS[process], x, steps) for steps in (ours, plan(sigmas, process=process)))
        assert (found - known).abs().max() < 1e-12
        if name in SOLVERS:
            assert plan_usf(sigmas, decisions=name, process=process) == ours


def test_a_flow_s_first_step_from_1_is_euler_s_and_no_difference_reaches_back_to_it():
    sigmas = [1.0, 0.9, 0.75, 0.55, 0.35, 0.15, 0.0]
    for name in ("ddim", "unipc_4 exact"):
        decide, plan = SAME[name]
        ends = (run(denoise_flow, UNIT_NOISE, steps) for steps in (
            plan_usf(sigmas, decisions=decide(6), process=FLOW), plan(sigmas, process=FLOW)))
        assert (next(ends) - next(ends)).abs().max() < 1e-12
    for prediction in ("data", "noise"):
        whole, later = (plan_usf(levels, decisions=multistep(len(levels) - 1, 4, prediction=prediction), process=FLOW)
                        for levels in (sigmas, sigmas[1:]))
        assert whole[1:] == later
        x = torch.randn(2, 16, dtype=torch.float64)
        euler = x + (0.9 - 1.0) * (x - denoise_flow(x, 1.0))
        assert (run(denoise_flow, x, whole[:1]) - euler).abs().max() < 1e-12


def phi(k, z):
    """phi_1(z) = (exp(z) - 1) / z, phi_(k + 1)(z) = (phi_k(z) - 1 / k!) / z, as a series."""
    return sum(z ** n / math.factorial(n + k) for n in range(60))


def expanded(points, to, decision, taylor, process):
    """A step as the paper writes it, from points (sigma, state, D, eps), the newest last."""
    sigma, x, *_ = points[taylor.start]
    lam, lam_to = process.lams([sigma, to])
    h, is_noise = lam_to - lam, decision.prediction == "noise"
    values = [point[3 if is_noise else 2] for point in points]
    z, scale = (h, -to) if is_noise else (-h, process.alpha(to))
    x_next = (process.alpha(to) / process.alpha(sigma) if is_noise else to / sigma) * x
    x_next = x_next + scale * h * phi(1, z) * values[taylor.start]
    for k, derivative in enumerate(taylor.derivatives, start=1):
        lams = [lam if points[place][0] == sigma else math.log(process.alpha(points[place][0]) / points[place][0])
                for place in derivative.places]
        matrix = tensor([[(other - lam) ** n / math.factorial(n) for other in lams] for n in range(1, len(lams) + 1)])
        weights = torch.linalg.solve(matrix, torch.eye(len(lams), dtype=torch.float64)[k - 1])
        slope = sum(weight * (values[place] - values[taylor.start])
                    for weight, place in zip(weights, derivative.places))
        bh = math.expm1(z) - z
        factor = {"none": 1.0, "linear": 1.0 + derivative.r * h, "bh1": 0.5 * z * z / bh,
                  "bh2": 0.5 * z * math.expm1(z) / bh, "+0.5exp": 1.0 + 0.5 * math.expm1(z),
                  "-0.5exp": 1.0 - 0.5 * math.expm1(z)}[derivative.relaxation if k == 1 else "none"]
        x_next = x_next + scale * h ** (k + 1) * phi(k + 1, z) * factor * slope
    return x_next


def followed(model, x, sigmas, decisions, process):
    """The decisions carried out one by one, every state and prediction kept."""
    points = []
    for i, (sigma, decision) in enumerate(zip(sigmas, decisions.steps)):
        denoised = torch.zeros_like(x) if i == 0 and decisions.afs == "zero_x0" else model(x, sigma)
        points.append((sigma, x, denoised, (x - process.alpha(sigma) * denoised) / sigma))
        if i and decisions.steps[i - 1].correct:
            before = decisions.steps[i - 1]
            x = expanded(points, sigma, before, before.correct, process)
            points[-1] = (sigma, x, *points[-1][2:])
        x = expanded(points, sigmas[i + 1], decision, decision.predict, process)
    return x


def drawn(rng, steps):
    """Any decisions that can be followed."""
    def taylor(points, start, most):
        others = [place for place in range(-points, 0) if place != start]
        used = [rng.sample(others, rng.randint(k, len(others))) for k in range(1, rng.randint(1, min(most, points)))]
        relaxation = rng.choice(RELAXATIONS)
        return Taylor(start, tuple(Derivative(tuple(places), "none" if k else relaxation, rng.gauss(0.0, 0.1))
                                   for k, places in enumerate(used)))

    found = []
    for i in range(steps):
        start = rng.choice([-1, -1, max(-2, -1 - i), max(-3, -1 - i)])
        correct = taylor(i + 2, max(rng.choice([-2, -2, -3]), -2 - i), 5) if i < steps - 1 else None
        found.append(Decision(rng.choice(["data", "noise"]), taylor(i + 1, start, 4), rng.choice([None, correct])))
    return Decisions(tuple(found), rng.choice(["no_afs", "zero_x0"]))


@BOTH
def test_any_decisions_are_followed(process):
    """What the plan's numbers do is what the formulas do, whatever is mixed."""
    sigmas, rng, kinds = LEVELS[process][2:], random.Random(0), set()
    for _ in range(60):
        decisions = drawn(rng, 5)
        kinds |= {(decisions.afs, bool(step.correct), step.predict.start, step.prediction) for step in decisions.steps}
        x, calls = sigmas[0] * UNIT_NOISE, []

        def model(x, sigma, calls=calls):
            calls.append(sigma)
            return MODELS[process](x, sigma)

        ours = run(model, x, plan_usf(sigmas, decisions=decisions, process=process))
        assert len(calls) == decisions.nfe
        wanted = followed(MODELS[process], x, sigmas, decisions, process)
        assert (ours - wanted).abs().max() < 1e-9 * max(1.0, wanted.abs().max().item())
        assert decisions_of_text(text_of_decisions(decisions)).steps == tuple(
            step._replace(**{part: without_r(getattr(step, part)) for part in ("predict", "correct")})
            for step in decisions.steps)
    assert len(kinds) == 2 * 2 * 3 * 2, kinds


def without_r(taylor):
    """r means something where it is 'linear' only, and is kept there only."""
    return taylor and taylor._replace(derivatives=tuple(
        derivative if derivative.relaxation == "linear" else derivative._replace(r=0.0)
        for derivative in taylor.derivatives))


@pytest.fixture(scope="module")
def exact():
    return run(denoise, 1000.0 * UNIT_NOISE, plan_exponential_adams(log_spaced(1500), order=4))


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("prediction", ["data", "noise", "both"])
def test_order_of_convergence(order, prediction, exact):
    def mixed(steps):
        decided = multistep(steps + order, order).steps[:steps]  # without the lower orders at the end
        kinds = {"both": ["data", "noise"]}.get(prediction, [prediction])
        return Decisions(tuple(step._replace(prediction=kinds[i % len(kinds)]) for i, step in enumerate(decided)))

    coarse, fine = ((run(denoise, 1000.0 * UNIT_NOISE, plan_usf(log_spaced(n), decisions=mixed(n))) - exact).norm()
                    for n in (160, 320))
    assert order - 0.2 < math.log2(coarse / fine) < order + 0.4


def test_the_corrector_adds_an_order(exact):
    def error(n):
        decisions = multistep(n, 1, correct=True)
        return (run(denoise, 1000.0 * UNIT_NOISE, plan_usf(log_spaced(n), decisions=decisions)) - exact).norm()

    assert math.log2(error(160) / error(320)) > 1.8


def test_zero_x0_spares_the_first_call_and_hardly_differs_from_the_published_code_s():
    sigmas = LEVELS[VE]
    ends = []
    for afs in ("no_afs", "zero_x0", "zero_x0_reference"):
        decisions = multistep(7, 2)._replace(afs=afs)
        plan = plan_usf(sigmas, decisions=decisions)
        assert len(plan) == decisions.nfe == 7 - (afs != "no_afs") and plan[0].sigma == sigmas[7 - len(plan)]
        ends.append(run(denoise, sigmas[0] * UNIT_NOISE, plan))
    spared = (ends[1] - ends[0]).norm()
    assert 1e-4 < (ends[1] - ends[2]).norm() < 0.2 * spared < 0.02 * ends[0].norm()


SIGMAS = [9.0, 3.0, 1.0]
SECOND = Taylor(-1, (Derivative((-2,)),))


def decided(*steps, **options):
    return plan_usf(SIGMAS, decisions=Decisions(steps, **options))


def replaced(**changes):
    """The text of a solver with some of its parts changed."""
    given = json.loads(text_of_decisions(SOLVERS["unipc_2"](3)))
    return decisions_of_text(json.dumps({key: value for key, value in {**given, **changes}.items() if value != "no"}))


def test_what_the_text_may_leave_out():
    assert replaced(sigmas="no", afs="no", start_points="no", corrector_types="no", timesteps=[1.0, 0.5]) == Decisions(
        tuple(step._replace(correct=None) for step in SOLVERS["unipc_2"](3).steps))
    assert replaced(sigmas=[9, 3.0, 1.0]).sigmas == (9.0, 3.0, 1.0)


def test_strict_holds_to_the_levels_they_were_found_for():
    decisions = SOLVERS["ddim"](2)._replace(sigmas=(9.0, 3.1, 1.0))
    with pytest.raises(ValueError, match=r"these decisions were found for sigmas \[9, 3.1, 1\], got \[9, 3, 1\]"):
        plan_usf(SIGMAS, decisions=decisions)
    assert plan_usf(SIGMAS, decisions=decisions, strict=False) == plan_usf(SIGMAS, decisions="ddim")


@pytest.mark.parametrize(("call", "message"), [
    (lambda: plan_usf(SIGMAS, decisions="heun"), "decisions must be one of ddim, dpmpp_2m"),
    (lambda: decided(Decision()), "for 1 steps, the schedule has 2; use the schedule they were found for"),
    (lambda: decided(Decision(), Decision(), afs="average_x0"), "afs must be one of no_afs, zero_x0"),
    (lambda: plan_usf([9.0, 3.0], decisions=Decisions((Decision(),), "zero_x0")), "never calls the model"),
    (lambda: decided(Decision("v"), Decision()), "step 1: prediction must be one of data, noise, got 'v'"),
    (lambda: decided(Decision("data", SECOND), Decision()), r"step 1: derivative 1 needs different points of the 1 by "
                                                            r"then, -1 to -1, beside its start -1, got \[-2\]"),
    (lambda: decided(Decision(), Decision("data", Taylor(-1, (Derivative((-2,)), Derivative((-2,)))))),
     r"step 2: derivative 2 needs 2 points or more, got \[-2\]; lower the order"),
    (lambda: decided(Decision(), Decision("data", Taylor(-3))), "starts at -3, but there are 2 points by then: -2 to"),
    (lambda: decided(Decision(), Decision("data", Taylor(-1, (Derivative((-2,)),) * 4))), "order must be at most 4"),
    (lambda: decided(Decision(), Decision("data", Taylor(-1, (Derivative((-2,), "log"),)))), "relaxation must be one"),
    (lambda: decided(Decision(), Decision("data", Taylor(-1, (Derivative((-2,), "linear", math.nan),)))), "finite"),
    (lambda: decided(Decision(), Decision(correct=corrected(Taylor()))), "step 2: the last step has no corrector"),
    (lambda: decided(Decision(correct=Taylor(-1)), Decision()), "step 1: a corrector starts at -2 or before"),
    (lambda: decisions_of_text("{'orders': [1]}"), "decisions must be JSON: .* in line 1, column 2"),
    (lambda: decisions_of_text("[1]"), "decisions must be a JSON object with orders, .* got \\[1\\]"),
    (lambda: replaced(orders="no"), "orders must be a list, got nothing"),
    (lambda: replaced(prediction_types=["data_prediction"]), "prediction_types must have an entry for each of the 3"),
    (lambda: replaced(skip_coefficients=[1]), "decisions know orders, .* got 'skip_coefficients'; remove it"),
    (lambda: replaced(orders=[1, 5, 1]), "step 2: order 5 needs 4 derivatives and must be 1 to 4, got 1"),
    (lambda: replaced(orders=[1, True, 1]), "step 2: order must be a whole number, got True"),
    (lambda: replaced(prediction_types=["v", "v", "v"]), "step 1: prediction_types must be data_pred"),
    (lambda: replaced(corrector_types=[{}, {}, {}]), "step 1: corrector type must be no_corrector or pseudo, got None"),
    (lambda: replaced(derivative_types=[[], [3], []]), "step 2: a derivative must be an object, got 3"),
    (lambda: replaced(derivative_types=[[], [{"active_points": [-2], "relaxation": "x"}], []]), "relaxation must be"),
    (lambda: replaced(derivative_types=[[], [{}], []]), "a derivative's active_points must be a list"),
    (lambda: replaced(sigmas=["9"]), "a sigma must be a number, got '9'"),
])
def test_what_can_t_work_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()
