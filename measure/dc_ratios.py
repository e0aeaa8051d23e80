"""DC-Solver's ratios, searched one step after another against the states of an accurate run."""
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ..samplers.clock import Clock
from ..samplers.dc_solver import DCRatios, plan_dc_solver, read_at, times_of
from ..samplers.ddim import plan_ddim
from ..samplers.exponential_adams import plan_exponential_adams
from ..samplers.linear import Step
from ..samplers.process import VE, Process
from .progress import Progress

METHODS = ("brent", "adamw")
TEACHERS = {"exponential_adams": plan_exponential_adams, "ddim": plan_ddim}


@torch.no_grad()
def search_dc_ratios(model: Callable, x: Tensor, sigmas: list[float], targets: Sequence[Tensor], *,
                     process: Process = VE, clock: Clock | None = None, order: int = 3, variant: str = "bh2",
                     dc_order: int = 2, variable: str = "timestep", uncorrected: int = 0,
                     lower_order_final: bool = True, method: str = "brent", iters: int = 40, rate: float = 0.1,
                     low: float = 0.5, high: float = 1.6, state: dict[str, Tensor] | None = None
                     ) -> Iterator[Progress]:
    """The ratio of each step that brings its end, corrector included, nearest to the teacher's state there in the mean
    square, found step by step and then kept. A Progress after every step; its state["ratios"] is the result.

    x (B, ...) at sigmas[0]; the published B = 10 fits those ten, more serve others better. model(x, sigma: float) ->
    denoised; needs no gradients. targets: the teacher's state at the end of each step above sigma 0, of teacher_states.
    process to lower_order_final: plan_dc_solver's, as they will be for the sampling. method: 'brent' minimizes within
    [low, high], to 1e-3, and keeps 1 where nothing is better; 'adamw' takes `iters` steps of torch's AdamW from 1 at
    learning rate `rate`, as published, each on a central difference. iters: for brent the most trials a step. The first
    dc_order ratios stay 1. state: of an earlier Progress; the search goes on behind it. Cost: dc_cost.
    Source: Zhao et al. 2024, arXiv 2409.03755, section 3.3, and the authors' code.
    """
    _check(method, iters, low, high)
    finite_steps = len(sigmas) - 1 - (sigmas[-1] == 0.0)
    if len(targets) != finite_steps:
        raise ValueError(f"need the teacher's state at the end of each of the {finite_steps} steps above sigma 0, got "
                         f"{len(targets)}; make them for this schedule")
    steps = plan_dc_solver(sigmas, ratios=DCRatios((1.0,) * finite_steps), order=order, variant=variant,
                           dc_order=dc_order, variable=variable, uncorrected=uncorrected,
                           lower_order_final=lower_order_final, process=process, clock=clock)[:finite_steps]
    march = _March(model, steps, times_of(sigmas, variable, process, clock), dc_order)
    march.start(x, state)
    while len(march.ratios) < finite_steps:
        i, ratio = len(march.ratios), 1.0
        if i >= dc_order:
            def loss(ratio: float, target: Tensor = targets[i]) -> float:
                return march.loss(ratio, target)

            ratio = _brent(loss, iters, low, high) if method == "brent" else _adamw(loss, iters, rate)
        march.advance(ratio)
        left = _calls_left(i + 1, finite_steps, max(dc_order, uncorrected), _trials(method, iters))
        yield Progress(march.calls, march.calls + left, march.state(), march.denoised)


def taught_dc_ratios(model: Callable, x: Tensor, sigmas: list[float], *, teacher_steps: int = 200,
                     process: Process = VE, state: dict[str, Tensor] | None = None, **options) -> Iterator[Progress]:
    """teacher_states and then search_dc_ratios(**options) as one measurement, resumable in either."""
    parts = {"teacher": {}, "search": {}}
    for key, value in (state or {}).items():
        part, _, name = key.partition(".")
        parts[part][name] = value
    before, after = teacher_cost(sigmas, teacher_steps), dc_cost(sigmas, **{
        key: options[key] for key in ("dc_order", "uncorrected", "method", "iters") if key in options})

    def named(part: str, found: dict[str, Tensor]) -> dict[str, Tensor]:
        parts[part] = found
        return {f"{part}.{name}": value for part, found in parts.items() for name, value in found.items()}

    for progress in teacher_states(model, x, sigmas, process=process, steps=teacher_steps,
                                   state=parts["teacher"] or None):
        yield progress._replace(total=before + after, state=named("teacher", progress.state))
    for progress in search_dc_ratios(model, x, sigmas, list(parts["teacher"]["states"]), process=process,
                                     state=parts["search"] or None, **options):
        yield Progress(before + progress.done, before + progress.total, named("search", progress.state),
                       progress.preview)


def dc_cost(sigmas: list[float], *, dc_order: int = 2, uncorrected: int = 0, method: str = "brent",
            iters: int = 40) -> int:
    """Model calls of search_dc_ratios: for 'adamw' exactly, for 'brent' with its usual number of trials."""
    finite_steps = len(sigmas) - 1 - (sigmas[-1] == 0.0)
    return 1 + _calls_left(0, finite_steps, max(dc_order, uncorrected), _trials(method, iters))


@torch.no_grad()
def teacher_states(model: Callable, x: Tensor, sigmas: list[float], *, process: Process = VE, steps: int = 200,
                   solver: str = "ddim", lag: int = 1, state: dict[str, Tensor] | None = None) -> Iterator[Progress]:
    """The states of a fine run at the end of each step above sigma 0: state["states"] (K, B, ...) in float64 once all
    are there. A Progress after each.

    x (B, ...) at sigmas[0]. Every interval is cut in equally many, even in log sigma, `steps` in all or a few more.
    solver: 'ddim', or 'exponential_adams' of order 3, far more exact. lag: 1 gives the state one fine step before the
    level, at unit size, for the state at it, as published: ratios found against slightly noisier states serve other
    starts better (tests/test_dc_solver.py); 0 gives the state at the level itself. Cost: teacher_cost.
    """
    if solver not in TEACHERS:
        raise ValueError(f"solver must be one of {', '.join(TEACHERS)}, got {solver!r}")
    process.lams(sigmas)
    levels, total = [sigma for sigma in sigmas if sigma > 0.0], teacher_cost(sigmas, steps)
    cut = total // (len(levels) - 1)
    if not 0 <= lag < cut:
        raise ValueError(f"lag must be at least 0 and below the {cut} fine steps of an interval, got {lag}")
    fine = [level for pair in pairwise(levels) for level in levels_between(*pair, cut)[:-1]] + levels[-1:]
    plan = TEACHERS[solver](fine, process=process)
    history, states = deque(maxlen=3), []
    if state is not None:
        states, x = list(state["states"]), state["x"].to(x)
        history.extend(state["history"].to(x))
    for end in range((len(states) + 1) * cut, total + 1, cut):
        recent = deque([x], maxlen=lag + 1)
        for step in plan[end - cut:end]:
            history.appendleft(model(x, step.sigma).to(x))
            x = step.predict(x, history)
            recent.append(x)
        states.append(recent[0].cpu().double() * _unit_ratio(process, fine[end - lag], fine[end]))
        yield Progress(end, total, {"states": torch.stack(states), "x": x.cpu().double(),
                                     "history": _stacked(history, x)},
                       history[0])


def teacher_cost(sigmas: list[float], steps: int = 200) -> int:
    """Model calls of teacher_states."""
    intervals = sum(sigma > 0.0 for sigma in sigmas) - 1
    if intervals < 1 or steps < intervals:
        raise ValueError(f"a teacher of {steps} steps is no finer than a schedule of {intervals}; raise its steps")
    return intervals * math.ceil(steps / intervals)


def _unit_ratio(process: Process, sigma: float, sigma_to: float) -> float:
    """What scales a VE state at sigma so that it is as large as one at sigma_to when both are of unit size."""
    return math.sqrt((1.0 + sigma_to ** 2) / (1.0 + sigma ** 2)) if process is VE else 1.0


def levels_between(sigma: float, sigma_next: float, count: int) -> list[float]:
    """count + 1 levels from sigma to sigma_next > 0, even in log sigma, the two ends exact."""
    inner = [sigma * (sigma_next / sigma) ** (i / count) for i in range(1, count)]
    return [sigma, *inner, sigma_next]


class _March:
    """A run of DC-Solver that stands before step len(ratios): its state x, the newest prediction there as the model
    gave it, and the predictions before it as they were moved, newest first."""

    def __init__(self, model: Callable, steps: list[Step], times: list[float], dc_order: int):
        self.model, self.steps, self.times, self.dc_order = model, steps, times, dc_order
        used = [len(update.d_coefs) for step in steps for update in (step.predict, step.correct) if update]
        self.history = deque(maxlen=max(dc_order, max(used) - 2))

    def start(self, x: Tensor, state: dict[str, Tensor] | None) -> None:
        """Before the first step, or where an earlier march left off."""
        if state is None:
            self.x, self.ratios, self.calls = x, [], 0
            self.denoised = self._call(x, self.steps[0].sigma)
        else:
            self.x, self.denoised = state["x"].to(x), state["denoised"].to(x)
            self.history.extend(state["history"].to(x))
            self.ratios, self.calls = state["ratios"].tolist(), int(state["calls"])

    def state(self) -> dict[str, Tensor]:
        numbers = {"ratios": self.ratios, "calls": self.calls}
        return {**{key: torch.tensor(value, dtype=torch.float64) for key, value in numbers.items()},
                "x": self.x.cpu().double(), "denoised": self.denoised.cpu().double(),
                "history": _stacked(self.history, self.x)}

    def loss(self, ratio: float, target: Tensor) -> float:
        """Mean squared distance of the step's end from target."""
        found = (self._trial(ratio)[0].cpu().double() - target.cpu().double()).square().mean().item()
        if not math.isfinite(found):
            raise ValueError(f"the error of step {len(self.ratios) + 1} at ratio {ratio:.4g} is {found}; the model or "
                             "the teacher's states hold NaN or infinite values")
        return found

    def advance(self, ratio: float) -> None:
        """Takes the step with this ratio for good."""
        step, is_last = self.steps[len(self.ratios)], len(self.ratios) == len(self.steps) - 1
        self.x, moved, denoised = self._trial(ratio)
        if denoised is None and not is_last:
            denoised = self._call(self.x, step.sigma_next)
        self.denoised = self.denoised if is_last else denoised
        self.history.appendleft(moved)
        self.ratios.append(float(ratio))

    def _trial(self, ratio: float) -> tuple[Tensor, Tensor, Tensor | None]:
        """The step's end, its moved prediction, and the model's prediction at its end if it took one to correct."""
        i = len(self.ratios)
        step, before = self.steps[i], (self.denoised, *self.history)
        moved = read_at(self.times, i, ratio, self.dc_order)(self.x, before)
        values = (self.denoised, moved, *self.history)
        x_next = step.predict(self.x, values)
        if step.correct is None:
            return x_next, moved, None
        denoised = self._call(x_next, step.sigma_next)
        return step.correct(self.x, (denoised, *values)), moved, denoised

    def _call(self, x: Tensor, sigma: float) -> Tensor:
        self.calls += 1
        return self.model(x, sigma).to(x)


def _stacked(history: deque, x: Tensor) -> Tensor:
    return torch.stack([value.cpu().double() for value in history]) if history else torch.zeros(0, *x.shape)


def _brent(loss: Callable[[float], float], iters: int, low: float, high: float) -> float:
    try:
        from scipy.optimize import minimize_scalar
    except ImportError as error:
        raise ImportError("method brent needs SciPy; install it with: pip install 'odeon[science]', or choose method "
                          "adamw") from error
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"maxiter": iters, "xatol": 1e-3})
    return float(found.x) if found.fun < loss(1.0) else 1.0


def _adamw(loss: Callable[[float], float], iters: int, rate: float) -> float:
    """AdamW of torch (betas 0.9 and 0.999, weight decay 0.01) on one number, from 1."""
    ratio, mean, square, reach = 1.0, 0.0, 0.0, 1e-2  # wide enough for half precision
    for n in range(1, iters + 1):
        slope = (loss(ratio + reach) - loss(ratio - reach)) / (2.0 * reach)
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope * slope
        spread = math.sqrt(square / (1.0 - 0.999 ** n)) + 1e-8
        ratio -= rate * (0.01 * ratio + mean / (1.0 - 0.9 ** n) / spread)
    return ratio


def _trials(method: str, iters: int) -> int:
    """Losses a step takes; Brent's method needs about a dozen, and one more for ratio 1."""
    return 2 * iters if method == "adamw" else min(iters, 12) + 1


def _calls_left(i: int, finite_steps: int, first: int, trials: int) -> int:
    """Model calls from step i on. From step `first` on trials cost a call each, but for the last step's."""
    return max(finite_steps - 1 - i, 0) + trials * max(finite_steps - 1 - max(i, first), 0)


def _check(method: str, iters: int, low: float, high: float) -> None:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if iters < 1:
        raise ValueError(f"iters must be at least 1, got {iters}")
    if not low < 1.0 < high:
        raise ValueError(f"need low < 1 < high, got {low:g} and {high:g}")
