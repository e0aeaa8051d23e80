"""DC-Solver: UniPC whose newest prediction is moved to another time before each step."""
import math

from .clock import Clock
from .linear import Step, Update
from .process import VE, Process
from .unipc import plan_unipc


def plan_dc_solver(sigmas: list[float], *, ratios: list[float], order: int = 3, variant: str = "bh2",
                   dc_order: int = 2, variable: str = "timestep", uncorrected: int = 0, lower_order_final: bool = True,
                   process: Process = VE, clock: Clock | None = None) -> list[Step]:
    """UniPC in the data prediction; before step k the newest prediction is replaced, for good, by the polynomial of
    degree dc_order through the dc_order + 1 newest, read at ratios[k] t_0 + (1 - ratios[k]) t_1.

    ratios: one a step, 1 changes nothing; the first dc_order must be 1. variable: what t is, the model's time
    ('timestep', clock), 'lambda' or 'sigma'. All ratios 1 is UniPC. NFE len(sigmas) - 1.
    Source: Zhao et al. 2024, arXiv 2409.03755, eq. 9 and algorithm 1.
    """
    finite_steps = len(sigmas) - 1 - (sigmas[-1] == 0.0)
    if len(ratios) != finite_steps:
        raise ValueError(f"need one ratio for each of the {finite_steps} steps above sigma 0, got {len(ratios)}; "
                          "search "
                         "them for this schedule")
    if any(ratio != 1.0 for ratio in ratios[:dc_order]):
        raise ValueError(f"the first {dc_order} ratios must be 1 (there is no history to read), got "
                         f"{ratios[:dc_order]}")
    if not 1 <= dc_order <= 3:
        raise ValueError(f"dc_order must be 1, 2 or 3, got {dc_order}")
    times = _times(sigmas, variable, process, clock)
    steps = plan_unipc(sigmas, order=order, variant=variant, lower_order_final=lower_order_final,
                       uncorrected=uncorrected, process=process)
    moved = []
    for i, step in enumerate(steps):
        weights = (1.0,)
        if i < finite_steps and ratios[i] != 1.0:
            nodes = times[i - dc_order:i + 1][::-1]
            at = ratios[i] * nodes[0] + (1.0 - ratios[i]) * nodes[1]
            weights = tuple(math.prod((at - other) / (node - other) for other in nodes if other != node)
                            for node in nodes)
        # the history has the moved predictions, in front of it stands the newest as the model gave it
        predict = Update(step.predict.x_coef, (0.0, *step.predict.d_coefs))
        correct = step.correct and Update(step.correct.x_coef, (
            step.correct.d_coefs[0], 0.0, *step.correct.d_coefs[1:]))
        moved.append(step._replace(predict=predict, correct=correct, keep=(Update(0.0, weights),)))
    return moved


def _times(sigmas: list[float], variable: str, process: Process, clock: Clock | None) -> list[float]:
    if variable not in ("timestep", "lambda", "sigma"):
        raise ValueError(f"variable must be 'timestep', 'lambda' or 'sigma', got {variable!r}")
    if variable == "timestep":
        if clock is None:
            raise ValueError("variable 'timestep' needs the model's clock; choose 'lambda' or 'sigma'")
        return [clock.time_of(sigma) if sigma > 0.0 else 0.0 for sigma in sigmas]
    return process.lams(sigmas) if variable == "lambda" else sigmas
