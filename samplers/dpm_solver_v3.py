"""DPM-Solver-v3: multistep in lambda around a linear, a scale and a bias term measured on the model beforehand."""
import math
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from .exponential import monic
from .process import FLOW, Process
from .transfer import ddim

HALVES = ("off", "high_noise", "low_noise")
SNAPS = ("nearest", "interpolate")


class EMS(NamedTuple):
    """Empirical model statistics on the N + 1 levels lam = linspace(lam_first, lam_last), rising, log(alpha / sigma).

    l, s, b: (N + 1, ...), behind the first axis shaped as one latent, with 1 on axes where one number holds for all.
    l is the mean diagonal of sigma d eps / dx; with f = (sigma eps - l x) / alpha, df/dlam along the ODE is fitted by
    s f + b. about: what they were measured on, for people and nodes; nothing here reads it.
    """
    l: Tensor  # noqa: E741
    s: Tensor
    b: Tensor
    lam_first: float
    lam_last: float
    about: dict = {}


class _Update(NamedTuple):
    """x_new = x_coef * x + sum_j f_coefs[j] * f_j + constant, the newest f first; all of them tensors."""
    x_coef: Tensor
    f_coefs: tuple[Tensor, ...]
    constant: Tensor

    def __call__(self, x: Tensor, history) -> Tensor:
        x_new = torch.addcmul(self.constant, self.x_coef, x)
        for coef, f in zip(self.f_coefs, history):
            x_new.addcmul_(coef, f)
        return x_new

    def like(self, x: Tensor) -> "_Update":
        return _Update(_like(self.x_coef, x), tuple(_like(coef, x) for coef in self.f_coefs), _like(self.constant, x))


def _like(table: Tensor, x: Tensor) -> Tensor:
    return table.to(x.dtype).to(x.device)  # in this order: some devices know no float64


class _Step(NamedTuple):
    """One step. f = x_share * x - D, which is (sigma eps - l x) / alpha for x_share = (1 - l) / alpha."""
    sigma: float
    x_share: Tensor
    predict: _Update
    correct: _Update | None = None  # the same step redone once f at its end is known


class _Options(NamedTuple):
    """The options of sample_dpm_solver_v3."""
    order: int
    p_pseudo: bool
    use_corrector: bool
    c_pseudo: bool
    half: str
    lower_order_final: bool

    def order_of(self, i: int, count: int) -> int:
        """The predictor's order in step i of count."""
        return min(self.order, i + 1, count - i if self.lower_order_final else self.order)

    def corrects(self, sigma: float, process: Process) -> bool:
        """Whether a state at sigma is corrected."""
        is_high = sigma > (0.5 if process is FLOW else 1.613)
        return self.use_corrector and (self.half == "off" or is_high == (self.half == "high_noise"))


@torch.no_grad()
def sample_dpm_solver_v3(denoise: Callable, x: Tensor, sigmas: list[float], *, process: Process, ems: EMS,
                         callback: Callable | None = None, order: int = 2, p_pseudo: bool = False,
                         use_corrector: bool = False, c_pseudo: bool = True, half: str = "off",
                         lower_order_final: bool = True, snap: str = "nearest") -> Tensor:
    """DPM-Solver-v3 of order 1 to 3 from sigmas[0] to sigmas[-1].

    x (B, ...); denoise(x, sigma (B,)) -> D; callback(i, x, denoised, sigma) after step i with the new state and its
    level of sigmas. p_pseudo, c_pseudo: predictor, corrector take divided differences instead of the derivatives of
    the polynomial through all their values, which holds the order at 2; a pseudo corrector sees one value more than
    the predictor it follows, the other as many. half: correct at every level ('off'), where the model's time is above
    one half ('high_noise', as the published code does) or below ('low_noise', as its README says); half the time is
    sigma 0.5 for flows, else 1.613, step 500 of Stable Diffusion. lower_order_final: ends on orders ..., 2, 1.
    snap: each level moves to the 'nearest' one of the EMS, as published, or stays and the EMS are read between theirs
    by straight lines ('interpolate').
    A flow's step from sigma = 1 is of order 1 and leaves no history; the step to sigma = 0 returns D.
    NFE len(sigmas) - 1. Error O(h^order) and, from the EMS' own grid, O(1 / N^2).
    Source: Zheng et al. 2023, arXiv 2310.13268, section 3, and the authors' code.
    """
    # No plan: the coefficients differ from place to place of the latent, and every step adds a constant picture.
    if order not in (1, 2, 3):
        raise ValueError(f"order must be 1, 2 or 3, got {order}")
    if half not in HALVES:
        raise ValueError(f"half must be one of {', '.join(HALVES)}, got {half!r}")
    if snap not in SNAPS:
        raise ValueError(f"snap must be one of {', '.join(SNAPS)}, got {snap!r}")
    _check(ems, x)
    options = _Options(order, p_pseudo, use_corrector, c_pseudo, half, lower_order_final)
    steps = _steps(_Grid(ems, process, x, sigmas if snap == "interpolate" else []), sigmas, options)
    history, x_start, correct = deque(maxlen=order + 1), x, None
    for i, step in enumerate(steps):
        denoised = denoise(x, x.new_full((len(x),), step.sigma))
        history.appendleft(step.x_share * x - denoised)
        if correct is not None:
            x = correct(x_start, history)  # f stays what it was: eps is moved along with x
        x_start, correct = x, step.correct
        x = step.predict(x, history)
        if callback is not None:
            callback(i, x, denoised, sigmas[i + 1])
    return x


def _steps(grid: "_Grid", sigmas: list[float], options: _Options) -> list[_Step]:
    """Every step: on the grid, but for those from alpha = 0 and to sigma = 0."""
    process, lams = grid.process, grid.process.lams(sigmas)
    places = grid.places([sigma for sigma, lam in zip(sigmas, lams) if math.isfinite(lam)])
    levels, count, steps = [grid.sigma(place) for place in places], len(places) - 1, []
    if lams[0] == -math.inf:
        steps.append(grid.exact_step(sigmas[0], *ddim(process, sigmas[0], levels[0] if levels else 0.0)))
    for i in range(count):
        past, end, used = places[i::-1], places[i + 1], options.order_of(i, count + (sigmas[-1] == 0.0))
        predict, correct = grid.update(past[:used], end, options.p_pseudo), None
        used += options.c_pseudo
        if used > 1 and i + 1 < count and options.corrects(levels[i + 1], process):
            correct = grid.update([past[0], end, *past[1:]][:used], end, options.c_pseudo)
        steps.append(_Step(levels[i], grid.x_share(places[i]), predict, correct))
    if levels and sigmas[-1] == 0.0:
        steps.append(grid.exact_step(levels[-1], 0.0, 1.0))
    return steps


class _Grid:
    """The EMS as float64 tables on the CPU, and steps between their levels as tensors like x."""

    def __init__(self, ems: EMS, process: Process, x: Tensor, sigmas: list[float]):
        """sigmas: levels to have beside the EMS' own."""
        self.process, self.x = process, x
        cells = len(ems.l) - 1
        self.half_cell = (ems.lam_last - ems.lam_first) / cells / 2.0
        even = torch.linspace(ems.lam_first, ems.lam_last, cells + 1, dtype=torch.float64)
        own = even.new_tensor([lam for lam in process.lams(sigmas) if math.isfinite(lam)] if sigmas else [])
        self.lams = torch.cat([even, own.clamp(even[0], even[-1])]).unique()
        self.l, self.s, self.b = (self._read(table.to("cpu", torch.float64), even) for table in ems[:3])
        self.L, self.S = self._rising(self.l), self._rising(self.s)

    def _read(self, table: Tensor, even: Tensor) -> Tensor:
        """The EMS' table on all levels, by straight lines between its own."""
        if len(self.lams) == len(table):
            return table
        low = (torch.searchsorted(even, self.lams, right=True) - 1).clamp(0, len(even) - 2)
        return table[low].lerp(table[low + 1], self._tall((self.lams - even[low]) / (even[low + 1] - even[low]), table))

    @staticmethod
    def _tall(values: Tensor, table: Tensor) -> Tensor:
        """One number for each row of a table."""
        return values.reshape(-1, *[1] * (table.ndim - 1))

    def _rising(self, values: Tensor, first: int = 0) -> Tensor:
        """The integral over lam from row `first` on, values' own first one, by trapezoids."""
        lams = self.lams[first:first + len(values)]
        return torch.cat([torch.zeros_like(values[:1]), torch.cumulative_trapezoid(values, lams, dim=0)])

    def sigma(self, place: int) -> float:
        return self.process.sigma(self.lams[place].item())

    def places(self, sigmas: list[float]) -> list[int]:
        """The grid's nearest places."""
        first, last = self.lams[0].item() - self.half_cell, self.lams[-1].item() + self.half_cell
        lams = [self._lam(sigma) for sigma in sigmas]
        for sigma, lam in zip(sigmas, lams):
            if not first <= lam <= last:
                raise ValueError(f"the EMS were measured from sigma {self.sigma(0):.4g} to {self.sigma(-1):.4g}, the "
                                 f"schedule has {sigma:.4g}; measure again for this schedule")
        places = [int((self.lams - lam).abs().argmin()) for lam in lams]
        for (sigma, place), (sigma_next, place_next) in pairwise(zip(sigmas, places)):
            if place == place_next:
                raise ValueError(f"sigmas {sigma:.4g} and {sigma_next:.4g} fall on one of the EMS' {len(self.lams)} "
                                 "levels; measure with more points or a wider range, take fewer steps, or set snap to "
                                 "interpolate")
        return places

    def _lam(self, sigma: float) -> float:
        return math.log(self.process.alpha(sigma) / sigma)

    def x_share(self, place: int) -> Tensor:
        return _like((1.0 - self.l[place]) / self.process.alpha(self.sigma(place)), self.x)

    def exact_step(self, sigma: float, x_coef: float, d_coef: float) -> _Step:
        """x_coef * x + d_coef * D, with f = -D."""
        zero = self.x.new_zeros(())
        return _Step(sigma, zero, _Update(zero + x_coef, (zero - d_coef,), zero))

    def update(self, nodes: list[int], end: int, pseudo: bool) -> _Update:
        """The step from nodes[0] to end, with g taken as a polynomial through its values at nodes.

        With s = nodes[0], t = end, and integrals from s to t, so that no exponent grows with the whole grid:
        x_t = alpha_t / alpha_s e^(L_s - L_t) x_s - alpha_t int e^(L - L_t + S - S_s) (g + e^S_s (B - B_s)) dlam,
        g_i = e^(S_s - S_i) f_i - e^S_s (B_i - B_s), B the integral of e^-S b.
        """
        start, low, span = nodes[0], min(nodes), slice(nodes[0], end + 1)
        alpha, alpha_next = (self.process.alpha(self.sigma(place)) for place in (start, end))
        growth = (self.L[span] - self.L[end] + self.S[span] - self.S[start]).exp()
        drift = self._rising((self.S[start] - self.S[low:end + 1]).exp() * self.b[low:end + 1], low)
        drift = drift - drift[start - low]  # e^S_s (B - B_s), from low to end
        offsets = self.lams[span] - self.lams[start]
        constant = -alpha_next * torch.trapezoid(growth * drift[start - low:], offsets, dim=0)
        f_coefs = {}
        for node, powers in zip(nodes, _basis((self.lams[nodes] - self.lams[start]).tolist(), pseudo)):
            shape = self._tall(sum(coef * offsets ** k for k, coef in enumerate(powers)), growth)
            weight = -alpha_next * torch.trapezoid(growth * shape, offsets, dim=0)
            constant = constant - weight * drift[node - low]
            f_coefs[node] = weight * (self.S[start] - self.S[node]).exp()
        x_coef = alpha_next / alpha * (self.L[start] - self.L[end]).exp()
        if not all(table.isfinite().all() for table in (x_coef, constant, *f_coefs.values())):
            raise ValueError(f"the EMS' s or l is so large that a step from sigma {self.sigma(start):.4g} to "
                             f"{self.sigma(end):.4g} overflows; measure with more samples")
        newest_first = [f_coefs[node] for node in sorted(nodes, reverse=True)]
        return _Update(x_coef, tuple(newest_first), constant).like(self.x)


def _basis(nodes: list[float], pseudo: bool) -> list[list[float]]:
    """For each node its polynomial, lowest power first, in a sum of values that continues them; nodes[0] = 0.

    Plainly the Lagrange basis. Pseudo: sum_k g[0..k] u^k, g[0..k] the divided difference on the first k + 1 nodes.
    """
    if not pseudo:
        return [[coef / math.prod(node - other for other in others) for coef in monic(others)]
                for node, others in ((node, nodes[:j] + nodes[j + 1:]) for j, node in enumerate(nodes))]
    return [[0.0] * j + [1.0 / math.prod(node - other for i, other in enumerate(nodes[:k + 1]) if i != j)
                         for k in range(j, len(nodes))] for j, node in enumerate(nodes)]


def _check(ems: EMS, x: Tensor) -> None:
    """Raises ValueError unless these are whole, finite statistics for latents like x."""
    if ems is None:
        raise ValueError("DPM-Solver-v3 needs the statistics (EMS) of its model; measure or load them first")
    shape, latent = ems.l.shape[1:], x.shape[1:]
    if not ems.l.shape == ems.s.shape == ems.b.shape or len(ems.l) < 2 or not ems.lam_first < ems.lam_last:
        raise ValueError("EMS must be three equal tables on 2 or more levels of rising lambda, got "
                         f"{tuple(ems.l.shape)}, {tuple(ems.s.shape)}, {tuple(ems.b.shape)} from {ems.lam_first:g} to "
                         f"{ems.lam_last:g}; measure them again")
    if len(shape) != len(latent) or any(own not in (1, wanted) for own, wanted in zip(shape, latent)):
        raise ValueError(f"the EMS were measured on latents of shape {tuple(shape)}, this one is {tuple(latent)}; "
                         "measure with spatial = channel for other sizes")
    if not all(table.isfinite().all() for table in ems[:3]):
        raise ValueError("the EMS have NaN or infinite values; measure them again, in float32")
