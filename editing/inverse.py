"""Restoring a picture from a measurement of it: DPS, PSLD and STSL, gradients of the measurement through the model."""
import logging
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..samplers.ddim import plan_ddim
from ..samplers.process import Process
from .operators import Operator

METHODS = ("psld", "stsl", "dps")
STARTS = ("of the method", "noise", "measurement")
PROBE = 0.1  # how far STSL's second look is taken from the state, as a share of sigma


class Problem(NamedTuple):
    """y (1 or B, 3, h, w) in [-1, 1], measured by an operator of the picture that is looked for.

    decode: predictions (B, C, ...) -> pictures (B, 3, H, W) in [-1, 1]; encode: back; gradients pass both.
    done: called when a run is over.
    """
    operator: Operator
    y: Tensor
    decode: Callable[[Tensor], Tensor]
    encode: Callable[[Tensor], Tensor]
    done: Callable[[], None] = lambda: None

    def residual(self, pictures: Tensor) -> Tensor:
        """|A x - y| (B,), of each picture; ValueError where the sizes do not fit."""
        found = self.operator(pictures)
        if found.shape[-2:] != self.y.shape[-2:] or len(self.y) not in (1, len(found)):
            raise ValueError(f"the measurement has the size {tuple(self.y.shape)}, the operator makes "
                             f"{tuple(found.shape)} of the pictures of this run; change the latent's size, or measure "
                             "again with this operator")
        return _length(found - self.y.to(found))

    def gluing(self, denoised: Tensor, pictures: Tensor) -> Tensor:
        """|D - E(A^+ y + (I - A^+ A) decoded D)| (B,): how far D is from a fixed point of the VAE that explains y."""
        return _length(denoised - self.encode(self.operator.projected(pictures, self.y.to(pictures))))

    def as_rms(self, residual: Tensor) -> list[float]:
        """Residuals as rms of the numbers of IMAGEs in [0, 1]."""
        return (residual / (2.0 * math.sqrt(self.y[0].numel()))).tolist()


class Weights(NamedTuple):
    """omega: of the residual; gamma: of the gluing term; second: of STSL's trace."""
    omega: float
    gamma: float
    second: float


def sample_inverse(model: Callable, x: Tensor, sigmas: list[float], *, problem: Problem, method: str = "psld",
                   zeta: float = 1.0, omega: float = 1.0, gamma: float = 0.1, eta: float = 0.0, inner: int = 5,
                   second_order: float = 0.02, start: str = "of the method", limit: bool = True,
                   record: list | None = None, clean: Tensor, process: Process, noise_of: Callable,
                   differentiable: Callable,
                   interruptions: tuple = (KeyboardInterrupt,), callback: Callable | None = None) -> Tensor:
    """x (B, ...) at sigmas[0] -> a picture whose measurement is y, as likely as the model finds it.

    Each step: x' = DDIM(x, D) - c c' grad [zeta (omega |A dec D - y| + gamma gluing)], the gradient in x, and
    c = sqrt(alpha^2 + sigma^2), which scales both states to unit variance, as the papers have them. 'dps' leaves gamma
    out. 'stsl' moves x so inner - 1 times at its own level (c^2) before that step, and adds second_order trace(dD / dx)
    to what is made small, by one probe each. Lengths are each picture's own. start: 'noise', or 'measurement' for the
    encoded A^+ y under the run's noise, which STSL begins with. limit: no move longer than value / |gradient|, the way
    to 0 if all were straight; without it, the papers' rule, moves stay long where the residual is small. All weights 0
    is DDIM of that eta.
    record: gets (level, rms residuals (B floats)) of every gradient, and of the result. Stopped by one of
    `interruptions` in the callback, it gives the prediction of the smallest residual so far, of each picture.
    Cost: a gradient a step; STSL inner gradients, through two predictions each where second_order is not 0.
    Source: Chung et al. 2022, arXiv 2209.14687, algorithm 1; Rout et al. 2023, arXiv 2307.00619, algorithm 2; Rout et
    al. 2023, arXiv 2312.00852, whose rule is written here from its description, not from published code.
    """
    if method not in METHODS or start not in STARTS:
        raise ValueError(f"method must be one of {', '.join(METHODS)} and start one of {', '.join(STARTS)}, got "
                         f"{method!r} and {start!r}")
    stsl, weights = method == "stsl", Weights(zeta * omega, 0.0 if method == "dps" else zeta * gamma, 0.0)
    repeats, weights = (inner, weights._replace(second=second_order)) if stsl else (1, weights)
    noise, best = noise_of("inverse"), _Best(problem, record)
    slope_of = _plain if not any(weights) else _Slope(problem, differentiable(model), weights, noise, process, limit)
    x = _started(problem, x, clean, process.alpha(sigmas[0])) if start == "measurement" or (
        stsl and start == STARTS[0]) else x
    steps = plan_ddim(sigmas, eta=eta, process=process)
    try:
        for i, step in enumerate(steps):
            size = math.hypot(process.alpha(step.sigma), step.sigma)
            for k in range(repeats):
                slope, denoised, residual = slope_of(model, x, step.sigma)
                best.look(step.sigma, denoised, residual)
                if callback is not None:
                    try:
                        callback(i * repeats + k, x, denoised, step.sigma, of=len(steps) * repeats)
                    except interruptions:
                        return best.given()
                if k + 1 < repeats:
                    x = x - size ** 2 * slope
            drawn = noise(step.sigma, step.sigma_next) if step.predict.noise_coef else None
            next_size = math.hypot(process.alpha(step.sigma_next), step.sigma_next)
            x = step.predict(x, (denoised,), drawn) - size * next_size * slope
        best.tell(x, len(steps) * repeats, method)
        return x
    finally:
        problem.done()


def _plain(model: Callable, x: Tensor, sigma: float):
    """As _Slope, without any."""
    return 0.0, model(x, x.new_full((len(x),), sigma)), None


class _Slope:
    """(gradient in x of the weighted terms, limited, D, the residual (B,)) at a state."""

    def __init__(self, problem: Problem, model: Callable, weights: Weights, noise: Callable, process: Process,
                 limited: bool = False):
        self.problem, self.model, self.weights, self.noise, self.process = problem, model, weights, noise, process
        self.limited = limited

    def __call__(self, _model: Callable, x: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
        probe = self.noise(sigma, sigma) if self.weights.second else None
        with torch.inference_mode(False), torch.enable_grad():
            at = x.detach().clone().requires_grad_()
            level = at.new_full((len(at),), sigma)
            denoised = self.model(at, level)
            direction, value, residual = self._direction(denoised.detach().clone().requires_grad_())
            out, slopes = [denoised], [direction]
            if probe is not None:
                probe = probe.clone().to(at)
                out.append(self.model(at + PROBE * sigma * probe, level))
                trace = self.weights.second * self.process.alpha(sigma) / (PROBE * sigma) * probe
                slopes = [direction - trace, trace]
            size = max(float(slope.abs().max()) for slope in slopes) or 1.0  # half precision keeps numbers near 1
            found, = torch.autograd.grad(out, at, [slope / size for slope in slopes])
        slope = found.detach() * size
        if self.limited:
            longest = value / (_length(slope).square() * (self.process.alpha(sigma) ** 2 + sigma ** 2)).clamp(min=1e-30)
            slope = slope * longest.clamp(max=1.0).to(slope).reshape(-1, *[1] * (x.ndim - 1))
        return slope, denoised.detach(), residual

    def _direction(self, denoised: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(gradient at the prediction, the weighted sum (B,), the residual (B,))."""
        pictures = self.problem.decode(denoised)
        residual = self.problem.residual(pictures)
        value = self.weights.omega * residual
        if self.weights.gamma:
            value = value + self.weights.gamma * self.problem.gluing(denoised, pictures)
        found, = torch.autograd.grad(value.sum(), denoised)
        return found.detach(), value.detach(), residual.detach()


def hutchinson(model: Callable, x: Tensor, sigma: float, probe: Tensor, *, process: Process) -> Tensor:
    """An estimate (B,) of trace(dD / dx) alpha, from one more prediction: unbiased up to O((PROBE sigma)^2).

    It is the dimension plus sigma^2 times the trace of the Hessian of log p of the state scaled to alpha = 1, and
    sigma^2 / alpha^2 times it the trace of x_0's covariance (second-order Tweedie).
    """
    level = x.new_full((len(x),), sigma)
    moved = model(x + PROBE * sigma * probe, level) - model(x, level)
    return process.alpha(sigma) / (PROBE * sigma) * (probe * moved).flatten(1).sum(1)


def _started(problem: Problem, x: Tensor, clean: Tensor, alpha: float) -> Tensor:
    """The state of a run with the encoded A^+ y in place of the latent it was given."""
    with torch.no_grad():
        shown = problem.decode(clean)
        guess = problem.encode(problem.operator.back(problem.y.to(shown).expand(len(x), -1, -1, -1), shown))
    return x + alpha * (guess - clean).to(x)


class _Best:
    """The predictions with the smallest residuals so far, and the record of them; reads the residuals back, which a
    gradient through the network outlasts by far."""

    def __init__(self, problem: Problem, record: list | None):
        self.problem, self.record = problem, record
        self.denoised = self.residual = None
        if record is not None:
            record.clear()

    def look(self, sigma: float, denoised: Tensor, residual: Tensor | None) -> None:
        if residual is None or self.denoised is None:
            self.denoised, self.residual = denoised, residual
        else:
            better = residual < self.residual
            self.denoised = torch.where(better.reshape(-1, *[1] * (denoised.ndim - 1)), denoised, self.denoised)
            self.residual = torch.minimum(residual, self.residual)
        if residual is not None and self.record is not None:
            self.record.append((sigma, self.problem.as_rms(residual)))

    def given(self) -> Tensor:
        logging.warning("Odeon: stopped; the prediction nearest to the measurement so far goes on")
        return self.denoised

    def tell(self, x: Tensor, gradients: int, method: str) -> None:
        """Logs and records what was reached."""
        if self.record is None or self.residual is None:
            return
        with torch.no_grad():
            self.record.append((0.0, self.problem.as_rms(self.problem.residual(self.problem.decode(x)))))
        first, last = (sum(residuals) / len(residuals) for _, residuals in (self.record[0], self.record[-1]))
        logging.info("Odeon: %s: rms residual %.4f at first, %.4f of the result, %d gradients", method, first, last,
                     gradients)


def _length(value: Tensor) -> Tensor:
    return torch.linalg.vector_norm(value.flatten(1), dim=1)
