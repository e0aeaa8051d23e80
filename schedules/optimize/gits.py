"""GITS: the levels of a grid whose straight steps leave the bend of an accurate run the least."""
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ...measure.progress import Progress
from ...samplers.dpm_solver_pp import plan_dpm_solver_pp
from ...samplers.linear import Step, run
from ...samplers.pndm import plan_pndm
from ...samplers.process import VE, Process
from .shortest import require_steps
from .straight import chosen, straight_cost, straight_costs
from .teacher import of_items

SOLVERS = ("ipndm", "dpmpp", "euler")
METRICS = ("dev", "l1", "l2")


@torch.no_grad()
def search_gits(model: Callable, x: Tensor, sigmas: list[float], *, steps: int, process: Process = VE,
                metric: str = "dev", coeff: float = 1.15, teacher: str = "ipndm", afs: bool = False,
                student: str = "euler", batch: int = 16, state: dict[str, Tensor] | None = None) -> Iterator[Progress]:
    """steps + 1 levels of `sigmas`, both its ends among them, with the least c_1 + coeff (c_2 + coeff (c_3 + ...)),
    c_n what the n-th straight step misses of the teacher's run over the whole grid, from its own state there.

    x (B, ...) at sigmas[0], B 256 in the paper; model(x, sigma: float) -> denoised. sigmas: the grid, strictly
    decreasing, the last may be 0. metric: 'dev', 'l1' or 'l2' of straight_costs. coeff: weighs later steps more, 0.8 to
    1.5; the published lists take 1.15, for Stable Diffusion 1.2. teacher: 'ipndm' of order 3, 'dpmpp' (2M) or 'euler'.
    afs: one more level, between the first two, where the step to it takes (x - sigma x / size) / alpha for D,
    size^2 = alpha^2 + sigma^2, so that it costs no call: the one by which `student`, one of the same solvers, ends
    nearest to the teacher. Where the first two are neighbours there is none. batch: samples at once.
    The last state has "sigmas" (steps + 1,) float64, with afs mostly one more, "indices" into the grid, "costs"
    (K + 1, K + 1), and "cost" and "uniform_cost", of the levels before afs and of evenly spaced indices, which may be
    negative with 'dev'. Cost: gits_cost.
    Source: Chen et al. 2024, arXiv 2405.11326, section 3.4 and the authors' code; AFS: Dockhorn et al. 2022.
    """
    require_steps(steps, len(sigmas) - 1)
    _check(metric, coeff, student)
    plan, total = solver(teacher, sigmas, process), gits_cost(len(x), len(sigmas) - 1, steps, afs=afs, batch=batch)
    for progress in straight_costs(model, x, plan, metric=metric, batch=batch, state=state):
        yield progress._replace(total=total)
    state, done = progress.state, progress.done
    found = chosen(state["costs"], sigmas, steps, coeff=coeff)
    if not afs:
        yield Progress(done, done, {**state, **found})
        return
    path, misses = found["indices"].tolist(), state.get("misses", torch.zeros(0, dtype=torch.float64)).tolist()
    each = straight_cost(len(x), steps, batch)
    for k in range(1 + len(misses), path[1]):
        levels = [sigmas[i] for i in (0, k, *path[1:])]
        misses.append(_missed(model, x, solver(student, levels, process), state["ends"], process=process, batch=batch))
        state = {**state, "misses": torch.tensor(misses, dtype=torch.float64)}
        yield Progress(done + each * k, done + each * (path[1] - 1), state)
    if misses:
        path.insert(1, 1 + misses.index(min(misses)))
    found |= {"indices": torch.tensor(path), "sigmas": torch.tensor([sigmas[i] for i in path], dtype=torch.float64)}
    done += each * len(misses)
    yield Progress(done, done, {**state, **found})


def gits_cost(samples: int, intervals: int, steps: int, *, afs: bool = False, batch: int = 16) -> int:
    """Model calls of search_gits, each on up to `batch` samples; with afs the most it may take."""
    trials = intervals - steps if afs else 0
    return straight_cost(samples, intervals, batch) + trials * straight_cost(samples, steps, batch)


def _check(metric: str, coeff: float, student: str) -> None:
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    if coeff <= 0.0:
        raise ValueError(f"coeff must be above 0, got {coeff:g}; 1 weighs all steps alike")
    if student not in SOLVERS:
        raise ValueError(f"student must be one of {', '.join(SOLVERS)}, got {student!r}")


def solver(name: str, sigmas: list[float], process: Process) -> list[Step]:
    """The plan of one of SOLVERS."""
    if name not in SOLVERS:
        raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {name!r}")
    if name == "dpmpp":
        return plan_dpm_solver_pp(sigmas, process=process)
    return plan_pndm(sigmas, max_order=3 if name == "ipndm" else 1, process=process)


def _missed(model: Callable, x: Tensor, plan: list[Step], ends: Tensor, *, process: Process, batch: int) -> float:
    """Mean distance to the teacher's ends of a plan whose first model call is spared."""
    first, total = plan[0].sigma, 0.0
    alpha = process.alpha(first)
    share = (1.0 - first / math.hypot(alpha, first)) / alpha if alpha else 0.0
    for start in range(0, len(x), batch):
        items = slice(start, start + batch)
        part = of_items(model, items)
        end = run(lambda x, sigma, part=part: share * x if sigma == first else part(x, sigma), x[items], plan)
        total += (end.cpu().double() - ends[items].double()).flatten(1).norm(dim=1).sum().item()
    return total / len(x)
