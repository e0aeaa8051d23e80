"""The table of schedules: every optimizer has its row, learned ones are ahead, what was measured is not done again."""
import json

import pytest
import torch

from odeon.bench import schedules, schedules_page, schedules_problems
from odeon.bench.schedules import Job, Row, best_places, best_stock, fit_of, measure_job
from odeon.bench.schedules_page import cells_of, frechet_lines, plotted
from odeon.bench.schedules_problems import frechet_of, problem, shapes_problem
from odeon.bench.schedules_searches import BY_SOLVER, EULER_ONLY, SHARED
from odeon.samplers.ddim import plan_ddim
from odeon.samplers.table import table_of
from odeon.schedules.classic import classic_sigmas
from odeon.schedules.optimize import fitted_levels
from odeon.schedules.optimize.fitted_levels import FittedLevels
from odeon.schedules.optimize.plan import FREE, GUIDED
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
        fits = {False: fit_of(Job("exact-ve", 5, "", targets))}
        return [row for solver in ("", *SOLVERS)
                for row in measure_job(Job("exact-ve", 5, solver, targets, fits, quick=True))]


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
            assert ((name, solver) in found) == (schedules.LEARNED.get(name) != GUIDED)
    assert {(name, "Euler") for name in EULER_ONLY} <= found
    assert all(row.seconds > 0.0 for row in rows if row.kind in ("search", "learned"))


def test_at_ten_steps_networks_learn_from_fewer_noises_and_are_judged_on_the_same():
    on, places = problem("shapes-dit@1"), torch.arange(72)
    fewer, kept = on.at(10, places)
    assert kept.tolist() == list(range(24, 72)) and torch.equal(fewer.x, on.x[24:])
    one, other = on.lesson(plan_ddim, places), fewer.lesson(plan_ddim, kept)
    assert torch.equal(one.targets[one.judging], other.targets[other.judging]) and len(other.x[other.judging]) == 24
    assert torch.equal(fewer.model.of([46, 47])(on.x[70:], 2.0), on.model.of([70, 71])(on.x[70:], 2.0))
    assert len(on.at(7, places)[0].x) == 72 and len(problem("exact-flow").at(10, torch.arange(256))[1]) == 256


def test_where_there_is_guidance_it_has_numbers_too(tmp_path, monkeypatch):
    on = shapes_problem("shapes-dit", 5.0, 9, 3)
    monkeypatch.setitem(schedules_problems.TEACHER_STEPS, "shapes", 24)
    targets = on.targets()[0]
    monkeypatch.setattr(schedules, "problem", lambda name: on)
    monkeypatch.setattr(schedules, "SHARED", {})
    monkeypatch.setattr(schedules, "BY_SOLVER", {})
    monkeypatch.setattr(schedules_problems, "SCHEDULERS", ("simple",))
    monkeypatch.setattr(fitted_levels, "KNOTS", 12)
    monkeypatch.setattr(schedules, "LEARNED", {"learned plan": FREE[0], "learned plan, whole table": "all"})
    fits = schedules._kept_fits(Job("shapes-dit@5", 2, "", targets, quick=True), tmp_path)
    assert fits[False]["d"].shape == (3, 2) and fits[True]["d"].shape == (3, 4)
    job = Job("shapes-dit@5", 2, "UniPC 3", targets, fits, quick=True)
    found = {row.schedule: row for row in measure_job(job, tmp_path)}
    plan, guided = (found[f"learned plan{more}"] for more in ("", ", whole table"))
    assert guided.score.median < 0.9 * plan.score.median and guided.calls > 0
    assert all(step.guided for step in schedules._steps_of(guided.run))
    only = job._replace(fits=None, only="learned plan, whole table")
    assert [row.score for row in schedules._kept_job(only, tmp_path)] == [guided.score], "it was kept as it ended"
    monkeypatch.setattr(schedules, "fit_of", None)  # they are kept
    alone = measure_job(only._replace(fits=schedules._kept_fits(only, tmp_path)))
    assert [row.score for row in alone] == [guided.score] and alone[0].run == guided.run


def test_learned_plans_are_ahead_on_noises_that_nothing_was_learned_from(rows):
    best = best_stock(rows, "exact-ve", 5)
    plans = [row for row in rows if row.schedule == "learned plan"]
    assert max(row.score.median for row in plans) < 0.5 * best.score.median
    lines = cells_of(rows, "exact-ve", 5)
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
                            "shapes-dit@1", 32) for steps in (1, 6))
    assert near < far


def test_what_is_written_stays_beside_what_comes_later(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(schedules_page, "PAGE", tmp_path / "schedules.md")
    monkeypatch.setattr(schedules_page, "DATA", tmp_path / "schedules.json")
    euler = [row for row in rows if row.solver == "Euler"]
    others = [row for row in rows if row.solver != "Euler"]
    for part in (euler, others, [euler[0]._replace(score=Score(7.5, 8.5))]):
        schedules_page.write(*schedules_page.with_kept(part, {"exact-ve": 1e-6}))
    page = (tmp_path / "schedules.md").read_text()
    assert page.count("## Exact mixture, VE, 5 steps; best stock") == 1 and "7.5 / 8.5" in page
    assert page.index("| karras") < page.index("| GITS table") < page.index("| learned plan ") < page.index("| LD3")
    former = [row._replace(schedule=schedules_page.FORMER[0]) for row in euler if row.schedule == "learned levels"]
    schedules_page.write(*schedules_page.with_kept(former, {}))
    assert former[0].schedule in (tmp_path / "schedules.md").read_text()
    schedules_page.write(*schedules_page.with_kept([row for row in rows if "whole" in row.schedule], {}))
    again, teachers = schedules_page.with_kept([], {})
    assert len(again) == len(rows) and teachers == {"exact-ve": 1e-6}
    assert {(row.solver, row.schedule, row.calls) for row in again} == {
        (row.solver, row.schedule, row.calls) for row in rows}


def test_what_was_measured_is_not_measured_again(rows, tmp_path, monkeypatch):
    job = Job("exact-ve", 5, "Euler", None)
    schedules._file_of(job, tmp_path).write_text(json.dumps(rows))
    monkeypatch.setattr(schedules, "measure_job", None)
    found = schedules._kept_job(job, tmp_path)
    assert [row._replace(run=None) for row in found] == [row._replace(run=None) for row in rows]
    for row in found:
        if row.schedule in schedules.LEARNED or row.kind == "stock":
            assert len(schedules._steps_of(row.run)) == 5


def test_the_best_are_judged_once_all_solvers_were_measured(tmp_path, monkeypatch):
    on = problem("shapes-dit@1")
    plan = plan_ddim(classic_sigmas("simple", on.levels, 2).tolist(), process=on.process)
    made = [Row("shapes-dit@1", 2, solver, "simple", "stock", Score(1.0 + i, 1.0), 0.0, schedules._way(table_of(plan)))
            for i, solver in enumerate((*schedules.SOLVERS, *schedules.STOCK))]
    assert schedules._kept_judged(made[:-1], True, tmp_path) == made[:-1] and not list(tmp_path.iterdir())
    judged = schedules._kept_judged(made, True, tmp_path)
    assert judged[0].frechet == pytest.approx(frechet_of(plan, "shapes-dit@1", 32), rel=1e-3)
    assert [row.frechet for row in judged[1:]] == [None] * (len(made) - 1)
    monkeypatch.setattr(schedules, "frechet_of", None)
    assert schedules._kept_judged(made, True, tmp_path) == judged
