"""Whole tables: shares of the noise, free sums, and coefficients of guidance."""

import pytest
import torch
from lessons import BOTH, guided_lesson, lesson_of, simple

from odeon.measure.kept import load_plan, save_plan
from odeon.samplers.learned import LearnedPlan, plan_learned
from odeon.samplers.linear import run, run_apart
from odeon.samplers.table import run_table, steps_of_table, table_of
from odeon.samplers.unipc import plan_unipc
from odeon.schedules.optimize import plan as plans
from odeon.schedules.optimize.fitted_levels import FittedLevels
from odeon.schedules.optimize.plan import FREE, GUIDED, PlanLesson, learn_plan
from odeon.schedules.optimize.steps import table_in
from odeon.schedules.optimize.teacher import score_of


@BOTH
def test_a_whole_table_is_what_a_network_told_other_levels_would_give(process):
    """Calls whose network is told another level than their input's are among the tables that are learned."""
    lesson = lesson_of(process, plan_unipc, count=6, held=2)
    asked = torch.tensor(simple(process, 5)[:-1], dtype=torch.float64)
    told = asked * torch.tensor([1.0, 1.1, 0.95, 1.2, 0.8], dtype=torch.float64)
    plain, at = table_of(plan_unipc([*asked.tolist(), 0.0], process=process)), iter(zip(asked, told))

    def model(x, sigma):
        level, other = next(at)
        return x - level * (x - lesson.model(x, other)) / other

    expected = run_table(model, lesson.x, plain)
    rows = torch.zeros(6, 6, dtype=torch.float64)  # of the start and of what is predicted at the levels told
    made = []
    for m, own in enumerate(torch.cat([plain.x[:, None], plain.d], 1)):
        rows[m] = own[:1] * torch.eye(6, dtype=torch.float64)[0] + sum(c * one for c, one in zip(own[1:], made))
        if m < 5:
            ratio = asked[m] / told[m]
            made.append((1.0 - ratio) * rows[m] + ratio * torch.eye(6, dtype=torch.float64)[m + 1])
    student = PlanLesson(lesson, [*told.tolist(), 0.0], process=process, whole=True)
    base = student.table(student.numbers)
    shares = torch.cat([(rows[1:-1, 0] / base.x[1:-1]).log(), rows[-1:, 0] / base.x[-2]])
    table = student.table(student.numbers._replace(shares=shares, change=rows[:, 1:] - base.d))
    assert (student.walk(table, list(range(6))).end - expected).abs().max() < 1e-9
    assert (run(lesson.model, lesson.x, steps_of_table(table)) - expected).abs().max() < 1e-9


@BOTH
def test_a_whole_table_ends_nearer(process):
    lesson, found = lesson_of(process, plan_unipc), []
    for free in (FREE[0], "all"):
        *_, last = learn_plan(lesson, simple(process, 5), free=free, process=process)
        found.append((float(last.state["loss"]), score_of(lesson.errors(steps_of_table(table_in(last.state)),
                                                                        lesson.judging)).median))
    assert found[1][0] < found[0][0] - 0.2 and found[1][1] < found[0][1]


@BOTH
def test_what_guidance_made_of_each_prediction_has_numbers_of_its_own(process, tmp_path):
    """With them the same number of calls ends nearer; as a plan, from a file, they run the same."""
    lesson, scores = guided_lesson(process, plan_unipc, count=144, held=48), {}
    *_, plain = learn_plan(lesson, simple(process, 5), process=process)
    wide = torch.stack([plain.state["change"], torch.zeros(6, 5)], -1).flatten(1)
    *_, more = learn_plan(lesson, plain.state["sigmas"].tolist(), change=wide, free=GUIDED, process=process)
    assert more.state["loss"] < plain.state["loss"] - 0.2
    for free, state in ((FREE[0], plain.state), (GUIDED, more.state)):
        save_plan(tmp_path / "plan", LearnedPlan(table_in(state), tuple(state["sigmas"].tolist()), {}))
        learned = load_plan(tmp_path / "plan")
        steps = plan_learned(list(learned.sigmas), learned=learned, process=process)
        assert [step.guided for step in steps] == [free == GUIDED] * 5
        scores[free] = score_of(lesson.errors(steps, lesson.judging))
        ends = run_apart(lesson.model, lesson.x, steps)
        assert (ends - run_table(lesson.model, lesson.x, table_in(state))).abs().max() < 1e-9
    assert scores[GUIDED].median < scores[FREE[0]].median
    with pytest.raises(ValueError, match="reads the prediction without the prompt"):
        run(lesson.model, lesson.x, steps)
    with pytest.raises(ValueError, match="reads the prediction without the prompt"):
        table_of(steps)


@BOTH
def test_fitted_guidance_gains_too(process):
    lesson = guided_lesson(process, plan_unipc, count=96, held=48)
    levels, losses = simple(process, 5), []
    for guided in (False, True):
        judge = FittedLevels(lesson, levels[0], levels[-2], process=process, guided=guided)
        steps, change = judge.fitted(levels)
        assert change[:, ::1 + guided].sum(1).abs().max() < 1e-10 and change.shape == (6, 5 * (1 + guided))
        losses.append(float((lesson.errors(steps, judge.fitting) + plans.FLOOR).log().mean()))
    assert losses[1] < losses[0] - 0.05
