"""GITS: the recorded searches and their runs, its metrics by hand, the free first step, and searches that go on."""
import itertools
import math

import pytest
import torch
from gmm import UNIT_NOISE, denoise
from golden_runs import load, tensor
from judged import MODELS, classic, learned, share_left

from odeon.guidance.dynamic_threshold import dynamic_threshold
from odeon.samplers.dpm_solver_pp import plan_dpm_solver_pp
from odeon.samplers.linear import Step, Update, run
from odeon.samplers.pndm import plan_pndm
from odeon.samplers.process import FLOW, VE
from odeon.schedules.optimize.boss import search_boss
from odeon.schedules.optimize.gits import SOLVERS, gits_cost, search_gits, solver
from odeon.schedules.optimize.shortest import path_cost
from odeon.schedules.optimize.straight import chosen, straight_costs
from odeon.schedules.power import power_sigmas

GOLDEN = load("schedules/gits")
BOTH = pytest.mark.parametrize("process", [VE, FLOW], ids=lambda process: process.name)


class Clamped:
    """What the recorded DPM-Solver++ keeps of a prediction: dynamically thresholded."""
    d_coefs, noise_coef = (1.0,), 0.0

    def __call__(self, x, values):
        return dynamic_threshold(values[0])


def recorded_plan(name, sigmas):
    """The reference's solvers: order 3, and its DPM-Solver++ ends on orders 2 and 1 and thresholds."""
    if name != "dpmpp":
        return plan_pndm(sigmas, max_order={"ipndm": 3, "euler": 1}[name])
    plan = plan_dpm_solver_pp(sigmas, order=3, lower_order_below=10 ** 6, third_order_term="reference")
    return [Step(step.sigma, step.sigma_next, Update(step.predict.x_coef, (0.0, *step.predict.d_coefs)),
                 keep=(Clamped(),)) for step in plan]


def with_free_step(top):
    """The model whose prediction at level `top` is made of the state alone, at no call."""
    return lambda x, sigma: x * (1.0 - top / math.hypot(1.0, top)) if sigma == top else denoise(x, sigma)


@pytest.mark.parametrize("recorded", GOLDEN["runs"], ids=lambda run: "{teacher} {metric} {coeff} {steps}".format(**run))
def test_recorded_searches_and_their_runs(recorded):
    """The reference's afs also spares its teacher's first call: the first step then bends, and ends at once."""
    sigmas = GOLDEN["grids"][recorded["grid"]]
    model = with_free_step(sigmas[0]) if recorded["afs"] else denoise
    *_, last = straight_costs(model, sigmas[0] * tensor(GOLDEN["starts"]), recorded_plan(recorded["teacher"], sigmas),
                              metric=recorded["metric"], batch=64)
    found = chosen(last.state["costs"], sigmas, recorded["steps"], coeff=recorded["coeff"])
    assert found["indices"].tolist() == recorded["indices"]
    assert found["sigmas"].tolist() == pytest.approx(recorded["timesteps"], rel=1e-12)
    if "costs" in recorded:
        assert (last.state["costs"] - tensor(recorded["costs"])).triu(1).abs().max() < 1e-9
    plan = recorded_plan(recorded["solver"], found["sigmas"].tolist())
    assert (run(model, sigmas[0] * UNIT_NOISE, plan) - tensor(recorded["x_final"])).abs().max() < 1e-9


def recorded_as_searched():
    return [run for run in GOLDEN["runs"] if run["teacher"] != "dpmpp" and not run["afs"]]


@pytest.mark.parametrize("recorded", recorded_as_searched(), ids=lambda run: "{metric} {coeff} {steps}".format(**run))
def test_the_search_is_the_recorded_one(recorded):
    sigmas = GOLDEN["grids"][recorded["grid"]]
    options = {key: recorded[key] for key in ("steps", "metric", "coeff", "teacher")}
    *_, last = search_gits(denoise, sigmas[0] * tensor(GOLDEN["starts"]), sigmas, **options)
    assert last.state["indices"].tolist() == recorded["indices"]


def grid(process, intervals=20):
    return power_sigmas(intervals).tolist() if process is VE else [1.0 - i / intervals for i in range(intervals + 1)]


def starts(process, count, seed=0):
    noise = torch.randn(count, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return grid(process)[0] * noise


def searched(process, steps, x=None, **options):
    x = starts(process, 32) if x is None else x
    *_, last = search_gits(MODELS[process], x, grid(process), steps=steps, process=process, **options)
    return last.state


def test_best_of_all_paths_of_nine_levels():
    sigmas = grid(VE, 8)
    for steps, coeff in itertools.product((2, 4, 5), (0.8, 1.15, 1.5)):
        *_, last = search_gits(denoise, starts(VE, 16), sigmas, steps=steps, coeff=coeff)
        costs = last.state["costs"]
        paths = [[0, *inner, 8] for inner in itertools.combinations(range(1, 8), steps - 1)]
        best = min(paths, key=lambda path: path_cost(costs, path, coeff=coeff))
        assert last.state["indices"].tolist() == best
        assert last.state["cost"].item() == pytest.approx(path_cost(costs, best, coeff=coeff))


@BOTH
def test_l2_of_an_euler_teacher_is_the_root_of_boss_cost(process):
    """For one start, where the mean over the batch can't come between."""
    x = starts(process, 1)
    *_, boss = search_boss(MODELS[process], x, grid(process), steps=5, process=process)
    l2, l1 = (searched(process, 5, x=x, metric=metric, teacher="euler")["costs"] for metric in ("l2", "l1"))
    assert (l2.square() - boss.state["costs"]).abs().max() < 1e-9
    assert (l1 >= l2 - 1e-12).all() and (l1 <= 4.0 * l2 + 1e-12).all()  # of 16 numbers


@BOTH
def test_dev_is_the_distance_from_the_line_between_the_ends(process):
    """By the angle at the end of the run, for one start and an Euler teacher."""
    x, sigmas, model = starts(process, 1), grid(process), MODELS[process]
    states = [x]
    for sigma, sigma_next in itertools.pairwise(sigmas):
        states.append(states[-1] + (sigma_next - sigma) * (states[-1] - model(states[-1], sigma)) / sigma)

    def deviation(y):
        side, line = y - states[-1], states[0] - states[-1]
        cosine = (side * line).sum() / side.norm() / line.norm()
        return (side.norm() * (1.0 - cosine ** 2).clamp(min=0.0).sqrt()).item()

    costs = searched(process, 5, x=x, teacher="euler")["costs"]
    for i, j in ((0, 5), (3, 12), (10, 19)):
        reached = states[i] + (sigmas[j] - sigmas[i]) * (states[i] - model(states[i], sigmas[i])) / sigmas[i]
        assert costs[i, j].item() == pytest.approx(deviation(reached) - deviation(states[j]), abs=1e-8)


@BOTH
def test_a_higher_coeff_puts_more_steps_at_the_end(process):
    means = [searched(process, 6, coeff=coeff)["indices"].double().mean().item() for coeff in (0.8, 1.0, 1.2, 1.5)]
    assert means == sorted(means) and means[-1] > means[0] + 1.0


@BOTH
@pytest.mark.parametrize("teacher", SOLVERS)
def test_as_many_steps_as_the_grid_has_give_the_grid(process, teacher):
    found = searched(process, 20, teacher=teacher)
    assert found["indices"].tolist() == list(range(21)) and found["sigmas"].tolist() == grid(process)


@BOTH
def test_the_free_step_is_the_best_of_all(process):
    x, sigmas, model = starts(process, 24), grid(process), MODELS[process]
    plain, found = searched(process, 5, x=x), searched(process, 5, x=x, afs=True)
    path = plain["indices"].tolist()
    assert path[1] > 3
    ends = run(model, x, plan_pndm(sigmas, max_order=3, process=process))
    top, alpha = sigmas[0], process.alpha(sigmas[0])
    size = math.hypot(alpha, top)
    guess = (x - top * x / size) / alpha if alpha else torch.zeros_like(x)
    misses = []
    for k in range(1, path[1]):
        there = x + (sigmas[k] - top) * (x - guess) / top
        end = run(model, there, plan_pndm([sigmas[i] for i in (k, *path[1:])], max_order=1, process=process))
        misses.append((end - ends).norm(dim=1).mean().item())
    assert found["misses"].tolist() == pytest.approx(misses, rel=1e-9)
    assert found["indices"].tolist() == [0, 1 + misses.index(min(misses)), *path[1:]]
    assert found["cost"] == plain["cost"]


@pytest.mark.parametrize("sigma", [14.0, 10.0, 5.0])
def test_the_free_step_is_nearly_a_start_at_its_end(sigma):
    """What the node makes of it on SD's levels: noise at `sigma`."""
    x = 14.614642 * UNIT_NOISE
    there = run(with_free_step(14.614642), x, plan_pndm([14.614642, sigma], max_order=1))
    assert (there / (sigma * UNIT_NOISE) - 1.0).abs().max() < 0.005


def test_neighbours_leave_no_room_for_a_free_step():
    found = searched(VE, 19, afs=True, coeff=0.5)
    assert found["indices"].tolist()[:2] == [0, 1] and len(found["indices"]) == 20 and "misses" not in found


# Share of the distance that the best of karras, normal and simple leaves; afs: its levels but the first, as many steps.
@pytest.mark.parametrize(("process", "scheduler", "steps", "afs", "wanted"), [
    (VE, "karras", 5, False, 0.885), (VE, "karras", 7, False, 0.83), (VE, "karras", 5, True, 0.74),
    (VE, "karras", 7, True, 0.72), (FLOW, "simple", 5, False, 0.96), (FLOW, "simple", 7, False, 1.02),
    (FLOW, "simple", 5, True, 0.73), (FLOW, "simple", 7, True, 0.745)],
    ids=lambda value: getattr(value, "name", str(value)))
def test_figures_of_the_help_page(process, scheduler, steps, afs, wanted):
    *_, last = search_gits(MODELS[process], learned(process, 64), classic(process, scheduler, 40), steps=steps, afs=afs,
                           process=process, batch=64)
    sigmas = last.state["sigmas"].tolist()[afs:]
    assert len(sigmas) == steps + 1
    assert share_left(process, sigmas) == pytest.approx(wanted, abs=0.02)


@BOTH
@pytest.mark.parametrize("afs", [False, True])
def test_batch_size_does_not_matter_and_calls_are_as_told(process, afs):
    x, calls = starts(process, 10), []

    def model(x, sigma):
        calls.append(len(x))
        return MODELS[process](x, sigma)

    whole = searched(process, 5, x=x, batch=10, afs=afs)
    *_, last = search_gits(model, x, grid(process), steps=5, process=process, batch=4, afs=afs)
    assert last.done == last.total == len(calls) <= gits_cost(10, 20, 5, afs=afs, batch=4)
    assert len(calls) == 60 + 15 * len(last.state.get("misses", ()))
    assert (last.state["costs"] - whole["costs"]).abs().max() < 1e-12 * whole["costs"].abs().max()
    assert torch.equal(last.state["indices"], whole["indices"])


@BOTH
@pytest.mark.parametrize("teacher", SOLVERS)
def test_goes_on_where_it_stopped_to_the_bit(process, teacher):
    x, sigmas = starts(process, 6), grid(process)

    def search(model, state=None):
        return list(search_gits(model, x, sigmas, steps=4, process=process, batch=4, teacher=teacher, afs=True,
                                state=state))

    whole = search(MODELS[process])
    assert len(whole) > 43
    for stop in (0, 2, 7, 19, 20, 33, 39, 40, 42):
        seen = []

        def model(x, sigma, seen=seen):
            seen.append(sigma)
            return MODELS[process](x, sigma)

        rest = search(model, {key: value.clone() for key, value in whole[stop].state.items()})
        assert len(seen) == whole[-1].done - whole[stop].done
        assert all(torch.equal(rest[-1].state[key], value) for key, value in whole[-1].state.items()), stop


@pytest.mark.parametrize(("call", "message"), [
    (lambda: searched(VE, 0), "steps must lie between 1 and the 20 steps of the grid, got 0; connect a finer"),
    (lambda: searched(VE, 21), "steps must lie between 1 and the 20 steps of the grid, got 21"),
    (lambda: searched(VE, 5, metric="squared"), "metric must be one of dev, l1, l2, got 'squared'"),
    (lambda: searched(VE, 5, teacher="heun"), "solver must be one of ipndm, dpmpp, euler, got 'heun'"),
    (lambda: searched(VE, 5, afs=True, student="heun"), "student must be one of ipndm, dpmpp, euler, got 'heun'"),
    (lambda: searched(VE, 5, coeff=-1.0), "coeff must be above 0, got -1"),
    (lambda: solver("deis", [1.0, 0.0], VE), "got 'deis'"),
    (lambda: list(straight_costs(denoise, UNIT_NOISE, plan_pndm([2.0, 1.0]), metric="dev2")),
     "metric must be one of dev, l1, l2, squared, got 'dev2'"),
])
def test_what_can_t_work_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()
