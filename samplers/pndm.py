"""PNDM and its relatives: constant Adams-Bashforth weights on the predicted noise, with different starts."""
from itertools import pairwise

from .adams import BASHFORTH, adams_steps, bashforth_weights
from .clock import Clock
from .linear import Stage, Step, Update
from .process import VE, Process
from .transfer import RETURN_D, eps_of

VARIANTS = ("F-PNDM", "S-PNDM", "iPNDM", "iPNDM-V", "FON", "FON-published")


def plan_pndm(sigmas: list[float], *, variant: str = "iPNDM", max_order: int = 4, mid_nodes: str = "timestep",
              process: Process = VE, clock: Clock | None = None) -> list[Step]:
    """x_next = x + (sigma_next - sigma) e*, e* the Adams-Bashforth combination of the last predictions e.

    variant: 'F-PNDM' starts with three Runge-Kutta-like steps of four model calls and goes on with four values,
    'S-PNDM' starts with one Heun-like step and goes on with two, 'iPNDM' starts with orders 1, 2, ... up to max_order
    and needs no extra call, 'iPNDM-V' takes the exact weights for unequal steps. The constant weights suit equal
    steps: on other grids the order is 2. mid_nodes: the level inside F-PNDM's first steps lies halfway in the model's
    time ('timestep', needs the model's clock) or in log sigma. The step to sigma = 0 returns D.
    Source: Liu et al. 2022, arXiv 2202.09778, eq. 10 to 13; iPNDM: Zhang & Chen 2022, arXiv 2204.13902.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
    if not 1 <= max_order <= 4:
        raise ValueError(f"max_order must be 1, 2, 3 or 4, got {max_order}")
    if mid_nodes not in ("timestep", "log_sigma"):
        raise ValueError(f"mid_nodes must be 'timestep' or 'log_sigma', got {mid_nodes!r}")

    def mid(sigma: float, sigma_next: float) -> float:
        if mid_nodes == "timestep" and clock is not None:
            return clock.sigma_of((clock.time_of(sigma) + clock.time_of(sigma_next)) / 2.0)
        return (sigma * sigma_next) ** 0.5

    if variant == "iPNDM-V":
        return adams_steps(sigmas, process, lambda i: bashforth_weights(sigmas, i, max_order))
    if variant == "iPNDM":
        return adams_steps(sigmas, process, lambda i: [
            (sigmas[i + 1] - sigmas[i]) * weight for weight in BASHFORTH[min(i + 1, max_order) - 1]])
    if variant.startswith("FON"):
        return _fourth_order_numerical(sigmas, process, clock, published=variant == "FON-published")
    started = 3 if variant == "F-PNDM" else 1
    return _with_start(sigmas, process, started, mid)


def _with_start(sigmas: list[float], process: Process, started: int, mid) -> list[Step]:
    """`started` first steps with inner model calls, then the constant weights of started + 1 values."""
    process.lams(sigmas)
    weights, steps = BASHFORTH[started], []
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        keep, h = (eps_of(VE, sigma),), sigma_next - sigma
        if sigma_next == 0.0:
            steps.append(Step(sigma, 0.0, RETURN_D, keep=keep))
        elif i >= started:
            steps.append(Step(sigma, sigma_next, Update(1.0, _at_first_calls([h * w for w in weights], i, started)),
                              keep=keep))
        else:
            levels = [sigma_next] if started == 1 else [mid(sigma, sigma_next)] * 2 + [sigma_next]
            stages = tuple(Stage(level, Update(1.0, (0.0, level - sigma)), (eps_of(VE, level),)) for level in levels)
            shares = (1 / 2, 1 / 2) if started == 1 else (1 / 6, 2 / 6, 2 / 6, 1 / 6)
            steps.append(Step(sigma, sigma_next, Update(1.0, (0.0, *(h * share for share in shares))), stages,
                              keep=keep))
    return steps


def _at_first_calls(weights: list[float], i: int, started: int) -> tuple[float, ...]:
    """D's 0, then the weights at the places of the steps' first calls among all calls, newest first."""
    inner = 3 if started == 3 else 1
    coefs = [0.0]
    for age, weight in enumerate(weights):
        coefs += [0.0] * (inner if i - age < started and age else 0) + [weight]
    return tuple(coefs)


def _fourth_order_numerical(sigmas: list[float], process: Process, clock: Clock | None, *,
                            published: bool) -> list[Step]:
    """The paper's comparison: classical Runge-Kutta, then Adams, on the change over one unit of the model's time.

    The change is DDIM's, of the state scaled to unit size (VP). published: as the released code has it, with every
    change of a Runge-Kutta step taken from the step's first state and level, whatever state its eps is of.
    """
    if process is not VE or clock is None:
        raise ValueError("FON counts in the time steps of a discrete noise schedule, which this model has not; choose "
                         "iPNDM, F-PNDM or S-PNDM")
    process.lams(sigmas)
    steps = []
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        time = clock.time_of(sigma)
        keep = _change(clock, time, sigma, sigma)
        if sigma_next == 0.0:
            steps.append(Step(sigma, 0.0, RETURN_D, keep=keep))
            continue
        time_next = clock.time_of(sigma_next)
        span, stages = time - time_next, []
        if i >= 3:
            weights = _at_first_calls([span * w for w in BASHFORTH[3]], i, 3)
        else:
            weights = (0.0, *(span * share for share in (1 / 6, 2 / 6, 2 / 6, 1 / 6)))
            middle = (time + time_next) / 2.0
            for at, share in ((middle, 0.5), (middle, 0.5), (time_next, 1.0)):
                level = clock.sigma_of(at)
                change = (_change(clock, time, sigma, level, share * span) if published
                          else _change(clock, at, level, level))
                stages.append(Stage(level, _in_vp(sigma, level, (0.0, share * span)), change))
        steps.append(Step(sigma, sigma_next, _in_vp(sigma, sigma_next, weights), tuple(stages), keep=keep))
    return steps


def _scale(sigma: float) -> float:
    return (1.0 + sigma * sigma) ** -0.5


def _in_vp(sigma: float, sigma_next: float, weights: tuple[float, ...]) -> Update:
    """x_vp + sum of weights and changes, for the VE state at sigma_next."""
    down = _scale(sigma_next)
    return Update(_scale(sigma) / down, tuple(weight / down for weight in weights))


def _change(clock: Clock, time: float, sigma: float, level: float, moved: float = 0.0) -> tuple[Update]:
    """DDIM's change over one unit of time from (time, sigma), in VP units, with the eps of a state at `level` that
    lies `moved` times the last change from the one it is counted from."""
    lower = clock.sigma_of(time - 1.0)
    ratio, eps_coef = _scale(lower) / _scale(sigma) - 1.0, _scale(lower) * (lower - sigma)
    return (Update(ratio * _scale(level) + eps_coef / level, (-eps_coef / level, -ratio * moved)),)
