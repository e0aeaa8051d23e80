"""The Align Your Steps optimizer: its search, what it keeps and what it gains on the mixture, its node."""
import functools
import itertools

import pytest
import torch
from gmm import denoise, denoise_flow
from klub_figures import BOTTOM, SCHEDULES, TOP, pictures, spread, time_uniform

from odeon import NODE_CLASS_MAPPINGS, host
from odeon.models.levels import DiscreteLevels
from odeon.samplers.ddim import plan_ddim
from odeon.samplers.dpm_solver_pp import plan_dpm_solver_pp
from odeon.samplers.pndm import plan_pndm
from odeon.samplers.process import FLOW, VE
from odeon.schedules.optimize.align_your_steps import AlignYourSteps, Frame, align_your_steps, ays_cost
from odeon.schedules.optimize.klub_search import candidates_for, doubled, intervals_of
from odeon.schedules.optimize.teacher import Lesson, taught, teach

HELD = 128


@pytest.fixture(scope="module")
def lesson():
    x = TOP * torch.randn(64 + HELD, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    *_, last = teach(denoise, x, [TOP, BOTTOM, 0.0], steps=40)
    return lambda plan=plan_dpm_solver_pp: Lesson(denoise, x, last.state["targets"], plan, held=HELD)


def options(**changes):
    return AlignYourSteps(**{"sigma_min": BOTTOM, "mc_samples": 256, "refine": 0, **changes})


def searched(lesson, sigmas, asked, **given):
    return list(align_your_steps(lesson, sigmas, asked, batch=64, **given))


def test_candidates_hold_the_point_itself_and_stay_between_its_neighbours():
    levels = [8.0, 2.0, 1.0]
    found = candidates_for(levels, 1, 11)
    assert found[0] == 2.0 and len(set(found)) == 11 and all(1.0 < level < 8.0 for level in found)
    near = candidates_for(levels, 1, 11, 0.25)
    assert min(near) > 2.0 ** 0.75 and max(near) < 2.0 * 4.0 ** 0.25


@pytest.mark.parametrize("solver", ["ddim", "2m"])
def test_sweeps_never_raise_the_bound_and_refinements_keep_every_point(lesson, solver):
    states = [step.state for step in searched(lesson(), [*time_uniform(8), 0.0], options(
        steps_init=8, refine=2, solver=solver, stop="no_change", max_iters=12))]
    klubs = states[-1]["klubs"].tolist()
    assert len(klubs) > 5 and all(after <= before for before, after in itertools.pairwise(klubs))
    stages = [states[-1][f"stage {i}"].tolist() for i in range(3)]
    assert [len(levels) for levels in stages] == [9, 17, 33]
    assert stages[1][::2] == stages[0] and stages[2][::2] == stages[1]
    assert all(a > b for levels in stages for a, b in itertools.pairwise(levels))


def test_from_time_uniform_below_log_uniform_on_the_mixture(lesson):
    mixture = spread(denoise, pictures(3000))
    last = searched(lesson(), [*time_uniform(10), 0.0], options(stop="no_change", refine=1), data=pictures(256, 7))[-1]
    found = last.state["stage 0"].tolist()
    assert mixture.klub(intervals_of(found)).sum() < 0.7 * 18.2
    halves = mixture.klub(intervals_of(last.state["stage 1"].tolist())).sum()
    assert halves < mixture.klub(intervals_of(doubled(found))).sum()


@pytest.mark.parametrize(("steps", "solver", "end", "most", "most_median"), [
    (7, "ddim", "zero", 0.6, 1.0), (7, "2m", "zero", 0.6, 1.0), (10, "ddim", "append_zero", 1.0, 0.6),
    (10, "2m", "zero", 1.0, 0.6)])
def test_the_teacher_comes_nearer_from_time_uniform(lesson, steps, solver, end, most, most_median):
    """With DPM-Solver++(2M), on noises that nothing was chosen by."""
    asked = options(steps=steps, steps_init=steps, solver=solver, end=end)
    last = searched(lesson(), [*time_uniform(steps), 0.0], asked)[-1]
    found, given = last.state["errors"], last.state["given_errors"]
    assert found.mean() < most * given.mean() and found.median() < most_median * given.median()
    assert last.done == last.total == int(last.state["calls"]) == pytest.approx(
        ays_cost(asked, pictures=64, training=64, held=HELD), rel=0.35)


@pytest.mark.parametrize(("steps", "end"), [(7, "zero"), (7, "append_zero"), (10, "zero"), (10, "append_zero")])
def test_the_least_bound_lies_past_the_best_levels_for_2m(lesson, steps, end):
    means = [searched(lesson(), [*time_uniform(steps), 0.0], options(
        steps=steps, steps_init=steps, end=end, stop=stop, max_iters=60))[-1].state["errors"].mean()
        for stop in ("teacher_distance", "no_change")]
    assert 2.0 * means[0] < means[1] < 8.0 * means[0]


def test_no_other_levels_are_kept_than_those_nearest_to_the_teacher(lesson):
    """From a schedule that no sweep gets nearer than: it is handed on to the bit."""
    given = [*SCHEDULES["karras"][:-1], BOTTOM, 0.0]
    last = searched(lesson(), given, options(steps=11, steps_init=11, end="append_zero"))[-1]
    distances, kept = last.state["distances"].tolist(), int(last.state["kept"])
    assert distances[kept] == min(distances)
    assert torch.equal(last.state["errors"], last.state["given_errors"]) == (last.state["sigmas"].tolist() == given)
    assert last.state["errors"].mean() <= 1.1 * last.state["given_errors"].mean()


def test_draws_find_what_the_table_finds(lesson):
    """Stage 0 by bounds drawn for every candidate, at a dozen times the calls."""
    ends = {}
    for estimate in ("table", "draws"):
        asked = options(steps=5, steps_init=5, estimate=estimate, max_iters=3, stop="no_change", candidates=5)
        ends[estimate] = searched(lesson(), [*time_uniform(5), 0.0], asked)[-1]
    logs = [ends[estimate].state["stage 0"].log() for estimate in ends]
    assert (logs[0] - logs[1]).abs().max() < 0.15
    assert ends["draws"].done > 1.5 * ends["table"].done
    klubs = ends["draws"].state["klubs"].tolist()
    assert all(after <= before for before, after in itertools.pairwise(klubs))


@pytest.mark.parametrize(("estimate", "places"), [("table", (3, 66, 70)), ("draws", (5, 60))])
def test_a_stopped_search_goes_on(lesson, estimate, places):
    asked = options(steps=4, steps_init=4, estimate=estimate, max_iters=4, candidates=3, mc_samples=64)
    sigmas = [*time_uniform(4), 0.0]
    whole = searched(lesson(), sigmas, asked)
    for place in places:
        rest = searched(lesson(), sigmas, asked, state=whole[place].state)
        for name, value in whole[-1].state.items():
            assert torch.equal(rest[-1].state[name], value) or name == "calls", name
        assert place < 5 or len(rest) < len(whole)


def test_flow_models_are_taken_in_their_ve_form(lesson):
    """The same mixture seen as a flow: the same noise gives the same levels."""
    sigmas = [999.0, 9.0, 2.0, 0.5, 0.1, 0.03]
    flow = [1.0, *(sigma / (1.0 + sigma) for sigma in sigmas[1:])]
    asked, data = options(steps=5, steps_init=5, stop="no_change", max_iters=5, solver="2m", refine=1), pictures(64)
    x, found = torch.ones(16, 16).double(), []
    for model, process, start in ((denoise, VE, sigmas), (denoise_flow, FLOW, flow)):
        noises = Lesson(model, x, x, functools.partial(plan_pndm, max_order=1, process=process), held=8)
        found.append(searched(noises, start, asked, data=data, process=process)[-1].state)
    assert torch.allclose(found[0]["stage 1"], found[1]["stage 1"], rtol=1e-9)
    ve, shown = (state["sigmas"] for state in found)
    assert shown[0] == 1.0 and torch.allclose(shown[1:], ve[1:] / (1.0 + ve[1:]), rtol=1e-9)


def test_schedules_open_and_close():
    ve = [14.0, 5.0, 1.0, 0.2, 0.0]
    for end, count in (("zero", 4), ("append_zero", 3)):
        frame = Frame(ve, options(end=end, sigma_min=0.03), VE)
        levels = frame.opened(4)
        assert len(levels) - 1 == count and levels[0] == 14.0 and levels[-1] == pytest.approx(0.03)
        closed = frame.closed(levels)
        assert len(closed) == 5 and closed[0] == 14.0 and closed[-1] == 0.0
        assert (closed == pytest.approx(ve)) is (end == "zero")
    whole = Frame(ve[:-1], options(), VE)
    assert whole.opened(3) == whole.closed(whole.opened(3)) == pytest.approx(ve[:-1], rel=1e-12)
    flow = Frame([1.0, 0.9, 0.5, 0.0], options(sigma_min=0.03), FLOW)
    levels = flow.opened(3)
    assert levels[0] == pytest.approx(999.0) and flow.closed(levels) == pytest.approx([1.0, 0.9, 0.5, 0.0])
    stages = [levels, doubled(levels)]
    assert flow._replace(options=options(steps=6)).wanted(stages) == flow.closed(stages[1])
    five = flow._replace(options=options(steps=5)).wanted(stages)
    assert len(five) == 6 and five[0] == 1.0 and five[-1] == 0.0
    assert Frame(ve, options(steps=1, end="append_zero"), VE).wanted([levels]) == [14.0, 0.0]


@pytest.mark.parametrize(("changes", "message"), [
    ({"solver": "heun"}, "solver must be one of ddim, 2m, got 'heun'"), ({"steps": 0}, "need steps of at least 1"),
    ({"end": "x"}, "end must be one of zero, append_zero, got 'x'"), ({"candidates": 2}, "at least 3 candidates"),
    ({"reach": 0.0}, "reach above 0 and up to 1"),
    ({"steps_init": 2, "end": "append_zero"}, "steps_init of at least 3"),
    ({"sigma_min": 20.0}, "start well above where it ends, got 14.6146 and 20"),
])
def test_what_can_t_work_is_said(changes, message, lesson):
    with pytest.raises(ValueError, match=message):
        searched(lesson(), [*time_uniform(5), 0.0], options(**changes))


def test_data_must_be_pictures(lesson):
    for data in (torch.zeros(4, 16), torch.ones(4, 8), torch.ones(4, 16, 1)):
        with pytest.raises(ValueError, match="data must be latents of pictures for this model"):
            searched(lesson(), [*time_uniform(5), 0.0], options(), data=data)


def test_a_schedule_that_ends_above_0_has_its_pictures_cleaned(lesson):
    """One call of the model takes the noise off the teacher's ends."""
    levels = time_uniform(4)
    x = TOP * torch.randn(12, 16, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    ends, seen = pictures(12) + BOTTOM * torch.randn(12, 16, dtype=torch.float64), []

    def model(x, sigma):
        seen.append((x, sigma))
        return denoise(x, sigma)

    last = searched(Lesson(model, x, ends, plan_dpm_solver_pp, held=4), levels, options(steps=4, steps_init=4))[-1]
    assert torch.equal(seen[0][0], ends[:8]) and seen[0][1] == levels[-1]
    assert last.state["sigmas"][0] == levels[0] and last.state["sigmas"][-1] == levels[-1]


def test_with_its_teacher_it_is_one_measurement():
    x = TOP * torch.randn(12, 16, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    sigmas, asked = [*time_uniform(4), 0.0], options(steps=4, steps_init=4, mc_samples=8, max_iters=2)

    def start(state=None):
        return list(taught(denoise, x, sigmas, lambda targets, state: align_your_steps(
            Lesson(denoise, x, targets, plan_dpm_solver_pp, held=4), sigmas, asked, state=state), cost=1, steps=8,
            state=state))

    whole = start()
    for place in (3, 14, 60, len(whole) - 2):
        assert torch.equal(start(whole[place].state)[-1].state["sigmas"], whole[-1].state["sigmas"])


class Grey(torch.nn.Module):
    """A network that knows pictures near one grey: its predicted noise is x, nearly."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((3,), 0.9), requires_grad=False)

    def forward(self, x, timesteps, context=None, **_):
        return x * self.weight[0]


def test_the_node_hands_out_steps_words_and_a_plot(tmp_path, monkeypatch):
    monkeypatch.setenv("ODEON_FOLDER", str(tmp_path))
    model = host.make_model(Grey(), prediction="eps", levels=DiscreteLevels(), channels=4,
                            rgb_factors=[[0.1] * 3] * 4)
    word, own = [[torch.zeros(1, 2, 3), {}]], {}
    node = NODE_CLASS_MAPPINGS["OdeonOptimizeAlignYourSteps"]
    for group in node.INPUT_TYPES().values():
        own.update({name: spec[1]["default"] for name, spec in group.items() if "default" in spec[1]})
    given = {**own, "model": model, "positive": word, "negative": word, "latent": {"samples": torch.zeros(1, 4, 2, 2)},
             "sigmas": torch.tensor([*time_uniform(5), 0.0]), "sampler": host.solver(plan_dpm_solver_pp), "samples": 6,
             "mc_samples": 8, "steps": 8, "steps_init": 4, "max_iters": 3}
    results = []
    for changes in ({}, {"data": {"samples": torch.ones(2, 4, 2, 2)}}, {"steps": 6, "stop": "no_change"}):
        sigmas, report, plot, about = node().run(**{**given, **changes})["result"]
        steps = changes.get("steps", 8)
        assert sigmas.shape == (steps + 1,) and sigmas[-1] == 0.0 and (sigmas.diff() < 0).all()
        assert plot.shape[0] == 1 and plot.shape[3] == 3 and about["steps"] == steps and about["report"] == report
        assert f"levels, {steps} steps: 14.6" in report and "found at 16 steps: " in report
        assert "on 2 pictures that nothing was chosen by" in report
        results.append(sigmas)
    assert torch.equal(node().run(**given)["result"][0], results[0])
    with pytest.raises(ValueError, match="this sampler adds noise"):
        node().run(**{**given, "sampler": host.solver(plan_ddim, eta=1.0)})
