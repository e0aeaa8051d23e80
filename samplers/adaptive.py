"""Samplers that choose their own steps by an estimate of the error: they read it back after every trial."""
import math
from collections.abc import Callable

import torch
from torch import Tensor

from .clock import linear_vp_clock
from .dpm_solver import Options, singlestep
from .process import FLOW, VE, Process

VARIABLES = ("lambda", "sigma", "vp_time")
# Dormand and Prince 1980, order 5 with an error estimate of order 4; the last stage is the next step's first.
NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0)
ROWS = ((), (1 / 5,), (3 / 40, 9 / 40), (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656))
ENDS = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)
ERRORS = (-71 / 57600, 0.0, 71 / 16695, -71 / 1920, 17253 / 339200, -22 / 525, 1 / 40)


@torch.no_grad()
def sample_pf_ode(model: Callable, x: Tensor, sigmas: list[float], *, rtol: float = 1e-5, atol: float = 1e-5,
                  variable: str = "lambda", norm: str = "per_sample", max_calls: int = 1000, process: Process,
                  callback: Callable | None = None) -> Tensor:
    """The probability-flow ODE by Runge-Kutta 5(4), from sigmas[0] to the last level above 0; then D if sigmas end "
      "at 0.

    x (B, ...); model(x, sigma (B,)) -> denoised. Only the two ends of sigmas count. rtol, atol: bounds on the error of
    a step, relative to the state and absolute. variable: what steps are even in: 'lambda' (-log sigma), 'sigma', or the
    time of the published SDE ('vp_time', which scales the state to unit size). norm: the error is the mean over one
    picture, each with its own steps ('per_sample'), or over the batch ('batch', as published, so that a picture depends
    on its companions). callback(i, x, denoised, sigma) after each accepted step. Raises ValueError past max_calls.
    Cost: 6 model calls a trial, 2 to start. Source: Song et al. 2021, arXiv 2011.13456, section 4.3; step control of
    Hairer, Norsett and Wanner, Solving ODEs I, section II.4.
    """
    _check(rtol, atol, variable, norm, process)
    process.lams(sigmas)
    ends = [sigmas[0], [sigma for sigma in sigmas if sigma > 0.0][-1]]
    form = _Form(variable, model, x)
    start, end = (form.time_of(sigma) for sigma in ends)
    y = form.scaled(x, [ends[0]] * len(x))
    y = _integrate(form, y, start, end, _Control(rtol, atol, norm == "batch", max_calls), callback)
    x = form.unscaled(y, [ends[1]] * len(x))
    return form.denoise(x, [ends[1]] * len(x)) if sigmas[-1] == 0.0 else x


def _check(rtol: float, atol: float, variable: str, norm: str, process: Process) -> None:
    if rtol <= 0.0 or atol <= 0.0:
        raise ValueError(f"rtol and atol must be above 0, got {rtol} and {atol}")
    if variable not in VARIABLES:
        raise ValueError(f"variable must be one of {', '.join(VARIABLES)}, got {variable!r}")
    if norm not in ("per_sample", "batch"):
        raise ValueError(f"norm must be 'per_sample' or 'batch', got {norm!r}")
    if variable == "vp_time" and process is FLOW:
        raise ValueError("vp_time is the time of noise-prediction models; for flow models choose lambda or sigma")


class _Control:
    """Tolerances and the calls left."""

    def __init__(self, rtol: float, atol: float, pooled: bool, max_calls: int):
        self.rtol, self.atol, self.pooled, self.max_calls = rtol, atol, pooled, max_calls

    def size(self, values: Tensor, scale: Tensor) -> list[float]:
        """Root mean square of values / scale, for each picture or for all at once."""
        squares = (values / scale).square().flatten(1).mean(1)
        if self.pooled:
            squares = squares.mean().expand(len(values))
        sizes = squares.sqrt().tolist()
        if not all(math.isfinite(size) for size in sizes):
            raise ValueError("the error estimate is NaN or infinite: the model's prediction was")
        return sizes


class _Form:
    """The ODE in the chosen variable: times, states y and their slopes."""

    def __init__(self, variable: str, model: Callable, x: Tensor):
        self.variable, self.model, self.calls = variable, model, 0
        self.shape = (len(x), *[1] * (x.ndim - 1))
        self.clock = linear_vp_clock()

    def time_of(self, sigma: float) -> float:
        return {"lambda": lambda s: -math.log(s), "sigma": float, "vp_time": self.clock.time_of}[self.variable](sigma)

    def sigma_of(self, time: float) -> float:
        return {"lambda": lambda t: math.exp(-t), "sigma": float, "vp_time": self.clock.sigma_of}[self.variable](time)

    def wide(self, values: list[float], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device).reshape(self.shape)

    def denoise(self, x: Tensor, sigmas: list[float]) -> Tensor:
        self.calls += 1
        return self.model(x, self.wide(sigmas, x).reshape(-1))

    def _sizes(self, sigmas: list[float]) -> list[float]:
        return [(1.0 + s * s) ** -0.5 if self.variable == "vp_time" else 1.0 for s in sigmas]

    def scaled(self, x: Tensor, sigmas: list[float]) -> Tensor:
        return x * self.wide(self._sizes(sigmas), x)

    def unscaled(self, y: Tensor, sigmas: list[float]) -> Tensor:
        return y / self.wide(self._sizes(sigmas), y)

    def slope(self, times: list[float], y: Tensor) -> tuple[Tensor, Tensor]:
        """dy / dtime and D."""
        sigmas = [self.sigma_of(time) for time in times]
        x = self.unscaled(y, sigmas)
        denoised = self.denoise(x, sigmas)
        if self.variable == "lambda":
            return denoised - x, denoised
        if self.variable == "sigma":
            return (x - denoised) / self.wide(sigmas, x), denoised
        rates = [0.1 + 19.9 * time for time in times]  # beta(t)
        sizes = self._sizes(sigmas)
        shares = [size * size for size in sizes]  # alpha_bar
        score = (self.wide(sizes, y) * denoised - y) / self.wide([1.0 - share for share in shares], y)
        return -0.5 * self.wide(rates, y) * (y + score), denoised


def _integrate(form: _Form, y: Tensor, start: float, end: float, control: _Control, callback) -> Tensor:
    """Every picture from time start to end with steps of its own (equal ones where the norm is pooled)."""
    sign = 1.0 if end > start else -1.0
    times, first = [start] * len(y), None
    first, denoised = form.slope(times, y)
    spans = _first_spans(form, y, first, times, sign, abs(end - start), control)
    grown = [10.0] * len(y)  # a step after a refused one must not grow
    accepted = 0
    while any(time != end for time in times):
        slowest = max(times, key=lambda time: -sign * time)
        if form.calls + 6 > control.max_calls:
            raise ValueError(f"the ODE needs more than {control.max_calls} model calls at rtol {control.rtol:g}, atol "
                             f"{control.atol:g}; it reached sigma {form.sigma_of(slowest):.4g}. Raise max_calls or the "
                             "tolerances")
        steps = [sign * min(span, abs(end - time)) for span, time in zip(spans, times)]
        slopes = [first]
        for node, row in zip(NODES[1:], ROWS[1:]):
            inner = y + form.wide(steps, y) * sum(a * slope for a, slope in zip(row, slopes) if a)
            slopes.append(form.slope([time + node * step for time, step in zip(times, steps)], inner)[0])
        new = y + form.wide(steps, y) * sum(b * slope for b, slope in zip(ENDS, slopes) if b)
        ahead = [end if abs(step) >= abs(end - time) else time + step for time, step in zip(times, steps)]
        last, denoised = form.slope(ahead, new)
        slopes.append(last)
        error = form.wide(steps, y) * sum(c * slope for c, slope in zip(ERRORS, slopes) if c)
        errors = control.size(error, control.atol + control.rtol * torch.maximum(y.abs(), new.abs()))
        taken = [e < 1.0 for e in errors]
        mask = torch.tensor(taken, device=y.device).reshape(form.shape)
        y, first = torch.where(mask, new, y), torch.where(mask, last, first)
        for i, (error_i, ok) in enumerate(zip(errors, taken)):
            factor = 10.0 if error_i == 0.0 else min(max(0.9 * error_i ** -0.2, 0.2), grown[i] if ok else 1.0)
            spans[i], grown[i] = abs(steps[i]) * factor, 10.0 if ok else 1.0
        times = [new_time if ok else time for new_time, time, ok in zip(ahead, times, taken)]
        if callback is not None and any(taken):
            sigma = form.sigma_of(max(times, key=lambda t: -sign * t))
            callback(accepted, form.unscaled(y, [form.sigma_of(time) for time in times]), denoised, sigma)
            accepted += 1
    return y


def _first_spans(form: _Form, y: Tensor, slope: Tensor, times: list[float], sign: float, length: float,
                 control: _Control) -> list[float]:
    scale = control.atol + control.rtol * y.abs()
    d0, d1 = control.size(y, scale), control.size(slope, scale)
    trial = [min(1e-6 if a < 1e-5 or b < 1e-5 else 0.01 * a / b, length) for a, b in zip(d0, d1)]
    steps = form.wide([sign * h for h in trial], y)
    ahead, _ = form.slope([time + sign * h for time, h in zip(times, trial)], y + steps * slope)
    d2 = [d / h for d, h in zip(control.size(ahead - slope, scale), trial)]
    spans = [max(1e-6, h * 1e-3) if max(b, c) <= 1e-15 else (0.01 / max(b, c)) ** 0.2
             for h, b, c in zip(trial, d1, d2)]
    return [min(100.0 * h, span, length) for h, span in zip(trial, spans)]


@torch.no_grad()
def sample_dpm_solver_adaptive(model: Callable, x: Tensor, sigmas: list[float], *, order: int = 3, rtol: float = 0.05,
                               atol: float = 0.0078, h_init: float = 0.05, theta: float = 0.9,
                               solver_type: str = "dpmsolver", norm: str = "batch_max", max_calls: int = 1000,
                               process: Process, callback: Callable | None = None) -> Tensor:
    """DPM-Solver-12 (order 2) or -23 (order 3), from sigmas[0] to the last level above 0; then D if sigmas end at 0.

    x (B, ...); model(x, sigma (B,)) -> denoised. A trial takes a step h in lambda at `order` and one order below, from
    shared model calls. E is the rms of their difference over max(atol, rtol max(|x_low|, |x_before|)), the largest of
    the batch ('batch_max', as published) or of the whole batch at once ('pooled'). E <= 1 accepts the step; h becomes
    theta h E^(-1 / order) either way. Flow models are taken in the VE form, where sigma = 1 is a level like others.
    callback(i, x, denoised, sigma) after each accepted step. Raises ValueError past max_calls.
    Cost: `order` model calls a trial, one less after a refused one.
    Source: Lu et al. 2022, arXiv 2206.00927, appendix C, and the authors' code.
    """
    if order not in (2, 3):
        raise ValueError(f"order must be 2 or 3, got {order}")
    if norm not in ("batch_max", "pooled"):
        raise ValueError(f"norm must be 'batch_max' or 'pooled', got {norm!r}")
    process.lams(sigmas)
    pair = _Pair(model, order, solver_type == "dpmsolver")
    sigma, end = sigmas[0], -math.log([level for level in sigmas if level > 0.0][-1])
    lam, h, before, accepted = -math.log(sigma), h_init, x, 0
    denoised = pair.call(x, sigma)
    while end - lam > 1e-9:
        if pair.calls + order > max_calls:
            raise ValueError(f"DPM-Solver needs more than {max_calls} model calls at rtol {rtol:g}, atol {atol:g}; it "
                             f"reached sigma {sigma:.4g}. Raise max_calls or the tolerances")
        h = min(h, end - lam)
        low, high = pair.trial(x, denoised, lam, h)
        allowed = torch.clamp(rtol * torch.maximum(low.abs(), before.abs()), min=atol)
        squares = ((high - low) / allowed).square().flatten(1).mean(1)
        error = (squares.max() if norm == "batch_max" else squares.mean()).sqrt().item()
        if error <= 1.0:
            x, before, lam = high, low, lam + h
            sigma = math.exp(-lam)
            if callback is not None:
                callback(accepted, x, denoised, sigma)
            accepted += 1
            if end - lam > 1e-9 or sigmas[-1] == 0.0:
                denoised = pair.call(x, sigma)
        h = theta * h * max(error, 1e-12) ** (-1.0 / order)
    return denoised if sigmas[-1] == 0.0 else x


class _Pair:
    """One trial step at two orders."""

    def __init__(self, model: Callable, order: int, midpoint: bool):
        self.model, self.order, self.calls = model, order, 0
        self.options = Options(True, order, "singlestep", midpoint, 0, False, 0.0, 0.0)

    def call(self, x: Tensor, sigma: float) -> Tensor:
        self.calls += 1
        return self.model(x, x.new_full((len(x),), sigma))

    def trial(self, x: Tensor, denoised: Tensor, lam: float, h: float) -> tuple[Tensor, Tensor]:
        levels = [math.exp(-(lam + share * h)) for share in ((0.0, 0.5, 1.0), (0.0, 1 / 3, 2 / 3, 1.0))[self.order - 2]]
        high = singlestep(levels, self.options, VE)
        low = singlestep([*levels[:self.order - 1], levels[-1]], self.options, VE)
        values = (denoised, high.keep[0](x, (denoised,)))
        for stage in high.stages:
            if len(values) == self.order:
                x_low = low.predict(x, values)
            inner = stage.update(x, values)
            seen = self.call(inner, stage.sigma)
            values = (seen, stage.keep[0](inner, (seen,)), *values[1:])
        return x_low, high.predict(x, values)
