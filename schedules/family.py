"""The classic families of schedules, by name and with the parameters that each of them has.

Even in: karras sigma^(1 / rho); exponential log sigma; polyexponential log sigma, with places to the power rho;
uniform_log_snr log(alpha / sigma); kl_optimal arctan(sigma / data_std); vp the time of the linear VP SDE.
linear_quadratic falls slowly to 1 - threshold in linear_steps, then faster and faster; laplace has the quantiles of
exp(-|log sigma - laplace_mu| / laplace_beta).
On flows: flow_shift s = shift u / (1 + (shift - 1) u) of even u, flux_shift the same with shift = exp(mu); edm_time
karras levels as sigma / (1 + sigma).
Of a model's table: simple, normal, sgm_uniform, ddim_uniform and turbo as in ComfyUI, quadratic the squares of even
places.
Source: ComfyUI 0.3.64; Karras et al. 2022, arXiv 2206.00364 (karras), Sabour et al. 2024, arXiv 2404.14507, appendix
(kl_optimal), Esser et al. 2024, arXiv 2403.03206 (flow_shift), Song et al. 2021, arXiv 2011.13456 (vp) and 2010.02502
(quadratic), Hang et al. 2024, arXiv 2407.03297 (laplace), Mochi (linear_quadratic).
"""
import inspect
import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..samplers.clock import linear_vp_clock
from ..samplers.process import FLOW, VE, Process
from .classic import classic_sigmas
from .forms import check_range, even, falling
from .log_snr_density import log_snr_density_sigmas
from .power import power_sigmas


class Range(NamedTuple):
    """The ends of a schedule, where no model's table is needed."""
    sigma_min: float
    sigma_max: float


class Within:
    """A model's levels, or those between two ends: table and times."""

    def __init__(self, levels, ends: Range | None = None):
        self.timestep, self.sigma = levels.timestep, levels.sigma
        self.sigmas, self.sigma_min, self.sigma_max = levels.sigmas, levels.sigma_min, levels.sigma_max
        if ends is not None:
            inside = (self.sigmas >= ends.sigma_min * (1.0 - 1e-6)) & (self.sigmas <= ends.sigma_max * (1.0 + 1e-6))
            self.sigmas, (self.sigma_min, self.sigma_max) = self.sigmas[inside], torch.tensor(ends)
        if len(self.sigmas) < 2:
            raise ValueError(f"the model has {len(self.sigmas)} levels between {float(self.sigma_min):g} and "
                             f"{float(self.sigma_max):g}; spread them, or leave them at -1")

    def read(self, place: float, process: Process) -> float:
        """The level at a fractional place of the table, straight in sigma on flow models and else in log sigma."""
        low = int(place)
        first, second = self.sigmas[[low, min(low + 1, len(self.sigmas) - 1)]].tolist()
        part = place - low
        return first + part * (second - first) if process is FLOW else first * (second / first) ** part


def flow_shift(time: float, shift: float) -> float:
    """A flow's level at an unshifted time 0 to 1: shift u / (1 + (shift - 1) u). With 1 / shift it is undone.

    Source: Esser et al. 2024, arXiv 2403.03206, eq. 23; Flux has shift = exp(mu).
    """
    return shift * time / (1.0 + (shift - 1.0) * time)


def mu_of_size(width: int, height: int) -> float:
    """Flux's mu for a picture's size in pixels: straight from 0.5 at 256 tokens of 16 x 16 pixels to 1.15 at 4096."""
    return 0.5 + (width * height / 256.0 - 256.0) * (1.15 - 0.5) / (4096.0 - 256.0)


def _karras(levels, steps: int, rho: float) -> list[float]:
    return classic_sigmas("karras", levels, steps, rho=rho or 7.0).tolist()


def _polyexponential(levels, steps: int, rho: float) -> list[float]:
    low, high = math.log(levels.sigma_min), math.log(levels.sigma_max)
    return [math.exp(low + place ** (rho or 1.0) * (high - low)) for place in even(1.0, 0.0, steps)] + [0.0]


def _uniform_log_snr(levels, steps: int, process: Process) -> list[float]:
    return log_snr_density_sigmas(steps, "uniform", sigma_max=float(levels.sigma_max),
                                  sigma_min=float(levels.sigma_min), process=process).tolist()


def _vp(levels, steps: int) -> list[float]:
    clock = linear_vp_clock()
    times = (clock.time_of(float(sigma)) for sigma in (levels.sigma_max, levels.sigma_min))
    return [clock.sigma_of(time) for time in even(*times, steps)] + [0.0]


def _kl_optimal(levels, steps: int, data_std: float) -> list[float]:
    return classic_sigmas("kl_optimal", levels, steps, data_std=data_std).tolist()


def _linear_quadratic(levels, steps: int, threshold: float, linear_steps: int) -> list[float]:
    return classic_sigmas("linear_quadratic", levels, steps, threshold=threshold, linear_steps=linear_steps).tolist()


def _laplace(levels, steps: int, laplace_mu: float, laplace_beta: float, comfy_exact: bool) -> list[float]:
    low, high = float(levels.sigma_min), float(levels.sigma_max)
    if not comfy_exact:
        return log_snr_density_sigmas(steps, "laplace", mu=laplace_mu, width=laplace_beta, units="comfy_log_sigma",
                                      sigma_max=high, sigma_min=low).tolist()
    if steps < 2:
        raise ValueError("ComfyUI's laplace has one step less than asked for, and none at 1; raise steps, or turn "
                         "comfy_exact off")
    logs = [laplace_mu - laplace_beta * math.copysign(1.0, 0.5 - x) * (x != 0.5)
            * math.log(1.0 - 2.0 * abs(0.5 - x) + 1e-5) for x in even(0.0, 1.0, steps)]
    return [min(max(math.exp(value), low), high) for value in logs]


def _timed(name: str):
    """normal or sgm_uniform: of ComfyUI, which shifts a flow's lowest time twice, or evenly over the table's places."""
    def make(levels, steps: int, process: Process, comfy_exact: bool) -> list[float]:
        if comfy_exact or process is not FLOW:
            return classic_sigmas(name, levels, steps).tolist()
        places = even(len(levels.sigmas) - 1.0, 0.0, steps + (name == "sgm_uniform"))[:steps]
        return [levels.read(place, process) for place in places] + [0.0]

    return make


def _simple(levels, steps: int) -> list[float]:
    return classic_sigmas("simple", levels, steps).tolist()


def _ddim_uniform(levels, steps: int, comfy_exact: bool) -> list[float]:
    if comfy_exact:
        return classic_sigmas("ddim_uniform", levels, steps).tolist()
    table = levels.sigmas.tolist()
    rising = [table[min(1 + int(i * len(table) / steps), len(table) - 1)] for i in range(steps)]
    return [*rising[::-1], 0.0]


def _quadratic(levels, steps: int, process: Process) -> list[float]:
    top = len(levels.sigmas) - 1
    return [levels.read(top * place ** 2, process) for place in even(1.0, 0.0, steps)] + [0.0]


def _turbo(levels, steps: int, denoise: float) -> list[float]:
    start = 10 - int(10 * denoise)
    sigmas = [float(levels.sigma(torch.tensor(float(time)))) for time in range(999, 0, -100)][start:start + steps]
    if sigmas and sigmas[0] > float(levels.sigma_max) * (1.0 + 1e-5):
        raise ValueError("turbo is for models with 1000 timesteps (SD, SDXL); take simple on this one")
    return [*sigmas, 0.0]


def _flow_shift(levels, steps: int, shift: float, terminal: float) -> list[float]:
    first, last = (flow_shift(sigma, 1.0 / shift) for sigma in (levels.sigma_max, levels.sigma_min))
    times = even(first, last, steps) if last > 0.0 else even(first, 0.0, steps + 1)[:-1]
    sigmas = [flow_shift(time, shift) for time in times]
    if terminal > 0.0 and steps > 1:
        sigmas = [1.0 - (1.0 - sigma) * (1.0 - terminal) / (1.0 - sigmas[-1]) for sigma in sigmas]
    return [*sigmas, 0.0]


def _flux_shift(levels, steps: int, mu: float, width: int, height: int, terminal: float) -> list[float]:
    return _flow_shift(levels, steps, math.exp(mu_of_size(width, height) if width and height else mu), terminal)


def _edm_time(levels, steps: int, rho: float) -> list[float]:
    return [1.0 / (1.0 + 1.0 / sigma) for sigma in
            power_sigmas(steps, levels.sigma_max, levels.sigma_min, rho or 7.0).tolist()[:-1]] + [0.0]


FAMILIES = {
    "karras": _karras, "exponential": lambda levels, steps: _polyexponential(levels, steps, 1.0),
    "polyexponential": _polyexponential, "uniform_log_snr": _uniform_log_snr, "kl_optimal": _kl_optimal, "vp": _vp,
    "laplace": _laplace, "linear_quadratic": _linear_quadratic, "flow_shift": _flow_shift, "flux_shift": _flux_shift,
    "edm_time": _edm_time, "simple": _simple, "normal": _timed("normal"), "sgm_uniform": _timed("sgm_uniform"),
    "ddim_uniform": _ddim_uniform, "quadratic": _quadratic, "turbo": _turbo,
}
OF_TABLE = ("simple", "normal", "sgm_uniform", "ddim_uniform", "quadratic", "turbo")  # need a model
OF_FLOW = ("flow_shift", "flux_shift", "edm_time")
OWN_RANGE = {"vp": Range(*(linear_vp_clock().sigma_of(time) for time in (1e-3, 1.0))), "edm_time": Range(0.002, 80.0),
             "flow_shift": Range(0.0, 1.0), "flux_shift": Range(0.0, 1.0)}


def family_sigmas(steps: int = 10, family: str = "karras", denoise: float = 1.0, *, sigma_max: float = -1.0,
                  sigma_min: float = -1.0, comfy_exact: bool = True, rho: float = 0.0, shift: float = 3.0,
                  mu: float = 1.15, width: int = 0, height: int = 0, terminal: float = 0.0, data_std: float = 1.0,
                  threshold: float = 0.025, linear_steps: int = 0, laplace_mu: float = 0.0, laplace_beta: float = 0.5,
                  levels=None, process: Process | None = None) -> Tensor:
    """float64 levels of a family (see above), strictly falling, the last 0: steps + 1 of them unless said otherwise.

    sigma_max, sigma_min: -1 is the model's, or the family's own: vp's without a model, a flow family's always (1 and
    none; edm_time counts in VE levels, from 80 to 0.002). rho 0: 7, or 1 for polyexponential. linear_steps 0: half.
    width, height: a picture's pixels give mu (see mu_of_size) where both are above 0. terminal: where a shifted flow
    ends before the 0, if above 0.
    comfy_exact: with ComfyUI's quirks: ddim_uniform has whole strides and so another number of steps, laplace stops
    above 0 after steps - 1, and normal and sgm_uniform count a flow's shift twice at their low end. Levels that repeat
    are dropped, as at more steps than a table has levels.
    denoise < 1 keeps the last `steps` steps of int(steps / denoise); turbo starts lower in its ten; 0 gives none.
    levels: a model's, as classic_sigmas takes them. process: a model's, None without one.
    """
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
    if family in OF_FLOW and process is VE:
        raise ValueError(f"{family} is for flow models (Flux, SD3, Wan), and this one is none; take karras or simple")
    if steps < 1 or not 0.0 <= denoise <= 1.0:
        raise ValueError(f"need steps of at least 1 and denoise in [0, 1], got {steps} and {denoise}")
    if min(shift, data_std, laplace_beta) <= 0.0 or not (rho == 0.0 or rho >= 0.01) or not (
            0.0 <= terminal < 1.0):
        raise ValueError("shift, data_std and laplace_beta must be above 0, rho 0 or at least 0.01, and terminal in "
                         "[0, 1)")
    if denoise == 0.0:
        return torch.zeros(0, dtype=torch.float64)
    given = {"rho": rho, "shift": shift, "mu": mu, "width": width, "height": height, "terminal": terminal,
             "data_std": data_std, "threshold": threshold, "linear_steps": linear_steps, "laplace_mu": laplace_mu,
             "laplace_beta": laplace_beta, "comfy_exact": comfy_exact, "process": process or VE, "denoise": denoise}
    make, asked = FAMILIES[family], inspect.signature(FAMILIES[family]).parameters
    total = steps if denoise == 1.0 or family == "turbo" else int(steps / denoise)
    sigmas = make(_levels_for(family, levels, sigma_max, sigma_min), total,
                  **{name: value for name, value in given.items() if name in asked})
    return falling(sigmas)[-(steps + 1):] if total > steps else falling(sigmas)


def _levels_for(family: str, levels, sigma_max: float, sigma_min: float):
    """What a family is made from: a model's levels, all or those in a range, or a range."""
    own = OWN_RANGE.get(family) if levels is None or family in OF_FLOW else levels
    if own is None and (family in OF_TABLE or min(sigma_max, sigma_min) < 0.0):
        raise ValueError(f"{family} needs " + ("a MODEL, for its table of levels" if family in OF_TABLE else
                                               "sigma_max and sigma_min above 0, or a MODEL to take them from"))
    if family == "turbo" or family in OF_TABLE and max(sigma_max, sigma_min) < 0.0:
        return Within(levels)
    ends = Range(sigma_min if sigma_min >= 0.0 else float(own.sigma_min),
                 sigma_max if sigma_max >= 0.0 else float(own.sigma_max))
    shifted = family in ("flow_shift", "flux_shift")
    check_range(1, ends.sigma_max, ends.sigma_min or 1e-9 * shifted, FLOW if shifted else VE)
    return Within(levels, ends) if family in OF_TABLE else ends
