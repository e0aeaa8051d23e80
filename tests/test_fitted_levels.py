"""Levels found by what their fitted coefficients are worth, on the exact mixture."""
import math

import pytest
import torch
from lessons import LEVELS, MODEL, noises

from odeon.measure.dc_ratios import teacher_states
from odeon.samplers.dpm_solver_pp import plan_dpm_solver_pp
from odeon.samplers.process import FLOW, VE
from odeon.schedules.optimize.fitted_levels import KNOTS, FittedLevels, power_starts, search_fitted_levels
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
