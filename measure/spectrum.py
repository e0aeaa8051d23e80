"""How a picture in the making changes along a run, by spatial frequency, and the Beta schedule that follows it."""
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..samplers.exponential_adams import plan_exponential_adams
from ..samplers.process import VE, Process
from .progress import Progress


@torch.no_grad()
def spectral_changes(model: Callable, x: Tensor, sigmas: list[float], *, bins: int = 16, process: Process = VE,
                     state: dict[str, Tensor] | None = None) -> Iterator[Progress]:
    """Runs exponential Adams of order 2 down the levels and compares every state with the one before it, both scaled to
    unit size, x / sqrt(alpha^2 + sigma^2).

    A Progress at each level but the last; state["changes"] (levels - 1, bins) holds the mean over the batch of the size
    of the change, a sum of squares under the root, within each of `bins` rings of equal width in radial frequency, from
    the lowest to the highest. x (B, ...) at sigmas[0], its last two axes the picture's (one, where there are no more).
    Cost: len(sigmas) - 1 model calls on the whole batch.
    Source: Lee et al. 2024, arXiv 2407.12173, watches the states of a run so; scaling and rings are this file's.
    """
    if bins < 2:
        raise ValueError(f"bins must be at least 2, got {bins}")
    steps = plan_exponential_adams(sigmas, order=2, process=process)
    changes, history, sizes = [], [], [math.hypot(process.alpha(sigma), sigma) for sigma in sigmas]
    if state is not None:
        x, changes, history = state["x"].to(x), list(state["changes"]), list(state["history"].to(x))
    for i in range(len(changes), len(steps)):
        denoised = model(x, steps[i].sigma)
        history = [denoised, *history][:2]
        x_next = steps[i].predict(x, history)
        changes.append(_by_frequency(x_next / sizes[i + 1] - x / sizes[i], bins))
        x = x_next
        numbers = {"changes": torch.stack(changes), "x": x, "history": torch.stack(history)}
        yield Progress(i + 1, len(steps), numbers, denoised)


def _by_frequency(change: Tensor, bins: int) -> Tensor:
    """(bins,) float64: the length of a change (B, ...) in each ring of frequencies, meaned over the batch."""
    axes = tuple(range(max(2, change.ndim - 2), change.ndim))
    power = torch.fft.fftn(change.cpu().double(), dim=axes, norm="ortho").abs().square()
    radius = torch.zeros(())
    for place, axis in enumerate(reversed(axes)):
        frequency = torch.fft.fftfreq(change.shape[axis]).reshape(-1, *[1] * place)
        radius = (radius.square() + frequency.square()).sqrt()
    ring = (radius / radius.max() * bins).long().clamp(max=bins - 1).flatten()
    flat = power.flatten(len(power.shape) - len(axes)).reshape(len(change), -1, ring.numel()).sum(1)
    return torch.zeros(len(change), bins, dtype=torch.float64).index_add_(1, ring, flat).sqrt().mean(0)


def change_curves(changes: Tensor) -> dict[str, list[float]]:
    """What share of each band's change is done by each level, from the first (0) to the last (1): 'low' and 'high' are
    the means over the rings of the lower and the upper half of the frequencies, 'all' is that over all.

    Every ring counts alike, whatever its energy: fine detail has little of it and settles last. Rings with less than
    1e-4 of the largest one's change are empty but for rounding, and left out.
    """
    total = changes.sum(0)
    if not total.max() > 0.0:
        raise ValueError("nothing changes along this schedule; take one that starts higher")
    kept = total > 1e-4 * total.max()
    shares = torch.cat([changes.new_zeros(1, len(total)), changes.cumsum(0)])[:, kept] / total[kept]
    half = max(shares.shape[1] // 2, 1)
    bands = {"low": shares[:, :half], "high": shares[:, -half:], "all": shares}
    return {name: band.mean(1).tolist() for name, band in bands.items()}


def fit_beta(places: list[float], done: list[float]) -> tuple[float, float]:
    """(alpha, beta) of the Beta distribution whose share above a place is nearest, in the mean square, to the share of
    the change that is done there. Schedules of these quantiles take steps of equal change.

    places: falling, in [0, 1], 1 the highest level of the model's table; done: the same run's, from 0 to 1. The range
    that the places leave out counts as unseen: shares are those of the range between the first place and the last.
    """
    try:
        from scipy.optimize import least_squares
        from scipy.special import betainc
    except ImportError as error:
        raise ImportError("fitting a Beta schedule needs SciPy; install it with: pip install 'odeon[science]'"
                          ) from error
    top, bottom = places[0], places[-1]

    def missing(logs):
        alpha, beta = math.exp(logs[0]), math.exp(logs[1])
        below, above = betainc(alpha, beta, bottom), betainc(alpha, beta, top)
        return [(above - betainc(alpha, beta, place)) / max(above - below, 1e-12) - share
                for place, share in zip(places, done)]

    limits = (math.log(0.05), math.log(20.0))
    found = least_squares(missing, [math.log(0.8)] * 2, bounds=tuple([limit] * 2 for limit in limits))
    return math.exp(found.x[0]), math.exp(found.x[1])
