"""Error to the converged solution by NFE: our solvers, ComfyUI's samplers and diffusers' schedulers, side by side."""
import json
import os
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import count as counter
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import NODE_CLASS_MAPPINGS
from ..host.common import clock_of, planned
from ..host.server import find_comfyui, interpreter_of
from ..models.levels import DiscreteLevels
from ..samplers.clock import Clock
from ..samplers.linear import Step
from ..samplers.process import VE, Process
from . import solvers_diffusers
from .solvers_fitted import RUNS
from .solvers_orders import end_of, order_of
from .solvers_problems import Problem, problem, rms, solve
from .solvers_rows import (
    ADAPTIVE,
    ADAPTIVE_STEPS,
    DIFFERENT,
    DIFFUSERS,
    ELSEWHERE,
    FITTED,
    NFES,
    ROWS,
    WORSE,
    Row,
)

SCRIPT = Path(__file__).parent / "solvers_comfyui.py"


class Figure(NamedTuple):
    """A run: its error, the median over the starts, and the model calls it took."""
    error: float
    calls: int


class Found(NamedTuple):
    """What was measured on one problem: {name: {NFE: Figure}} of every source, NFE 0 where a sampler chose it. The
    converged solution: how far it moves when its steps are halved, and the root mean square of its numbers.
    elsewhere: {(sampler of ComfyUI, scheduler): its and our figures on those levels}."""
    problem: Problem
    reference_error: float
    reference_rms: float
    ours: dict[str, dict[int, Figure]]
    comfyui: dict[str, dict[int, Figure]]
    diffusers: dict[str, dict[int, Figure]]
    elsewhere: dict[tuple[str, str], tuple[dict[int, Figure], dict[int, Figure]]] = {}

    def theirs(self, name: str) -> tuple[str, dict[int, Figure]]:
        """The source and figures of a namesake; none where its source is not installed or can't do this model."""
        source, figures = ("diffusers", self.diffusers) if name in DIFFUSERS else ("ComfyUI", self.comfyui)
        return source, figures.get(name, {})


def steps_of(row: Row, sigmas: list[float], process: Process, clock: Clock) -> list[Step] | None:
    """The plan of a row; None where the method is not for this process."""
    node = NODE_CLASS_MAPPINGS[row.node]
    plan = NODE_CLASS_MAPPINGS[row.inner].PLAN if row.inner else node.PLAN
    if process.name in row.not_for:
        return None
    steps = planned(plan, sigmas, process=process, clock=clock, **row.options)
    return node.WRAP(steps, process=process, **row.wrap) if row.inner else steps


def calls_of(steps: list[Step]) -> int:
    return sum(1 + len(step.stages) for step in steps)


def levels_of(row: Row, sigmas: list[float]) -> list[float]:
    """The SIGMAS of a row: these, or with another end."""
    *above, _ = sigmas
    if row.end == "noise":
        count, (top, bottom) = len(above), (above[0], above[-1])
        return [top * (bottom / top) ** (i / count) for i in range(count)] + [bottom] if count > 1 else sigmas
    return [*above, 0.001] if row.end == "0.001" else sigmas


def largest_plan(row: Row, on: Problem, nfe: int) -> list[Step] | None:
    """The plan on the finest schedule that costs no more than nfe calls."""
    for count in range(nfe, 0, -1):
        steps = steps_of(row, levels_of(row, on.sigmas(count)), on.process, on.clock)
        if steps is None or calls_of(steps) <= nfe:
            return steps
    raise ValueError(f"{row.name} can't do a single step in {nfe} model calls")


def measure_row(row: Row, on: Problem, target: Tensor, *, nfes=NFES, done: dict | None = None) -> dict[int, Figure]:
    """Figures of one of our rows by NFE. done: errors of plans by their numbers, so that equal plans run once."""
    figures, done = {}, {} if done is None else done
    for nfe in nfes:
        steps = largest_plan(row, on, nfe)
        if steps is None:
            return {}
        key = _numbers(steps)
        if key not in done:
            done[key] = _error(solve(on.denoise, on.start, steps), target)
        figures[nfe] = Figure(done[key], calls_of(steps))
    return figures


def _numbers(value) -> object:
    """A plan with its numbers to nine digits, as a key."""
    if isinstance(value, float):
        return f"{value:.8e}"
    return tuple(map(_numbers, value)) if isinstance(value, (tuple, list)) else value


def _error(x: Tensor, target: Tensor) -> float:
    return rms(x.double() - target.double()).quantile(0.5).item()


@torch.inference_mode()
def measure_adaptive(row: Row, on: Problem, target: Tensor) -> dict[int, Figure]:
    """The one figure of a row that chooses its own steps."""
    calls = counter()

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        next(calls)
        return on.denoise(x, sigma)

    x = NODE_CLASS_MAPPINGS[row.node].SAMPLE(denoise, on.start, on.sigmas(ADAPTIVE_STEPS), process=on.process,
                                             **row.options)
    return {0: Figure(_error(x, target), next(calls))}


@torch.inference_mode()
def measure_fitted(row: Row, on: Problem, target: Tensor) -> dict[int, Figure]:
    """Figures of a row with numbers measured on the model; the calls that took are not counted."""
    return {nfe: Figure(_error(RUNS[row.name](on, on.sigmas(nfe)), target), nfe) for nfe in NFES}


def measure_diffusers(name: str, on: Problem, target: Tensor) -> dict[int, Figure]:
    """Figures of a scheduler by NFE; none where it can't do this model."""
    form = solvers_diffusers.form_for(on, DIFFUSERS[name])
    runs = {} if form is None else {nfe: solvers_diffusers.run_scheduler(on, form, nfe) for nfe in NFES}
    return {nfe: Figure(_error(x, target), calls) for nfe, (x, calls) in runs.items()}


def run_comfyui(root: Path, job: dict) -> dict:
    """What solvers_comfyui.py saves, run under ComfyUI's own Python."""
    with tempfile.TemporaryDirectory(prefix="odeon-bench-") as folder:
        job_file, out_file = Path(folder) / "job.json", Path(folder) / "out.pt"
        job_file.write_text(json.dumps(job), encoding="utf-8")
        done = subprocess.run([interpreter_of(root), SCRIPT, root, job_file, out_file], capture_output=True, text=True,
                              check=False)
        if done.returncode:
            raise ValueError(f"ComfyUI's samplers failed in {root}: {done.stderr.strip().splitlines()[-1]}")
        return torch.load(out_file, weights_only=True)


class Setting(NamedTuple):
    """What was there, and what is measured once: orders {name: order} on the exact mixture, ComfyUI's samplers that
    change the SIGMAS they are given. Versions are None where a source is not installed."""
    comfyui: str | None
    diffusers: str | None
    orders: dict[str, float]
    comfyui_orders: dict[str, float]
    changes_sigmas: list[str]


def measure(names: list[str], *, count: int) -> tuple[list[Found], Setting]:
    """Every row on every problem of names, on as many threads as there are processors."""
    problems, root, threads = [problem(name, count) for name in names], find_comfyui(), torch.get_num_threads()
    torch.set_num_threads(1)
    with ThreadPoolExecutor(os.cpu_count()) as pool, tqdm(total=0, desc="rows", unit="row") as progress:
        def submit(function, *args, **more):
            progress.total += 1
            task = pool.submit(function, *args, **more)
            task.add_done_callback(lambda _: progress.update())
            return task

        jobs = [submit(run_comfyui, root, {"problem": name, "count": count, "nfes": NFES, "orders": i == 0})
                for i, name in enumerate(names) if root]
        references = [submit(on.reference) for on in problems]
        orders = {row.name: submit(order_of_row, row) for row in ROWS}
        tasks = [_submit_rows(submit, on, reference.result()[0]) for on, reference in zip(problems, references)]
        found = [_found(on, reference.result(), job, *submitted) for on, reference, job, submitted
                 in zip(problems, references, jobs or [None] * len(names), tasks)]
    torch.set_num_threads(threads)
    return found, _setting([job.result() for job in jobs], {name: task.result() for name, task in orders.items()})


def _submit_rows(submit, on: Problem, target: Tensor) -> tuple[dict, dict, dict]:
    done = {}
    ours = {row.name: submit(measure_row, row, on, target, done=done) for row in ROWS}
    ours |= {row.name: submit(measure_fitted, row, on, target) for row in FITTED}
    ours |= {row.name: submit(measure_adaptive, row, on, target) for row in ADAPTIVE}
    known = DIFFUSERS if solvers_diffusers.version() else {}
    beside = {theirs: row for theirs, name, _ in DIFFERENT for row in ROWS if row.name == name}
    elsewhere = {(theirs, scheduler): submit(measure_row, beside[theirs], on._replace(scheduler=scheduler), target)
                 for theirs, schedulers in ELSEWHERE.items() if on.name.startswith("exact") for scheduler in schedulers}
    return ours, {name: submit(measure_diffusers, name, on, target) for name in known}, elsewhere


def _found(on: Problem, reference: tuple[Tensor, float], job, ours: dict, others: dict, elsewhere: dict) -> Found:
    def figures(by_nfe: dict) -> dict[int, Figure]:
        return {nfe: Figure(_error(run["x"], reference[0]), run["calls"]) for nfe, run in by_nfe.items()}

    theirs = job.result() if job else {"runs": {}, "elsewhere": {}}
    comfyui = {name: figures(by_nfe) for name, by_nfe in theirs["runs"].items()}
    both = {key: (figures(by_nfe), elsewhere[key].result()) for key, by_nfe in theirs["elsewhere"].items()}
    size = rms(reference[0]).mean().item()
    return Found(on, reference[1], size, {name: task.result() for name, task in ours.items()}, comfyui,
                 {name: task.result() for name, task in others.items()}, both)


def _setting(jobs: list[dict], orders: dict[str, float]) -> Setting:
    changed = {name for job in jobs for name, by_nfe in job["runs"].items()
               if any(run["sigmas_changed"] for run in by_nfe.values())}
    theirs = {name: order_of(*both) for name, both in jobs[0]["ends"].items()} if jobs else {}
    return Setting(jobs[0]["version"] if jobs else None, solvers_diffusers.version(), orders, theirs, sorted(changed))


def order_of_row(row: Row) -> float:
    """The order of convergence of one of our rows on the exact mixture, VE."""
    clock = clock_of(VE, DiscreteLevels().sigmas)
    return order_of(*(end_of(lambda denoise, x, sigmas: solve(denoise, x, steps_of(row, sigmas, VE, clock)), part)
                      for part in (0, 1)))


class Pair(NamedTuple):
    """Ours against a namesake at one NFE of a problem."""
    problem: Problem
    ours: str
    theirs: str
    nfe: int
    errors: tuple[float, float]

    @property
    def excess(self) -> float:
        """By how much ours is worse; below 0 it is better."""
        return self.errors[0] / self.errors[1] - 1.0


def pairs(found: list[Found]) -> list[Pair]:
    """Every row of ours against each namesake, at every NFE."""
    made = []
    for one in found:
        for row in ROWS:
            for name in row.same:
                source, figures = one.theirs(name)
                made += [Pair(one.problem, row.name, f"{source} {name}", nfe, (figure.error, other.error))
                         for nfe, figure in one.ours[row.name].items() if (other := figures.get(nfe))]
    return made


def worse(found: list[Found]) -> list[Pair]:
    """Pairs in which ours is worse by more than WORSE."""
    return [pair for pair in pairs(found) if not pair.excess <= WORSE]
