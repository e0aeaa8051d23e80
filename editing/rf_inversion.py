"""RF inversion: a flow steered up to a chosen noise, and down again past the picture it came from."""
from collections.abc import Callable
from itertools import pairwise

from torch import Tensor

from ..samplers.process import FLOW, Process
from .inversion import FLOOR, slope

TRENDS = ("constant", "linear_decrease", "linear_increase", "power")


def steered(velocity: Tensor, towards: Tensor, share: float) -> Tensor:
    """The model's velocity with a share of the one that leads straight to a goal: arXiv 2410.10792, eq. 8 and 15."""
    return velocity + share * (towards - velocity)


def sample_rf_invert(denoise: Callable, x: Tensor, sigmas: list[float], *, gamma: float = 0.5, noise_of: Callable,
                     process: Process, callback: Callable | None = None) -> Tensor:
    """The state of a picture x (B, C, ...) at sigmas[-1], up rising sigmas, steered to one unit noise.

    x += (t_next - t) (u + gamma (u_c - u)), u = (x - D) / t, u_c = (noise - x) / (1 - t), t = sigma. gamma 0 follows
    the model alone, 1 ends at the noise. NFE len(sigmas) - 1. Source: Rout et al. 2024, arXiv 2410.10792, algorithm 1.
    """
    _require_flow(process)
    if not 0.0 <= gamma <= 1.0:
        raise ValueError(f"gamma must lie in [0, 1], got {gamma}")
    noise = noise_of("rf_invert")(sigmas[-1], 0.0).to(x)
    for i, (t, t_next) in enumerate(pairwise(sigmas)):
        velocity = slope(denoise, x, t, process)
        if callback is not None:
            callback(i, x, x - max(t, FLOOR) * velocity, t)
        x = x + (t_next - t) * steered(velocity, (noise - x) / (1.0 - t), gamma)
    return x


def sample_rf_edit(denoise: Callable, x: Tensor, sigmas: list[float], *, reference: Tensor, eta: float = 0.9,
                   start: float = 0.0, stop: float = 0.25, trend: str = "constant", sde: bool = False,
                   power: float = 1.0, noise_of: Callable, process: Process,
                   callback: Callable | None = None) -> Tensor:
    """The state at sigmas[-1] from x (B, C, ...), steered to the picture reference (B or 1, C, ...).

    x += (t - t_next) (u + eta_i (u_c - u)), u = -(x - D) / t, u_c = (reference - x) / t, t = sigma, for the steps from
    share start to share stop of the schedule; the others follow the model. eta 1 throughout ends at the reference, 0 is
    Euler. trend, power: see pulls. sde: a drift 2 u - x / (1 - t) with noise sqrt(2 t / (1 - t) (t - t_next)) in all
    steps but the first, none in that to 0.
    NFE len(sigmas) - 1. Source: Rout et al. 2024, arXiv 2410.10792, algorithm 2 and eq. 17.
    """
    _require_flow(process)
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")
    process.lams(sigmas)
    shares = pulls(len(sigmas) - 1, eta=eta, start=start, stop=stop, trend=trend, power=power)
    reference = _fitting(reference.to(x), x)
    draw = noise_of("rf_edit") if sde else None
    for i, (t, t_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, x.new_full((len(x),), t))
        if callback is not None:
            callback(i, x, denoised, t)
        drift = steered((denoised - x) / t, (reference - x) / t, shares[i])
        if sde and i:
            drift = 2.0 * drift - x / (1.0 - t)
        x = x + (t - t_next) * drift
        if sde and i and t_next > 0.0:
            x = x + (2.0 * t / (1.0 - t) * (t - t_next)) ** 0.5 * draw(t, t_next).to(x)
    return x


def pulls(steps: int, *, eta: float, start: float, stop: float, trend: str, power: float = 1.0) -> list[float]:
    """eta of each step i of N: 0 but for int(start N) <= i < int(stop N).

    trend: 'linear_decrease' goes to 0 in the last of these, 'linear_increase' from 0 in the first; 'power' is
    eta (1 - i / N)^power, the authors' decay, which counts over the whole schedule.
    """
    if trend not in TRENDS:
        raise ValueError(f"trend must be one of {', '.join(TRENDS)}, got {trend!r}")
    if not 0.0 <= start <= stop <= 1.0:
        raise ValueError(f"need 0 <= start <= stop <= 1, got {start} and {stop}; swap the two")
    if power < 0.0:
        raise ValueError(f"power must be 0 or more, got {power}")
    first, last = int(start * steps), int(stop * steps)
    found = [0.0] * steps
    for i in range(first, last):
        along = (i - first) / max(last - 1 - first, 1)
        found[i] = eta * {"constant": 1.0, "linear_decrease": 1.0 - along, "linear_increase": along,
                          "power": (1.0 - i / steps) ** power}[trend]
    return found


def _fitting(reference: Tensor, x: Tensor) -> Tensor:
    if reference.shape[1:] != x.shape[1:] or len(reference) not in (1, len(x)):
        raise ValueError(f"the reference has the size {tuple(reference.shape)}, the run {tuple(x.shape)}; connect the "
                         "LATENT that was inverted")
    return reference


def _require_flow(process: Process) -> None:
    if process is not FLOW:
        raise ValueError("RF inversion is for flow models (Flux, SD3, shapes-dit), this one is none; take DDIM, BDIA "
                         "or edit-friendly inversion")
