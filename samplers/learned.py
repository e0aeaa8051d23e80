"""Learned plans: a sampler that is nothing but the numbers an optimizer found, on the levels it found them for."""
import math
from itertools import pairwise
from typing import NamedTuple

from .linear import Step
from .process import VE, Process
from .table import Table, steps_of_table


class LearnedPlan(NamedTuple):
    """A table of numbers, the schedule it was learned on (its last level included), and what it was made for."""
    table: Table
    sigmas: tuple[float, ...]
    about: dict


def plan_learned(sigmas: list[float], *, learned: LearnedPlan, process: Process = VE) -> list[Step]:
    """The steps of a learned plan. NFE: the calls of the plan it was learned from.

    sigmas: those it was learned on, to 1e-4 of each; any others are a ValueError, since its numbers are for them alone.
    Source: Frankel et al. 2025, arXiv 2502.17423, for learned coefficients; own for the rest.
    """
    process.lams(sigmas)
    own = learned.sigmas
    if len(sigmas) != len(own) or not all(math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-7) for a, b in zip(sigmas, own)):
        shown = ", ".join(f"{sigma:.4g}" for sigma in own)
        raise ValueError(f"this plan was learned for the sigmas {shown}, got {len(sigmas)} others; connect the SIGMAS "
                         "that came with it, and leave denoise at 1")
    made = learned.about.get("process", process.name)
    if made != process.name:
        raise ValueError(f"this plan was learned on a {made} model, this one is {process.name}; learn one on it")
    return steps_of_table(learned.table, own[-1])


def require_sound(learned: LearnedPlan) -> None:
    """Raises ValueError for numbers that can't be a solver's: of the wrong shapes, not finite, or out of order."""
    levels, x, d, noise = learned.table
    calls = len(levels)
    if (x.shape != (calls + 1,) or d.shape not in ((calls + 1, calls), (calls + 1, 2 * calls))
            or noise.shape != (calls + 1, 0)):
        raise ValueError(f"a plan of {calls} calls needs {calls + 1} rows of {calls} numbers, or of {2 * calls} with "
                         f"guidance, got {tuple(d.shape)}; the file is damaged, load another")
    each = 1 + learned.table.guided
    later = any(d[:, first::each].triu().any() for first in range(each))
    if not all(part.isfinite().all() for part in (levels, x, d)) or later or not x[:-1].all():
        raise ValueError("the numbers of this plan are no solver's (not finite, or of later predictions); the file is "
                         "damaged or was changed, load another")
    if any(nxt >= sigma for sigma, nxt in pairwise(learned.sigmas)):
        raise ValueError("the levels of this plan do not decrease; the file was changed, load another")
