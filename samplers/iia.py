"""IIA: a solver whose every step also adds a fitted combination of the gradients it has met."""
import math
from collections.abc import Sequence
from typing import NamedTuple

from .dc_solver import require_levels
from .ddim import plan_ddim
from .dpm_solver_pp import plan_dpm_solver_pp
from .edm_heun import plan_edm_heun
from .linear import Step, Update
from .process import VE, Process
from .transfer import eps_of

BASES = ("ddim", "edm", "dpmpp2m")


class IIACoefs(NamedTuple):
    """What plan_iia adds to each step of a base plan.

    weights: a tuple for each step above sigma 0, in the order of `gradients`. sigmas: the levels they were fitted for;
    None fits any schedule of so many steps. about: where they come from, for people; nothing is computed from it.
    """
    base: str
    weights: tuple[tuple[float, ...], ...]
    sigmas: tuple[float, ...] | None = None
    about: dict = {}


def plan_iia(sigmas: list[float], *, iia: IIACoefs, process: Process = VE) -> list[Step]:
    """DDIM, EDM's Heun or DPM-Solver++(2M) with every step above sigma 0 mended: x_next = base + sum_j w_j G_j, the
    G_j of `gradients`. The step to sigma = 0 returns D.

    For DDIM the sum is taken at unit size, as published: z = x / sqrt(1 + sigma^2), w = beta and G the predicted noise,
    so that x gets beta sqrt(1 + sigma_next^2) G. The other bases, and flow models, take x as it is; a flow model's G
    are its velocities. Weights of 0 give the base, to the bit. Steps keep the signal and noise of their levels (the two
    laws of a linear plan) only where what they add is made of differences e - e or D - D; a single beta e breaks them,
    and is the method. NFE that of the base: len(sigmas) - 1, for 'edm' 2 len(sigmas) - 3.
    Source: Zhang et al. 2023, arXiv 2304.11328: IIA-DDIM, IIA-EDM and, with one weight a step, BIIA-EDM,
    IIA-DPM-Solver.
    """
    steps, finite_steps = base_steps(iia.base, sigmas, process), len(sigmas) - 1 - (sigmas[-1] == 0.0)
    if len(iia.weights) != finite_steps:
        raise ValueError(f"need weights for each of the {finite_steps} steps above sigma 0, got {len(iia.weights)}; "
                         "fit them for this schedule")
    require_levels(sigmas, iia.sigmas, "the weights were fitted", "fit")
    for i, weights in enumerate(iia.weights):
        if len(weights) not in {count_of(iia.base, i, r) for r in range(i + 2)}:
            raise ValueError(f"step {i + 1} of base {iia.base} can't have {len(weights)} weights; fit them again")
        steps[i] = mended(steps[i], iia.base, weights, process)
    return steps


def require_base(base: str) -> None:
    if base not in BASES:
        raise ValueError(f"base must be one of {', '.join(BASES)}, got {base!r}")


def base_steps(base: str, sigmas: list[float], process: Process) -> list[Step]:
    """The plan that is mended, which leaves the e of each model call in the history where its gradients are e."""
    require_base(base)
    if base == "edm":
        return plan_edm_heun(sigmas, process=process)
    if base == "dpmpp2m":
        return plan_dpm_solver_pp(sigmas, process=process)
    return [step._replace(keep=(eps_of(VE, step.sigma),)) for step in plan_ddim(sigmas, process=process)]


def count_of(base: str, i: int, r: int) -> int:
    """Gradients that step i = 0, 1, ... weighs, those of up to r steps before it among them."""
    if base == "edm" and r > 0:
        return 2 * (min(r, i) + 1)
    return 1 if base == "edm" else min(r, i) + 1


def gradients(base: str, count: int) -> list[Update]:
    """The gradients as combinations of what a step's updates see.

    'ddim': e = (x - D) / sigma, newest first. 'edm': d' and d, then those of the step before, and so on; a single one
    is their mean. 'dpmpp2m': D, its difference from the one before, the difference before that, and so on.
    """
    def unit(place: int) -> tuple[float, ...]:
        return (0.0,) * place + (1.0,)

    if base == "edm" and count == 1:
        return [Update(0.0, (0.0, 0.5, 0.5))]
    if base == "dpmpp2m":
        return [Update(0.0, unit(0)), *(Update(0.0, (*unit(j), -1.0)) for j in range(count - 1))]
    return [Update(0.0, unit(j + 1)) for j in range(count)]  # behind D stand the kept e


def mended(step: Step, base: str, weights: Sequence[float], process: Process) -> Step:
    """The step with sum_j w_j G_j added to its end."""
    found, scale = gradients(base, len(weights)), reach(base, step.sigma_next, process)
    coefs = [0.0] * max(len(update.d_coefs) for update in (step.predict, *found))
    for weight, update in zip((1.0, *(scale * weight for weight in weights)), (step.predict, *found)):
        for place, coef in enumerate(update.d_coefs):
            coefs[place] += weight * coef
    return step._replace(predict=step.predict._replace(d_coefs=tuple(coefs)))


def reach(base: str, sigma: float, process: Process) -> float:
    """What weight 1 adds to x: 1, for DDIM on VE models the size of x where it is 1 at unit size."""
    return math.sqrt(1.0 + sigma * sigma) if base == "ddim" and process is VE else 1.0
