"""ODE-Jump: leave the path of states for the path of predictions, which settles sooner."""
from .linear import Step
from .process import VE, Process
from .transfer import RETURN_D


def jump(steps: list[Step], *, jump_sigma: float = 0.5, process: Process = VE) -> list[Step]:
    """The steps down to the first level at or below jump_sigma, and there the prediction D in place of the rest.

    A plan that never reaches jump_sigma stays as it is. NFE: those of the steps done, and one.
    Source: Chen et al. 2023, arXiv 2305.19947, section 5.
    """
    if jump_sigma <= 0.0:
        raise ValueError(f"jump_sigma must be above 0, got {jump_sigma}; without a jump leave this node out")
    if steps[0].sigma <= jump_sigma:
        raise ValueError(f"jump_sigma {jump_sigma:g} is not below the first level {steps[0].sigma:g}; lower it")
    for i, step in enumerate(steps):
        if step.sigma <= jump_sigma:
            return [*steps[:i], Step(step.sigma, 0.0, RETURN_D, keep=step.keep)]
    return steps
