"""Learned plans: what stays exact while numbers move, what learning gains on noises it has not seen."""
import time

import gmm
import pytest
import torch
from lessons import BOTH, LEVELS, guided_lesson, lesson_of, noises, simple

from odeon.samplers.exponential_adams import plan_exponential_adams
from odeon.samplers.learned import LearnedPlan, plan_learned
from odeon.samplers.linear import run, run_apart
from odeon.samplers.process import FLOW, VE
from odeon.samplers.table import run_table, steps_of_table
from odeon.samplers.unipc import plan_unipc
from odeon.schedules.classic import classic_sigmas
from odeon.schedules.optimize import plan as plans
from odeon.schedules.optimize.fitted_levels import FittedLevels, search_fitted_levels
from odeon.schedules.optimize.plan import FREE, GUIDED, Numbers, PlanLesson, learn_plan, training_items
from odeon.schedules.optimize.steps import table_in
from odeon.schedules.optimize.teacher import Lesson, score_of


@BOTH
@pytest.mark.parametrize("whole, guided", [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("plan", [plan_exponential_adams, plan_unipc])
def test_untouched_numbers_are_the_plan_itself(process, plan, whole, guided):
    student = PlanLesson(guided_lesson(process, plan, count=6, held=2), simple(process, 6), process=process,
                         whole=whole, guided=guided)
    levels = student.sigmas(student.numbers.theta).tolist()
    assert levels == pytest.approx(simple(process, 6), rel=1e-12)
    expected = run(student.lesson.model, student.lesson.x, student.lesson.plan(levels))
    walk = student.walk(student.table(student.numbers), list(range(6)))
    assert (walk.end - expected).abs().max() < 1e-11


@BOTH
@pytest.mark.parametrize("guided", [False, True])
def test_the_first_law_and_a_constant_denoiser_stay_exact_whatever_is_learned(process, guided):
    student = PlanLesson(lesson_of(process, plan_unipc, count=6, held=2), simple(process, 6), process=process,
                         guided=guided)
    generator = torch.Generator().manual_seed(1)
    numbers = Numbers(*(value + 0.3 * torch.randn(value.shape, dtype=torch.float64, generator=generator)
                        for value in student.numbers))
    table = student.table(numbers)
    alpha = torch.tensor([process.alpha(level) for level in [*table.levels.tolist(), 0.0]], dtype=torch.float64)
    own = table.d[:, ::1 + guided]
    assert (table.x * alpha[0] + own.sum(1) - alpha).abs().max() < 1e-12
    assert not own.triu().any() and (student.sigmas(numbers.theta).diff() < 0.0).all()
    picture = torch.randn(2, 16, dtype=torch.float64, generator=generator)

    def model(x, sigma):
        return picture

    model.apart = lambda x, sigma: (picture, torch.zeros_like(picture))
    assert (run_table(model, noises(process, 2), table) - picture).abs().max() < 1e-12
    assert (run_apart(model, noises(process, 2), steps_of_table(table)) - picture).abs().max() < 1e-12


@BOTH
def test_the_first_level_may_be_below_the_noises(process):
    """Where a run starts from less noise, scaled from the same, it may end nearer: learned, and found by the search.
    From the VE noises' 14.6 there is hardly anything to gain here."""
    lesson = lesson_of(process, plan_unipc)
    with pytest.raises(ValueError, match="give the Lesson its top"):
        PlanLesson(lesson, simple(process, 4), process=process, lower=True)
    lesson.top, losses = float(LEVELS[process].sigma_max), []
    start = [lesson.top, *simple(process, 4)[1:]]
    for lower in (False, True):
        *_, last = learn_plan(lesson, start, free="levels", lower=lower, process=process)
        sigmas = last.state["sigmas"].tolist()
        assert sigmas[0] <= lesson.top and (lower or sigmas[0] == lesson.top)
        losses.append(float(last.state["loss"]))
        errors = lesson.errors(lesson.plan(sigmas), lesson.training)  # of a run of the solver itself on these levels
        assert float((errors + plans.FLOOR).log().mean()) == pytest.approx(losses[-1], rel=1e-9)
        *_, again = learn_plan(lesson, sigmas, free="levels", lower=lower, iterations=0, process=process)
        assert float(again.state["loss"]) == pytest.approx(losses[-1], rel=1e-9)
    assert losses[1] < losses[0] + (-0.01 if process is FLOW else 0.01)
    *_, found = search_fitted_levels(lesson, [start], process=process, lower=True)
    assert found.state["levels"][0] <= lesson.top
    *_, last = learn_plan(lesson, found.state["levels"].tolist(), change=found.state["change"], lower=True,
                          iterations=0, process=process)
    steps = steps_of_table(table_in(last.state), 0.0)
    assert score_of(lesson.errors(steps, lesson.training)).median == pytest.approx(last.losses[0], rel=1e-9)


def moved_by(student, numbers, places, reach):
    return [student.table(plans._moved(numbers, [place], [reach])) for place in places]


@BOTH
@pytest.mark.parametrize("free", FREE)
def test_slopes_are_those_of_central_differences(process, free, monkeypatch):
    monkeypatch.setattr(plans, "FLOOR", 0.0)
    lesson, items = guided_lesson(process, plan_unipc, count=6, held=2), [0, 1, 2]
    student = PlanLesson(lesson, simple(process, 5), process=process, whole=free in FREE[3:], guided=free == GUIDED)
    places = student.free_places(free)
    squares = student.slopes(student.numbers, moved_by(student, student.numbers, places, 1e-7), 1e-7, items)
    assert len(places) == {"levels": 4, "coefficients": 10, "levels+coefficients": 14, "all": 24, GUIDED: 39}[free]
    for i, place in enumerate(places):
        def loss(reach, place=place):
            return student.errors(plans._moved(student.numbers, [place], [reach]), items).log().mean().item()

        slope = (8.0 * (loss(1e-4) - loss(-1e-4)) - (loss(2e-4) - loss(-2e-4))) / 12e-4
        assert squares[i, -1].item() / (3 * 16) == pytest.approx(slope, rel=1e-4, abs=1e-6)
    assert torch.allclose(squares, squares.T) and torch.linalg.eigvalsh(squares).min() > -1e-6 * squares.max()


@BOTH
@pytest.mark.parametrize("free", [FREE[0], *FREE[3:]])
def test_a_run_takes_over_the_calls_before_the_first_number_that_differs(process, free):
    lesson, items = guided_lesson(process, plan_unipc, count=6, held=2), [0, 1, 2, 3]
    student = PlanLesson(lesson, simple(process, 5), process=process, whole=free in FREE[3:], guided=free == GUIDED)
    base = student.walk(student.table(student.numbers), items)
    fewer = set()
    for table in moved_by(student, student.numbers, student.free_places(free), 0.1):
        before = lesson.calls
        end = student.walk(table, items, base).end
        fewer.add((lesson.calls - before) // 4)
        assert torch.equal(end, student.walk(table, items).end)
        assert free == GUIDED or not torch.equal(end, base.end)  # guidance ends where one class is left
    assert fewer == {0, 1, 2, 3, 4}  # none for the last row, and never the first call


@BOTH
def test_learning_gains_on_noises_it_has_not_seen(process):
    lesson = lesson_of(process, plan_unipc)
    start = simple(process, 5)
    base = lesson.score(start)
    *_, levels = learn_plan(lesson, start, free="levels", process=process)
    *_, both = learn_plan(lesson, start, process=process)
    found = {}
    for name, state in (("levels", levels.state), ("both", both.state)):
        learned = LearnedPlan(table_in(state), tuple(state["sigmas"].tolist()), {})
        steps = plan_learned(list(learned.sigmas), learned=learned, process=process)
        assert len(steps) == 5
        found[name] = [score_of(lesson.errors(steps, where)) for where in (lesson.judging, lesson.training)]
    assert found["levels"][0].median < 0.6 * base.median
    assert found["both"][0].median < 0.3 * base.median
    assert found["both"][0].median < 1.5 * found["both"][1].median  # what it learned from is hardly better


@BOTH
@pytest.mark.parametrize("plan", [plan_exponential_adams, plan_unipc])
def test_fitted_coefficients_gain_and_sum_to_nothing(process, plan):
    lesson = lesson_of(process, plan)
    levels = classic_sigmas("exponential" if process is VE else "beta", LEVELS[process], 6).tolist()
    steps, change = FittedLevels(lesson, levels[0], levels[-2], process=process).fitted(levels)
    assert change.sum(1).abs().max() < 1e-10 and not change.triu().any()
    assert score_of(lesson.errors(steps, lesson.judging)).median < 0.3 * lesson.score(levels).median


def test_what_an_accurate_run_knows_already_is_not_changed():
    """On a constant denoiser every plan is exact, so that nothing is left to fit."""
    picture = torch.linspace(-1.0, 1.0, 16, dtype=torch.float64).expand(12, 16)
    lesson = Lesson(lambda x, sigma: picture[:len(x)].clone(), noises(VE, 12), picture, plan_unipc, held=2)
    levels = simple(VE, 5)
    assert FittedLevels(lesson, levels[0], levels[-2]).fitted(levels)[1].abs().max() < 1e-6


def test_an_interrupted_learning_goes_on_to_the_same_numbers():
    lesson, start = lesson_of(VE, plan_unipc, count=24, held=8), simple(VE, 5)
    options = {"iterations": 6, "minibatch": 5}
    *_, whole = learn_plan(lesson, start, **options)
    states = [progress.state for progress in learn_plan(lesson, start, **options)]
    assert len(whole.state["losses"]) > 3
    for stop in (0, 6, len(states) - 2):
        *_, resumed = learn_plan(lesson, start, **options, state=states[stop])
        for name in ("theta", "change", "losses", "sigmas", "d"):
            assert torch.equal(resumed.state[name], whole.state[name]), (stop, name)


def test_no_iteration_ends_farther_off_and_the_last_is_what_is_kept():
    lesson = lesson_of(VE, plan_exponential_adams, count=24, held=8)
    losses = []
    for progress in learn_plan(lesson, simple(VE, 5), iterations=20):
        losses.append(float(progress.state["loss"]))
    assert all(b <= a for a, b in zip(losses, losses[1:])) and losses[-1] < losses[0] - 1.0
    student = PlanLesson(lesson, simple(VE, 5))
    numbers = Numbers(*(progress.state[name] for name in Numbers._fields))
    errors = student.errors(numbers, training_items(lesson))
    assert float((errors + plans.FLOOR).log().mean()) == pytest.approx(losses[-1], rel=1e-12)
    assert score_of(errors).median == pytest.approx(progress.losses[-1], rel=1e-12)
    assert torch.equal(student.table(numbers).d, progress.state["d"])


@BOTH
def test_a_third_of_the_noises_tells_at_first_where_the_ends_go(process, monkeypatch):
    asked, slopes, found = [], PlanLesson.slopes, {}
    monkeypatch.setattr(PlanLesson, "slopes", lambda self, *args: [asked.append(args[-2:]), slopes(self, *args)][1])
    for share in (3, 1):
        monkeypatch.setattr(plans, "STAGES", ((0.05, share), (0.01, 1)))
        lesson = lesson_of(process, plan_unipc)
        asked.clear()
        *_, last = learn_plan(lesson, simple(process, 5), iterations=6, minibatch=64, process=process)
        found[share] = lesson.calls
        assert last.state["losses"][-1] < 0.4 * last.state["losses"][0]
        first = [items for reach, items in asked if reach == 0.05]
        assert {len(items) for items in first} == {48 // share} and len(first) >= 3
        assert sorted(item for items in first[:share] for item in items) == list(range(48))
        assert all(items == list(range(48)) for reach, items in asked if reach == 0.01)
    assert found[3] < 0.7 * found[1]


def test_short_minutes_take_fewer_noises_and_end_in_time():
    lesson, slow = lesson_of(VE, plan_exponential_adams, count=60, held=20), lambda x, sigma: [
        time.sleep(2e-4 * len(x)), gmm.denoise(x, sigma)][1]
    lesson.model, begun = slow, time.monotonic()
    *_, last = learn_plan(lesson, simple(VE, 5), minutes=1.5 / 60.0, minibatch=5)
    assert time.monotonic() - begun < 3.0 and len(last.state["losses"]) > 2
    student = PlanLesson(lesson, simple(VE, 5))
    places = student.free_places("levels")
    few, many = (plans._most(student, student.numbers, places, list(range(5)), seconds) for seconds in (0.02, 1.0))
    assert few == plans.FEWEST and 60 < many < 600


def test_memory_hangs_on_the_minibatch_and_nothing_else_does():
    lesson, found = lesson_of(FLOW, plan_unipc, count=24, held=8), []
    for minibatch in (3, 64):
        *_, last = learn_plan(lesson, simple(FLOW, 5), iterations=3, minibatch=minibatch, process=FLOW)
        found.append(last.state["d"])
    assert (found[0] - found[1]).abs().max() < 1e-6


def test_what_is_learned_needs_noises_to_learn_from():
    lesson = lesson_of(VE, plan_unipc, count=6, held=5)
    with pytest.raises(ValueError, match="at least 2 noises that are not held back, got 1"):
        next(learn_plan(lesson, simple(VE, 5)))
    with pytest.raises(ValueError, match="free must be one of"):
        PlanLesson(lesson, simple(VE, 5)).free_places("everything")
    with pytest.raises(ValueError, match="others to be judged on, got 6 held back of 6"):
        Lesson(gmm.denoise, lesson.x, lesson.targets, lesson.plan, held=6)
    noisy = Lesson(gmm.denoise, lesson.x, lesson.targets, lambda sigmas: plan_exponential_adams(sigmas, eta=1.0),
                   held=2)
    with pytest.raises(ValueError, match="set its eta to 0"):
        noisy.score(simple(VE, 5))
