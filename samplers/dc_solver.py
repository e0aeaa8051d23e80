"""DC-Solver: UniPC whose newest prediction is moved to another time before each step."""
import math
from typing import NamedTuple

from .clock import Clock
from .linear import Step, Update
from .process import VE, Process
from .unipc import plan_unipc

VARIABLES = ("timestep", "lambda", "sigma")


class DCRatios(NamedTuple):
    """Where each step's newest prediction is read: 1 at its own time, above 1 beyond it, towards the picture.

    sigmas: the levels the ratios were found for; None fits any schedule of so many steps. about: where they come from,
    for people; nothing is computed from it.
    """
    values: tuple[float, ...]  # one for each step above sigma 0
    sigmas: tuple[float, ...] | None = None
    about: dict = {}


def plan_dc_solver(sigmas: list[float], *, ratios: DCRatios, order: int = 3, variant: str = "bh2",
                   dc_order: int = 2, variable: str = "timestep", uncorrected: int = 0, lower_order_final: bool = True,
                   process: Process = VE, clock: Clock | None = None) -> list[Step]:
    """UniPC in the data prediction; before step k the newest prediction is replaced, for good, by the polynomial of
    degree dc_order through the dc_order + 1 newest, read at ratios.values[k] t_0 + (1 - ratios.values[k]) t_1.

    ratios: 1 changes nothing; the first dc_order must be 1. variable: what t is, the model's time ('timestep', clock),
    'lambda' or 'sigma'. A flow model's time is its sigma (FLOW_CLOCK), so that 'timestep' and 'sigma' are one there;
    where lambda is infinite, at a flow's sigma = 1, that prediction drops out of the polynomial.
    All ratios 1 is UniPC. NFE len(sigmas) - 1. Source: Zhao et al. 2024, arXiv 2409.03755, eq. 9 and algorithm 1.
    """
    if not 1 <= dc_order <= 3:
        raise ValueError(f"dc_order must be 1, 2 or 3, got {dc_order}")
    process.lams(sigmas)
    finite_steps = len(sigmas) - 1 - (sigmas[-1] == 0.0)
    if len(ratios.values) != finite_steps:
        raise ValueError(f"need one ratio for each of the {finite_steps} steps above sigma 0, got "
                         f"{len(ratios.values)}; search them for this schedule")
    if any(ratio != 1.0 for ratio in ratios.values[:dc_order]):
        raise ValueError(f"the first {dc_order} ratios must be 1 (there is no history to read), got "
                         f"{list(ratios.values[:dc_order])}")
    require_levels(sigmas, ratios.sigmas, "the ratios were found", "search")
    times = times_of(sigmas, variable, process, clock)
    steps = plan_unipc(sigmas, order=order, variant=variant, lower_order_final=lower_order_final,
                       uncorrected=uncorrected, process=process)
    return [_after_moving(step, read_at(times, i, ratio, dc_order))
            for i, (step, ratio) in enumerate(zip(steps, (*ratios.values, 1.0)))]


def _after_moving(step: Step, move: Update) -> Step:
    """The step on a history of moved predictions, in front of which stands the newest as the model gave it."""
    predict = Update(step.predict.x_coef, (0.0, *step.predict.d_coefs))
    correct = step.correct and Update(step.correct.x_coef, (step.correct.d_coefs[0], 0.0, *step.correct.d_coefs[1:]))
    return step._replace(predict=predict, correct=correct, keep=(move,))


def read_at(times: list[float], i: int, ratio: float, dc_order: int) -> Update:
    """Of step i's predictions, newest first: the polynomial through the dc_order + 1 newest at ratio t_0 +
    (1 - ratio) t_1. Infinitely far nodes drop out, which is the limit."""
    if ratio == 1.0:
        return Update(0.0, (1.0,))
    nodes = times[max(i - dc_order, 0):i + 1][::-1]
    at, nodes = ratio * nodes[0] + (1.0 - ratio) * nodes[1], [node for node in nodes if math.isfinite(node)]
    return Update(0.0, tuple(math.prod((at - other) / (node - other) for other in nodes if other != node)
                             for node in nodes))


def times_of(sigmas: list[float], variable: str, process: Process, clock: Clock | None) -> list[float]:
    """The time of each level, in which predictions are read."""
    if variable not in VARIABLES:
        raise ValueError(f"variable must be one of {', '.join(VARIABLES)}, got {variable!r}")
    if variable == "timestep":
        if clock is None:
            raise ValueError("variable 'timestep' needs the model's clock; choose 'lambda' or 'sigma'")
        return [clock.time_of(sigma) if sigma > 0.0 else 0.0 for sigma in sigmas]
    return process.lams(sigmas) if variable == "lambda" else list(sigmas)


def require_levels(sigmas: list[float], found_for: tuple[float, ...] | None, what: str, verb: str) -> None:
    """Raises ValueError unless the levels above 0 are those of found_for, to 1e-3 of each; None takes any."""
    if found_for is None:
        return
    wanted, given = ([sigma for sigma in levels if sigma > 0.0] for levels in (found_for, sigmas))
    if len(wanted) != len(given) or not all(math.isclose(a, b, rel_tol=1e-3) for a, b in zip(wanted, given)):
        shown = ["[" + ", ".join(f"{sigma:.5g}" for sigma in levels) + "]" for levels in (wanted, given)]
        raise ValueError(f"{what} for sigmas {shown[0]}, got {shown[1]}; {verb} again for this schedule")


def ratios_of_text(text: str) -> DCRatios:
    """Ratios from '1, 1, 1.03', with or without brackets around, for any schedule of so many steps."""
    return DCRatios(numbers_of_text(text, "ratios must be numbers with commas between them, such as '1, 1, 1.03'"))


def numbers_of_text(text: str, wanted: str) -> tuple[float, ...]:
    """Finite numbers between commas, with or without brackets around. wanted: how an error begins."""
    values = []
    for place, piece in enumerate(text.strip().removeprefix("[").removesuffix("]").split(","), start=1):
        try:
            values.append(float(piece))
        except ValueError:
            values.append(math.nan)
        if not math.isfinite(values[-1]):
            raise ValueError(f"{wanted}; number {place} is {piece.strip()!r}")
    return tuple(values)
