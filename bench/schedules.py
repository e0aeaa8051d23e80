"""Distance to an accurate run by schedule, solver and steps: ComfyUI's schedulers, tables, and what we learn."""
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..measure.kept import read_tensors, write_tensors
from ..samplers.ddim import plan_ddim
from ..samplers.deis import plan_deis
from ..samplers.dpm_solver_pp import plan_dpm_solver_pp
from ..samplers.exponential_adams import plan_exponential_adams
from ..samplers.linear import Step
from ..samplers.pndm import plan_pndm
from ..samplers.table import Table, steps_of_table, table_of, widened
from ..samplers.unipc import plan_unipc
from ..schedules.optimize.fitted_levels import REACH, power_starts, search_fitted_levels
from ..schedules.optimize.plan import GUIDED
from ..schedules.optimize.steps import FEW, Search, same_start, search_lesson, table_in
from ..schedules.optimize.teacher import Lesson, Score, score_of
from .schedules_problems import Problem, frechet_of, problem, stock_levels, table_levels
from .schedules_searches import BY_SOLVER, EULER_ONLY, SHARED

STEPS = (5, 7, 10)
LEARNED = {"learned levels": "levels", "learned plan": "levels+coefficients",  # and what is free
           "learned plan, whole table": "all"}
PICTURES = 256  # that the Frechet distance is taken of
SOLVERS = {
    "DPM-Solver++ 2M": lambda sigmas, on: plan_dpm_solver_pp(sigmas, order=2, process=on.process),
    "UniPC 3": lambda sigmas, on: plan_unipc(sigmas, order=3, process=on.process),
    "DEIS 3": lambda sigmas, on: plan_deis(sigmas, ab_order=3, process=on.process, clock=on.clock),
    "Euler": lambda sigmas, on: plan_ddim(sigmas, process=on.process),
}
STOCK = {  # ComfyUI's other samplers of one call a step without noise, for "the best of all stock combinations"
    "dpmpp_2m": lambda sigmas, on: plan_dpm_solver_pp(sigmas, order=2, lower_order_below=0, process=on.process),
    "res_multistep": lambda sigmas, on: plan_exponential_adams(sigmas, order=2, process=on.process),
    "ipndm": lambda sigmas, on: plan_pndm(sigmas, variant="iPNDM", process=on.process),
    "uni_pc": lambda sigmas, on: plan_unipc(sigmas, order=3, variant="bh1", process=on.process),
}
ITERATIONS = 400  # of learning at most; it ends by itself long before


class Row(NamedTuple):
    """One figure. kind: 'stock', 'table', 'search' or 'learned'; seconds, calls: what finding it took, calls of one
    picture each; run: levels, x, d of the table of the plan that was run; frechet: how far the judge's features of
    pictures so made are from true ones', of the best rows on a Shapes model."""
    problem: str
    steps: int
    solver: str
    schedule: str
    kind: str
    score: Score
    seconds: float = 0.0
    run: tuple[list, list, list] | None = None
    frechet: float | None = None
    calls: int = 0


class Job(NamedTuple):
    """A solver on a problem at a number of steps, with the teacher's ends; '' is all of STOCK. fits: see _kept_fits;
    quick: few iterations, for a test; only: this one of LEARNED alone."""
    problem: str
    steps: int
    solver: str
    targets: Tensor
    fits: dict[bool, dict[str, Tensor]] | None = None
    quick: bool = False
    only: str = ""

    @property
    def fitted(self) -> tuple:
        """What jobs with the same fits have in common."""
        return self.problem, self.steps, self.only


def measure(names: list[str], *, steps=STEPS, solvers=None, only=(), quick: bool = False, workers: int = 0,
            folder: Path | None = None, kept: bool = False) -> tuple[list[Row], dict[str, float]]:
    """Every row on every problem, a process for each processor; and the teacher's own error by problem.

    solvers: only these of SOLVERS, beside STOCK. only: these of LEARNED alone. folder: keeps what was measured, a file
    a problem, number of steps and solver; what is there isn't measured again. kept: only what is there already."""
    wanted = [Job(name, count, solver, None, None, quick, row) for count in steps for name in names
              for row in only or [""] for solver in (*[""] * (not only), *(solvers or SOLVERS))]
    if kept:
        wanted = [job for job in wanted if _file_of(job, folder).is_file()]
    with ProcessPoolExecutor(workers or os.cpu_count(), mp_context=get_context("spawn")) as pool:
        teachers = {name: pool.submit(_taught, name, folder) for name in dict.fromkeys(job.problem for job in wanted)}
        wanted = [job._replace(targets=teachers[job.problem].result()[0]) for job in wanted]
        fits = {job.fitted: pool.submit(_kept_fits, job, folder) for job in wanted
                if job.solver and not (folder and _file_of(job, folder).is_file())}
        jobs = [pool.submit(_kept_job, job._replace(
            fits=fits[job.fitted].result() if job.solver and job.fitted in fits else None), folder) for job in wanted]
        done = [job.result() for job in tqdm(as_completed(jobs), total=len(jobs), desc="problems by steps and solver")]
        whole = _whole([row for found in done for row in found], list(teachers))
        judged = [pool.submit(_kept_judged, rows, quick, folder) for rows in whole]
        rows = [row for found in tqdm(judged, desc="Frechet distances") for row in found.result()]
    return rows, {name: task.result()[1] for name, task in teachers.items()}


def _whole(rows: list[Row], names: list[str]) -> list[list[Row]]:
    """The rows of each problem and number of steps, solvers in their order."""
    order = ["", *SOLVERS, *STOCK]
    rows = sorted(rows, key=lambda row: (names.index(row.problem), row.steps, order.index(row.solver)))
    return [list(group) for _, group in itertools.groupby(rows, lambda row: (row.problem, row.steps))]


def _taught(name: str, folder: Path | None) -> tuple[Tensor, float]:
    torch.set_num_threads(1)
    file = folder and folder / f"{name}.safetensors"
    if file and file.is_file():
        found, _ = read_tensors(file)
        return found["targets"], float(found["error"])
    with torch.no_grad():
        targets, error = problem(name).targets()
    if file:
        write_tensors(file, {"targets": targets, "error": torch.tensor(error)}, {"problem": name})
    return targets, error


def _file_of(job: Job, folder: Path) -> Path:
    parts = (job.problem, str(job.steps), job.solver or "stock", job.only, "quick" * job.quick)
    return folder / f"{'-'.join(filter(None, parts))}.json"


def _kept_job(job: Job, folder: Path | None) -> list[Row]:
    file = folder and _file_of(job, folder)
    if file and file.is_file():
        return [Row(*fields[:5], Score(*fields[5]), *fields[6:]) for fields in json.loads(file.read_text())]
    rows = measure_job(job, folder)
    if file:
        file.write_text(json.dumps(rows))
    return rows


def free_of(name: str, on: Problem) -> str:
    """What is free in one of LEARNED: where there is guidance, the whole table has coefficients of it too."""
    return GUIDED if LEARNED[name] == "all" and on.guided else LEARNED[name]


def _kept_fits(job: Job, folder: Path | None) -> dict[bool, dict[str, Tensor]]:
    """fit_of() by its `guided`, those that the job needs."""
    found, on = {}, problem(job.problem)
    frees = [free_of(name, on) for name in LEARNED if job.only in ("", name)]
    for guided in sorted({free == GUIDED for free in frees if free != "levels"}):
        kind = f"fit{'-guided' * guided}{'-quick' * job.quick}"
        file = folder and folder / f"{job.problem}-{job.steps}-{kind}.safetensors"
        if file and file.is_file():
            found[guided] = read_tensors(file)[0]
            continue
        found[guided] = fit_of(job, guided=guided)
        if file:
            write_tensors(file, found[guided], {"problem": job.problem, "steps": job.steps})
    return found


def fit_of(job: Job, *, guided: bool = False) -> dict[str, Tensor]:
    """What every learned plan of a problem and number of steps starts from: the "levels" whose fitted plan ends nearest
    and its coefficients "d" (a Table's), the same for every solver of one call a step, whose own are fitted over; and
    its "cost", seconds and calls. guided: with coefficients of what guidance made."""
    torch.set_num_threads(1)
    on, targets = problem(job.problem).at(job.steps, job.targets)
    lesson = on.lesson(lambda sigmas: SOLVERS["Euler"](sigmas, on), targets)
    starts = [*same_start(stock_levels(on, job.steps) | table_levels(on, job.steps), on.top).values(),
              *power_starts(on.top, job.steps, on.process)]
    found, *cost = timed(on, lambda: [*search_fitted_levels(
        lesson, starts[:4] if job.quick else starts, process=on.process, reach=0.0 if job.quick else REACH[0],
        guided=guided, lower=True)][-1].state)
    table = widened(table_of(lesson.plan(found["levels"].tolist())), 1 + guided)
    return {"levels": found["levels"], "d": table.d + found["change"], "cost": torch.tensor(cost, dtype=torch.float64)}


def measure_job(job: Job, folder: Path | None = None) -> list[Row]:
    """All rows of a solver on a problem at a number of steps; folder: each that is learned is kept there as it ends."""
    torch.set_num_threads(1)
    on, targets = problem(job.problem).at(job.steps, job.targets)
    stock, rows = stock_levels(on, job.steps), []
    if not job.solver:
        for name, plan in STOCK.items():
            lesson = on.lesson(lambda sigmas, plan=plan: plan(sigmas, on), targets)
            rows += [_row(job._replace(solver=name), lesson, schedule, levels, "stock")
                     for schedule, levels in stock.items()]
        return rows
    lesson = on.lesson(lambda sigmas: SOLVERS[job.solver](sigmas, on), targets)
    tables = table_levels(on, job.steps)
    if not job.only:
        rows += [_row(job, lesson, name, levels, "stock") for name, levels in stock.items()]
        rows += [_row(job, lesson, name, levels, "table") for name, levels in tables.items()]
    for name, search in () if job.only else SHARED.items():
        levels, *cost = timed(on, lambda search=search: search(on, job.steps, targets))
        rows.append(_row(job, lesson, name, levels, "search")._replace(seconds=cost[0], calls=cost[1]))
    for name in LEARNED:
        if job.only == name:
            rows.append(learned(lesson, on, job, stock | tables))
        elif not job.only:
            rows += _kept_job(job._replace(only=name), folder)
    for name, score, (seconds, calls) in () if job.only else optimized(lesson, on, job, stock | tables):
        rows.append(Row(job.problem, job.steps, job.solver, name, "learned", score, seconds, None, None, calls))
    return rows


def _row(job: Job, lesson: Lesson, schedule: str, levels: list[float], kind: str) -> Row:
    way = _way(table_of(lesson.plan(levels))) if kind == "stock" else None
    return Row(job.problem, job.steps, job.solver, schedule, kind, lesson.score(levels), 0.0, way)


def _way(table: Table) -> tuple[list, list, list]:
    return tuple(part.tolist() for part in table[:3])


def _kept_judged(rows: list[Row], quick: bool, folder: Path | None) -> list[Row]:
    """The rows of one problem and number of steps, the best of them on a Shapes model with their Frechet distances,
    where all solvers have been measured."""
    name, steps, only = rows[0].problem, rows[0].steps, all(row.kind == "learned" for row in rows)
    if name.startswith("exact") or not {*SOLVERS, *(() if only else STOCK)} <= {row.solver for row in rows}:
        return rows
    kinds = "".join(f"-{schedule}" for schedule in dict.fromkeys(row.schedule for row in rows) if only)
    file = folder and folder / f"{name}-{steps}-frechet{kinds}{'-quick' * quick}.json"
    if file and file.is_file():
        found = json.loads(file.read_text())
    else:
        torch.set_num_threads(1)
        found = [[i, frechet_of(_steps_of(rows[i].run), name, 32 if quick else PICTURES)] for i in best_places(rows)]
        if file:
            file.write_text(json.dumps(found))
    rows = list(rows)
    for i, distance in found:
        rows[i] = rows[i]._replace(frechet=distance)
    return rows


def _steps_of(way: tuple) -> list[Step]:
    parts = [torch.tensor(part, dtype=torch.float64) for part in way[:3]]
    return steps_of_table(Table(*parts, torch.zeros(len(parts[1]), 0, dtype=torch.float64)))


def best_places(rows: list[Row]) -> list[int]:
    """Of the least medians among stock rows and each of LEARNED."""
    groups = {}
    for i, row in enumerate(rows):
        if row.kind == "stock" or row.schedule in LEARNED:
            groups.setdefault(row.kind if row.kind == "stock" else row.schedule, []).append(i)
    return [min(places, key=lambda i: rows[i].score.median) for places in groups.values()]


def timed(on: Problem, make: Callable):
    """What make() gives, the seconds it took, and the calls of the problem's model."""
    begun, before = time.perf_counter(), on.model.pictures[0]
    return make(), time.perf_counter() - begun, on.model.pictures[0] - before


def learned(lesson: Lesson, on: Problem, job: Job, fixed: dict[str, list[float]]) -> Row:
    """The row of LEARNED that is job.only: levels, or a plan, learned for the job's solver from the best fixed schedule
    on its training noises."""
    free, families = free_of(job.only, on), same_start(fixed, on.top)
    search, start = Search(1e6, free, 3 if job.quick else ITERATIONS, 64), None
    if free != "levels":
        fit = job.fits[free == GUIDED]
        own = widened(table_of(lesson.plan(fit["levels"].tolist())), 1 + (free == GUIDED))
        start = {"fitted": fit["levels"], "fitted_change": fit["d"] - own.d}
    state, *cost = timed(on, lambda: [*search_lesson(lesson, families, search, process=on.process,
                                                     state=start)][-1].state)
    score = score_of(lesson.errors(steps_of_table(table_in(state)), lesson.judging))
    if free != "levels":
        cost = [one + more for one, more in zip(cost, fit["cost"].tolist())]
    seconds, calls = cost
    return Row(job.problem, job.steps, job.solver, job.only, "learned", score, seconds, _way(table_in(state)), None,
               calls)


def optimized(lesson: Lesson, on: Problem, job: Job, fixed: dict[str, list[float]]
              ) -> Iterator[tuple[str, Score, list[float]]]:
    """(name, score, seconds and calls) of every other optimizer for the job's solver, from the best fixed schedule on
    its first training noises."""
    few, families = slice(0, min(FEW, lesson.training.stop)), same_start(fixed, on.top)
    start = min(families.values(), key=lambda levels: lesson.score(levels, few).median)
    for name, search in BY_SOLVER.items():
        levels, *cost = timed(on, lambda search=search: search(lesson, on, job.steps, start))
        yield name, lesson.score(levels), cost
    for name, search in EULER_ONLY.items() if job.solver == "Euler" else ():
        score, *cost = timed(on, lambda search=search: search(lesson, on, job.steps, start))
        yield name, score, cost


def best_stock(rows: list[Row], name: str, steps: int) -> Row | None:
    """The least median of all stock samplers and schedulers; None where none was measured."""
    return min((row for row in rows if row.problem == name and row.steps == steps and row.kind == "stock"),
               key=lambda row: row.score.median, default=None)
