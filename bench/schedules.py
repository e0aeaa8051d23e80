"""Distance to an accurate run by schedule, solver and steps: ComfyUI's schedulers, tables, and what we learn."""
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
from ..samplers.pndm import plan_pndm
from ..samplers.process import FLOW
from ..samplers.table import steps_of_table
from ..samplers.unipc import plan_unipc
from ..schedules.align_your_steps import align_your_steps_sigmas
from ..schedules.classic import SCHEDULERS, classic_sigmas
from ..schedules.gits_table import gits_sigmas
from ..schedules.optimize.plan import told_model
from ..schedules.optimize.steps import FEW, Search, same_start, search_lesson, table_in
from ..schedules.optimize.teacher import Lesson, Score, score_of
from .schedules_problems import Problem, frechet_of, problem
from .schedules_searches import BY_SOLVER, EULER_ONLY, SHARED

STEPS = (5, 7, 10)
LEARNED = {"learned levels": "levels", "learned plan": "levels+coefficients",  # and what is free
           "learned plan, told levels too": "all"}
SEARCHED = ("few", "judged", "fitted", "fit_loss", "fitted_change")  # of a plan's search, that others go on from
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
ITERATIONS = {"exact": (200, 400, 400), "shapes": (20, 40, 40)}  # of each of LEARNED
MINIBATCH = {"exact": 64, "shapes": 12}


class Row(NamedTuple):
    """One figure. kind: 'stock', 'table', 'search' or 'learned'; seconds: what finding it took; frechet: how far
    the judge's features of pictures so made are from true ones', of the best rows on a Shapes model."""
    problem: str
    steps: int
    solver: str
    schedule: str
    kind: str
    score: Score
    seconds: float = 0.0
    frechet: float | None = None


class Job(NamedTuple):
    """A problem at a number of steps, with the teacher's ends; quick: few iterations, for a test."""
    problem: str
    steps: int
    targets: Tensor
    quick: bool = False


def measure(names: list[str], *, steps=STEPS, quick: bool = False, workers: int = 0, folder: Path | None = None,
            kept: bool = False) -> tuple[list[Row], dict[str, float]]:
    """Every row on every problem, a process for each processor; and the teacher's own error by problem.

    folder: keeps what was measured, a file a problem and number of steps; what is there isn't measured again. kept:
    only what is there already."""
    with ProcessPoolExecutor(workers or os.cpu_count(), mp_context=get_context("spawn")) as pool:
        wanted = [(name, count) for count in steps for name in names
                  if not kept or _file_of(Job(name, count, None, quick), folder).is_file()]
        names = [name for name in names if name in {name for name, _ in wanted}]
        teachers = {name: pool.submit(_taught, name, folder) for name in names}
        jobs = [pool.submit(_kept_job, Job(name, count, teachers[name].result()[0], quick), folder)
                for name, count in wanted]
        done = [job.result() for job in tqdm(as_completed(jobs), total=len(jobs), desc="problems by steps")]
    rows = [row for found in done for row in found]
    order = {name: i for i, name in enumerate(names)}
    rows.sort(key=lambda row: (order[row.problem], row.steps))
    return rows, {name: task.result()[1] for name, task in teachers.items()}


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
    return folder / f"{job.problem}-{job.steps}{'-quick' * job.quick}.json"


def _kept_job(job: Job, folder: Path | None) -> list[Row]:
    file = folder and _file_of(job, folder)
    if file and file.is_file():
        return [Row(*fields[:5], Score(*fields[5]), *fields[6:]) for fields in json.loads(file.read_text())]
    rows = measure_job(job)
    if file:
        file.write_text(json.dumps(rows))
    return rows


def measure_job(job: Job) -> list[Row]:
    """All rows of a problem at a number of steps."""
    torch.set_num_threads(1)
    on = problem(job.problem)
    plans = {name: (lambda sigmas, solver=solver: solver(sigmas, on)) for name, solver in {**SOLVERS, **STOCK}.items()}
    fixed = {name: ("stock", levels, 0.0) for name, levels in stock_levels(on, job.steps).items()}
    fixed |= {name: ("table", levels, 0.0) for name, levels in table_levels(on, job.steps).items()}
    shared = {name: ("search", *timed(lambda search=search: search(on, job.steps, job.targets)))
              for name, search in SHARED.items()}
    rows, ways = [], []
    for solver, plan in plans.items():
        lesson = on.lesson(plan, job.targets)
        for schedule, (kind, levels, seconds) in {**fixed, **(shared if solver in SOLVERS else {})}.items():
            if solver in SOLVERS or kind == "stock":
                rows.append(Row(job.problem, job.steps, solver, schedule, kind, lesson.score(levels), seconds))
                ways.append((plan(levels), None))
        for name, score, seconds, way in learned(lesson, on, job, fixed, solver=solver) if solver in SOLVERS else ():
            rows.append(Row(job.problem, job.steps, solver, name, "learned", score, seconds))
            ways.append(way)
    if not job.problem.startswith("exact"):
        for i in best_places(rows):
            rows[i] = rows[i]._replace(frechet=frechet_of(*ways[i], job.problem, 32 if job.quick else PICTURES))
    return rows


def best_places(rows: list[Row]) -> list[int]:
    """Of the least medians among stock rows and each of LEARNED."""
    groups = {}
    for i, row in enumerate(rows):
        if row.kind == "stock" or row.schedule in LEARNED:
            groups.setdefault(row.kind if row.kind == "stock" else row.schedule, []).append(i)
    return [min(places, key=lambda i: rows[i].score.median) for places in groups.values()]


def stock_levels(on: Problem, steps: int) -> dict[str, list[float]]:
    """ComfyUI's nine schedulers; those that give another number of steps are left out."""
    found = {name: classic_sigmas(name, on.levels, steps).tolist() for name in SCHEDULERS}
    return {name: levels for name, levels in found.items() if len(levels) == steps + 1}


def table_levels(on: Problem, steps: int) -> dict[str, list[float]]:
    """Published tables, which are for VE models."""
    if on.process is FLOW:
        return {}
    return {"AYS table": align_your_steps_sigmas(steps).tolist(), "GITS table": gits_sigmas(steps).tolist()}


def timed(make: Callable):
    begun = time.perf_counter()
    return make(), time.perf_counter() - begun


def learned(lesson: Lesson, on: Problem, job: Job, fixed: dict, *, solver: str
            ) -> Iterator[tuple[str, Score, float, tuple | None]]:
    """(name, score, seconds, the plan and its told levels where it was learned): levels, and plans, learned for the
    lesson's solver from the best fixed schedule on its training noises."""
    kind, few = job.problem.split("-")[0], slice(0, min(FEW, lesson.training.stop))
    families = same_start({name: levels for name, (_, levels, _) in fixed.items()}, on.top)
    start = min(families.values(), key=lambda levels: lesson.score(levels, few).median)
    searched, spent = {}, 0.0
    for (name, free), iterations in zip(LEARNED.items(), ITERATIONS[kind]):
        search = Search(1e6, free, 3 if job.quick else iterations, MINIBATCH[kind])
        state, seconds = timed(lambda search=search, state=searched: [*search_lesson(
            lesson, families, search, process=on.process, state=state)][-1].state)
        steps, told = steps_of_table(table_in(state)), state["told"] if free == "all" else None
        score = score_of(lesson.errors(steps, lesson.judging, change=told is not None and (
            lambda model, told=told: told_model(model, told)) or None))
        yield name, score, seconds + (spent if free == "all" else 0.0), (steps, told)
        if free == "levels+coefficients":
            searched, spent = {key: state[key] for key in SEARCHED if key in state}, seconds
    for name, search in BY_SOLVER.items():
        levels, seconds = timed(lambda search=search: search(lesson, on, job.steps, start))
        yield name, lesson.score(levels), seconds, None
    for name, search in EULER_ONLY.items() if solver == "Euler" else ():
        yield name, *timed(lambda search=search: search(lesson, on, job.steps, start)), None


def best_stock(rows: list[Row], name: str, steps: int) -> Row:
    """The least median of all stock samplers and schedulers."""
    return min((row for row in rows if row.problem == name and row.steps == steps and row.kind == "stock"),
               key=lambda row: row.score.median)
