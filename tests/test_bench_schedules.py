"""The table of schedules: every optimizer has its row, learned ones are ahead, what was measured is not done again."""
import json

import pytest

from odeon.bench import schedules
from odeon.bench.schedules import Job, Row, best_places, best_stock, fit_of, measure_job
from odeon.bench.schedules_page import cells_of, frechet_lines, plotted
from odeon.bench.schedules_problems import frechet_of, problem
from odeon.bench.schedules_searches import BY_SOLVER, EULER_ONLY, SHARED
from odeon.samplers.ddim import plan_ddim
from odeon.samplers.table import table_of
from odeon.schedules.classic import classic_sigmas
from odeon.schedules.optimize.fitted_levels import FittedLevels
from odeon.schedules.optimize.teacher import Score

SOLVERS = ("UniPC 3", "Euler")


@pytest.fixture(scope="module")
def rows():
    on = problem("exact-ve")
    few = on._replace(x=on.x[:24], held=8)
    targets, error = few.targets()
    assert error < 1e-4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedules, "problem", lambda name: few)
        fit = fit_of(Job("exact-ve", 5, "", targets))
        return [row for solver in ("", *SOLVERS)
                for row in measure_job(Job("exact-ve", 5, solver, targets, fit, quick=True))]


@pytest.mark.parametrize("name", ["exact-ve", "exact-flow"])
def test_fitted_coefficients_are_the_same_for_every_solver(name):
    on = problem(name)
    on = on._replace(x=on.x[:24], held=8)
    lessons = [on.lesson(lambda sigmas, plan=plan: plan(sigmas, on), on.targets()[0])
               for plan in schedules.SOLVERS.values()]
    levels = classic_sigmas("simple", on.levels, 5).tolist()
    tables = []
    for lesson in lessons:
        change = FittedLevels(lesson, on.top, levels[-2], process=on.process).fitted(levels)[1]
        tables.append(table_of(lesson.plan(levels))._replace(d=table_of(lesson.plan(levels)).d + change))
    for table in tables[1:]:
        assert (table.d - tables[0].d).abs().max() < 1e-3 and (table.x - tables[0].x).abs().max() < 1e-12


def test_every_optimizer_has_a_row_for_every_solver(rows):
    found = {(row.schedule, row.solver) for row in rows}
    for solver in SOLVERS:
        for name in ("karras", "AYS table", "GITS table", *SHARED, *BY_SOLVER, *schedules.LEARNED):
            assert (name, solver) in found
    assert {(name, "Euler") for name in EULER_ONLY} <= found
    assert all(row.seconds > 0.0 for row in rows if row.kind in ("search", "learned"))


def test_learned_plans_are_ahead_on_noises_that_nothing_was_learned_from(rows):
    best = best_stock(rows, "exact-ve", 5)
    plans = [row for row in rows if row.schedule == "learned plan"]
    assert max(row.score.median for row in plans) < 0.5 * best.score.median
    lines = cells_of(rows, "exact-ve", 5, best.score.median)
    assert lines[-1][0] == "TimeTuner" and any("x)" in cell for cell in lines[-2])
    assert plotted(rows)["exact-ve"]["learned plan"] == [(5, min(row.score.median for row in plans))]
    assert plotted(rows)["exact-ve"]["best stock"] == [(5, best.score.median)]


def test_the_frechet_distance_is_of_the_best_of_each_kind():
    made = [Row("p", 5, "Euler", "a", "stock", Score(2.0, 2.0)), Row("p", 5, "Euler", "b", "stock", Score(1.0, 9.0)),
            Row("p", 5, "Euler", "learned plan", "learned", Score(0.5, 0.5), 3.0, None, 0.25)]
    assert best_places(made) == [1, 2]
    assert frechet_lines(made, "p", 5) == ["Frechet distance: Euler, learned plan 0.25."]
    on = problem("shapes-dit@1")
    far, near = (frechet_of(plan_ddim(classic_sigmas("simple", on.levels, steps).tolist(), process=on.process),
                            None, "shapes-dit@1", 32) for steps in (1, 6))
    assert near < far


def test_what_was_measured_is_not_measured_again(rows, tmp_path, monkeypatch):
    job = Job("exact-ve", 5, "Euler", None)
    schedules._file_of(job, tmp_path).write_text(json.dumps(rows))
    monkeypatch.setattr(schedules, "measure_job", None)
    found = schedules._kept_job(job, tmp_path)
    assert [row._replace(run=None) for row in found] == [row._replace(run=None) for row in rows]
    for row in found:
        if row.schedule in schedules.LEARNED or row.kind == "stock":
            steps, told = schedules._steps_of(row.run)
            assert len(steps) == 5 and (told is not None) == (row.schedule == "learned plan, told levels too")


def test_the_best_are_judged_once_all_solvers_were_measured(tmp_path, monkeypatch):
    on = problem("shapes-dit@1")
    plan = plan_ddim(classic_sigmas("simple", on.levels, 2).tolist(), process=on.process)
    made = [Row("shapes-dit@1", 2, solver, "simple", "stock", Score(1.0 + i, 1.0), 0.0, schedules._way(table_of(plan)))
            for i, solver in enumerate((*schedules.SOLVERS, *schedules.STOCK))]
    assert schedules._kept_judged(made[:-1], True, tmp_path) == made[:-1] and not list(tmp_path.iterdir())
    judged = schedules._kept_judged(made, True, tmp_path)
    assert judged[0].frechet == pytest.approx(frechet_of(plan, None, "shapes-dit@1", 32), rel=1e-3)
    assert [row.frechet for row in judged[1:]] == [None] * (len(made) - 1)
    monkeypatch.setattr(schedules, "frechet_of", None)
    assert schedules._kept_judged(made, True, tmp_path) == judged
