"""Measures the statistics (EMS) that DPM-Solver-v3 is built around, along trajectories of the model itself."""
import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..samplers.dpm_solver_v3 import EMS
from ..samplers.exponential_adams import plan_exponential_adams
from ..samplers.noise import step_noise
from ..samplers.process import FLOW, VE, Process
from ..samplers.transfer import ddim
from .progress import Progress

SUMS = ("l", "u", "d", "uu", "ud", "dd")


def ems_cost(samples: int, *, points: int = 250, process: Process = VE) -> int:
    """Model calls of a measurement, each counted as one evaluation of one sample, so that batch doesn't matter.

    Two at every level: D, and its derivative by a second call or by a jvp, about as dear as one. Flow models take one
    more to start a sample.
    """
    return samples * (2 * (points + 1) + (process is FLOW))


@torch.no_grad()
def measure_ems(model: Callable, noise: Tensor, *, process: Process, sigma_max: float, sigma_min: float,
                points: int = 250, batch: int = 4, jacobian: str = "finite_diff", nudge: float = 0.2, seed: int = 0,
                state: dict[str, Tensor] | None = None) -> Iterator[Progress]:
    """Follows each start down points + 1 levels even in lam = log(alpha / sigma); ems_of(state) is the result.

    model(x (B, ...), sigma: float) -> D; noise (K, ...): unit starts, K samples, 64 for a try and 1024 as the authors.
    sigma_max: below 1 for flow models, whose starts are first brought there from sigma = 1. batch: samples at once.
    The diagonal of dD/dx is the mean of v * (dD/dx v) over random signs v, by jacobian = 'jvp' (forward derivative) or
    'finite_diff' (a second call, at x + nudge * sigma * v). That difference needs no call at -v: its error of first
    order has mean 0, as third moments of signs have. nudge is a share of the noise, the scale on which D bends at
    every level: 0.2 leaves l right to about 0.004, and stays above the rounding of half precision networks. A sample
    keeps its v on the whole way, so that the error of l is smooth in lam; v comes from seed and the sample's own start,
    so that batch does not matter.
    Yields a Progress at every level; its state, float64 sums on the CPU (6 tables (points + 1, ...)), changes after
    every batch, and a run that is given it goes on bit for bit. done and total count as ems_cost does.
    Source: Zheng et al. 2023, arXiv 2310.13268, appendix C.1.1; Hutchinson 1990 for the diagonal.
    """
    if jacobian not in ("jvp", "finite_diff"):
        raise ValueError(f"jacobian must be 'jvp' or 'finite_diff', got {jacobian!r}")
    if batch < 1 or nudge <= 0.0:
        raise ValueError(f"batch must be 1 or more and nudge above 0, got {batch} and {nudge:g}")
    sigmas = _levels(process, sigma_max, sigma_min, points)
    fresh = _fresh(noise, process.lams([sigma_max, sigma_min]), points)
    state = fresh if state is None else _continued(state, fresh)
    walk = _Walk(model, process, sigmas, None if jacobian == "jvp" else nudge)
    begun, total = int(state["samples"]), ems_cost(len(noise), points=points, process=process)
    if begun >= len(noise):
        yield Progress(total, total, state)
    for first in range(begun, len(noise), batch):
        starts = noise[first:first + batch]
        signs = torch.where(step_noise(starts, seed, "ems")(sigma_max, sigma_min) < 0.0, -1.0, 1.0).to(starts)
        sums = {key: torch.zeros_like(fresh[key]) for key in SUMS}
        for place, (x, denoised, slope) in enumerate(walk(starts, signs)):
            for key, moment in zip(SUMS, _moments(process.alpha(sigmas[place]), x, denoised, signs * slope)):
                sums[key][place] = moment
            if place == points:
                _require_finite(sums, sigmas)
                state = state | {key: state[key] + sums[key] for key in SUMS}
                state["samples"] = state["samples"] + len(starts)
            done = sum(ems_cost(count, points=levels, process=process)
                       for count, levels in ((first, points), (len(starts), place)))
            yield Progress(done, total, state, denoised)


def _levels(process: Process, sigma_max: float, sigma_min: float, points: int) -> list[float]:
    if points < 2:
        raise ValueError(f"points must be 2 or more, got {points}")
    first, last = process.lams([sigma_max, sigma_min])
    if not (math.isfinite(first) and math.isfinite(last)):
        raise ValueError(f"EMS live between pure noise and the picture: need sigma_min above 0 and, for flow models, "
                         f"sigma_max below 1, got {sigma_min:g} and {sigma_max:g}; take 0.999 for 1")
    return [process.sigma(first + (last - first) * place / points) for place in range(points + 1)]


def _fresh(noise: Tensor, lams: list[float], points: int) -> dict[str, Tensor]:
    """A state before the first batch."""
    shape = (points + 1, *noise.shape[1:])
    return {"samples": torch.zeros((), dtype=torch.int64), "lams": torch.tensor(lams, dtype=torch.float64),
            **{key: torch.zeros(shape, dtype=torch.float64) for key in SUMS}}


def _continued(state: dict[str, Tensor], fresh: dict[str, Tensor]) -> dict[str, Tensor]:
    """The given state, if it belongs to a measurement like the one `fresh` begins."""
    if not torch.equal(state["lams"], fresh["lams"]) or state["l"].shape != fresh["l"].shape:
        raise ValueError(f"this state was measured on tables of {tuple(state['l'].shape)} from lambda "
                         f"{state['lams'][0]:.4g} to {state['lams'][1]:.4g}, this run makes {tuple(fresh['l'].shape)} "
                         f"from {fresh['lams'][0]:.4g} to {fresh['lams'][1]:.4g}; go on with the same settings, or "
                         "start anew")
    return state


class _Walk(NamedTuple):
    """The trajectories of starts along the levels, and the derivative of D on them: by a jvp where nudge is None."""
    model: Callable
    process: Process
    sigmas: list[float]
    nudge: float | None

    def __call__(self, starts: Tensor, signs: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """x, D and dD/dx signs at every level, by exponential Adams of order 2."""
        if self.process is FLOW:
            x_coef, d_coef = ddim(self.process, 1.0, self.sigmas[0])
            x = x_coef * starts + d_coef * self.model(starts, 1.0)
        else:
            x = self.sigmas[0] * starts
        history, steps = deque(maxlen=2), plan_exponential_adams(self.sigmas, order=2, process=self.process)
        for place, sigma in enumerate(self.sigmas):
            denoised, slope = self.directional(x, sigma, signs)
            yield x, denoised, slope
            history.appendleft(denoised)
            if place < len(steps):
                x = steps[place].predict(x, history)

    def directional(self, x: Tensor, sigma: float, signs: Tensor) -> tuple[Tensor, Tensor]:
        """D and its derivative along signs."""
        if self.nudge is None:
            try:
                return torch.func.jvp(lambda x: self.model(x, sigma), (x,), (signs,))
            except NotImplementedError as error:
                raise ValueError("this model has an operation without forward derivative: "
                                 f"{str(error).splitlines()[0]} Choose jacobian = finite_diff") from error
        denoised, size = self.model(x, sigma), self.nudge * sigma
        return denoised, (self.model(x + size * signs, sigma) - denoised) / size


def _moments(alpha: float, x: Tensor, denoised: Tensor, diagonal: Tensor) -> tuple[Tensor, ...]:
    """What a batch adds to the sums at one level, in the order of SUMS, with u = x / alpha and l = 1 - alpha dD/dx."""
    x, d, diagonal = (value.detach().cpu().double() for value in (x, denoised, diagonal))
    u = x / alpha
    return tuple(value.sum(0) for value in (1.0 - alpha * diagonal, u, d, u * u, u * d, d * d))


def _require_finite(sums: dict[str, Tensor], sigmas: list[float]) -> None:
    for place, sigma in enumerate(sigmas):
        if not all(sums[key][place].isfinite().all() for key in ("l", "dd")):
            raise ValueError(f"the model returned NaN or infinite values at sigma {sigma:.4g}; try a higher precision "
                             "or a lower CFG. The batches before this one are kept")


def ems_of(state: dict[str, Tensor], *, spatial: str = "full", smooth: int = 2, about: dict | None = None) -> EMS:
    """The EMS out of the sums of a measurement: tables (N + 1, ...) float64, or (N + 1, C, 1, ...) for 'channel'.

    With u = x / alpha: f = (sigma eps - l x) / alpha = (1 - l) u - D, linear in what was summed. The samples follow the
    ODE, so f1 = df/dlam along each of them, and its regression on f needs no derivative of the network:
    s = cov(f, f1) / var(f) = (1/2) d log var(f)/dlam, b = E[f1] - s E[f] = d E[f]/dlam - s E[f], with derivatives over
    the grid of order 2; that of the logarithm keeps e^S, a ratio of spreads, right on coarse grids too. s = 0 where
    var(f) is rounding noise. spatial: 'channel' takes every mean over the picture too, for latents of other sizes than
    the measured one. smooth: l is first averaged over so many levels to either side, since s holds its derivative and
    the rounding of half precision networks is new at every level.
    about: see EMS. Source: Zheng et al. 2023, arXiv 2310.13268, section 3.1 and appendix C.1.1.
    """
    if spatial not in ("full", "channel"):
        raise ValueError(f"spatial must be 'full' or 'channel', got {spatial!r}")
    samples, points = int(state["samples"]), len(state["l"]) - 1
    if samples < 2:
        raise ValueError(f"EMS need at least 2 finished samples, got {samples}; let the measurement run on")
    if not 0 <= smooth <= points:
        raise ValueError(f"smooth must lie in 0 to {points}, the points of this measurement, got {smooth}")
    means = {key: state[key] / samples for key in SUMS}
    if spatial == "channel":
        axes = tuple(range(2, means["l"].ndim))
        means = {key: mean.mean(axes, keepdim=True) if axes else mean for key, mean in means.items()}
    l_mean = _smoothed(means["l"], smooth)
    share = 1.0 - l_mean
    mean = share * means["u"] - means["d"]
    var_u, cov_ud, var_d = (means[key] - means[key[0]] * means[key[1]] for key in ("uu", "ud", "dd"))
    parts = share.square() * var_u + var_d
    var = parts - 2.0 * share * cov_ud
    first, last = state["lams"].tolist()
    rounding = 1e-8 * parts + 1e-12
    growth, drift = (torch.gradient(table, spacing=(last - first) / points, dim=0, edge_order=2)[0]
                     for table in (var.maximum(rounding).log(), mean))
    s = torch.where(var > rounding, 0.5 * growth, 0.0)
    return EMS(l_mean, s, drift - s * mean, first, last, about or {})


def _smoothed(table: Tensor, reach: int) -> Tensor:
    """The mean over `reach` rows to either side; beyond the ends the table is taken point-symmetric to them."""
    before = 2.0 * table[:1] - table[1:reach + 1].flip(0)
    behind = 2.0 * table[-1:] - table[len(table) - 1 - reach:-1].flip(0)
    return torch.cat([before, table, behind]).unfold(0, 2 * reach + 1, 1).mean(-1)
