"""Levels found by what their fitted coefficients are worth, on the exact mixture."""
import math

import pytest
import torch
from lessons import LEVELS, MODEL, noises

from odeon.measure.dc_ratios import teacher_states
from odeon.samplers.dpm_solver_pp import plan_dpm_solver_pp
from odeon.samplers.process import FLOW, VE
from odeon.schedules.optimize.fitted_levels import (
    FLOOR,
    KNOTS,
    REACH,
    FittedLevels,
    PlainLevels,
    power_starts,
    search_fitted_levels,
    search_levels,
)
from odeon.schedules.optimize.plan import PlanLesson
from odeon.schedules.optimize.steps import STRIDE, Search, search_lesson
from odeon.schedules.optimize.teacher import Lesson, score_of, teach, teacher_levels

BOTH = pytest.mark.parametrize("process", [VE, FLOW], ids=lambda process: process.name)


def lesson_on(process, count=48):
    x, top = noises(process, count), float(LEVELS[process].sigma_max)
    *_, last = teach(MODEL[process], x, [top, 0.0], steps=120, sigma_min=float(LEVELS[process].sigma_min),
                     process=process)
    return Lesson(MODEL[process], x, last.state["targets"], lambda sigmas: plan_dpm_solver_pp(
        sigmas, order=2, process=process), held=count // 3, top=top), top


@BOTH
def test_states_between_the_knots_are_those_of_an_accurate_run(process):
    lesson, top = lesson_on(process)
    judge, wanted = FittedLevels(lesson, top, 0.03, process=process), [top, 0.61 * top, 0.2 * top, 0.071]
    *_, last = teacher_states(judge.model, judge.x, wanted, steps=300, process=process, solver="exponential_adams",
                              lag=0)
    for found, exact in zip(judge.states_at(wanted)[1:], last.state["states"]):
        assert (found - exact).square().mean().sqrt() < 2e-3 * exact.square().mean().sqrt()
    assert len(judge.knots) == KNOTS + 1 and judge.knots[0] == top
    assert judge.distance([top, 0.5 * top, 0.01, 0.0])[0] == math.inf  # below the last knot nothing is known


@BOTH
def test_the_search_ends_far_nearer_than_a_fit_on_any_start(process):
    lesson, top = lesson_on(process)
    families = [teacher_levels([top, 0.0], 5, sigma_min=low, process=process) for low in (0.05, 0.2)]
    judge = FittedLevels(lesson, top, 0.02, process=process)
    *_, last = search_fitted_levels(lesson, [*families, *power_starts(top, 5, process)], process=process)
    steps, _ = judge.fitted(last.state["levels"].tolist())
    held = score_of(lesson.errors(steps, lesson.judging)).median
    fitted = min(score_of(lesson.errors(judge.fitted(levels)[0], lesson.judging)).median for levels in families)
    plain = min(lesson.score(levels).median for levels in families)
    assert held < 0.5 * fitted < 0.5 * plain


@BOTH
def test_a_search_by_trial_makes_shared_calls_once_and_is_where_learning_starts(process):
    lesson, top = lesson_on(process)
    start = teacher_levels([top, 0.0], 5, sigma_min=0.05, process=process)
    judge, calls = PlainLevels(PlanLesson(lesson, start, process=process), 16), []
    *_, last = (calls.append(lesson.calls) or progress for progress in search_levels(
        judge, lesson, [start], process=process, reach=STRIDE, lower=True))
    levels, found = last.state["levels"].tolist(), float(last.state["distance"])
    assert found == pytest.approx(float((lesson.errors(lesson.plan(levels), slice(0, 16)) + FLOOR).log().mean()))
    assert found < judge.distance(start)[0] - 0.5 and levels[0] <= top
    trials = int(last.state["tried"]) - 1
    assert calls[-1] - calls[1] < 0.8 * trials * 16 * 5 and calls[1] - calls[0] == 16 * 5
    *_, whole = search_lesson(lesson, {"start": start}, Search(1e6), process=process)
    assert float(whole.state["heat_loss"]) <= found
    assert judge.distance(whole.state["start"].tolist())[0] <= float(whole.state["heat_loss"]) + 1e-9


def test_a_first_level_above_its_bound_is_not_tried():
    lesson, top = lesson_on(VE, 24)
    start, tried = power_starts(top, 4)[0], []

    class Content:
        """Finds nothing nearer than the start."""
        def distance(self, levels):
            tried.append(levels)
            return float(len(tried)), {}

    *_, last = search_levels(Content(), lesson, [start], reach=2 * REACH[1], lower=True)
    assert last.state["levels"].tolist() == start == tried[0] and all(levels[0] <= top for levels in tried)
    assert int(last.state["tried"]) == 1 + 2 * 8 and len(tried) == 1 + 2 * 7  # two reaches, 4 levels, two ways


def test_a_stopped_search_goes_on_to_the_same_levels():
    lesson, top = lesson_on(VE, 24)
    starts = power_starts(top, 4)
    whole = list(search_fitted_levels(lesson, starts))
    for stop in (3, len(starts) + 2, len(whole) - 2):
        *_, last = search_fitted_levels(lesson, starts, state=whole[stop].state)
        assert torch.equal(last.state["levels"], whole[-1].state["levels"])
    calls = iter(range(10**6))
    *_, short = search_fitted_levels(lesson, starts, until=lambda: next(calls) >= 5)
    assert int(short.state["tried"]) == 5 and short.state["levels"].tolist() in starts


def test_starts_are_schedules_from_the_top():
    for process, top in ((VE, 14.6), (FLOW, 1.0), (VE, 0.25)):
        for steps in (2, 3, 7):
            for levels in power_starts(top, steps, process):
                assert len(levels) == steps + 1 and levels[0] == top and levels[-1] == 0.0
                assert all(a > b for a, b in zip(levels, levels[1:]))
    assert power_starts(14.6, 1) == [] and power_starts(0.01, 5) == []
