"""Noise levels in other units: the timesteps that networks, papers and programs count them in, and log-SNR.

`levels` is a model's own: an object with sigmas (table, rising), sigma_min, sigma_max, timestep(sigma tensor), which is
what its network is told, and sigma(timestep tensor), which of shifted models is no inverse of it.
"""
import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from ..samplers.clock import Clock, clock_of_table
from ..samplers.process import FLOW, Process

KINDS = ("index", "index_continuous", "t01", "logsnr", "sigma")
SMALLEST = 1e-8  # of the levels that are told from 0


def sigmas_from_timesteps(timesteps: list[float], levels, process: Process, *, kind: str = "index",
                          append_zero: bool = True) -> Tensor:
    """The levels of a list of timesteps, float64, strictly falling; append_zero: with a 0 behind, if none is there.

    kind 'index': as the network is told. Networks with a table (SD, SDXL, LCM) count its places, 0 to 999, read
    between them by straight lines in log sigma; flow models are told sigma times 1000 or sigma itself, whatever their
    shift; EDM models log(sigma) / 4. 'index_continuous': places of a table read by straight lines in log alpha,
    sigma = sqrt(1 / alpha^2 - 1), as the code of DPM-Solver and what came of it does; other models as 'index'.
    't01': the share of the schedule, (place + 1) / places of a table, read as 'index_continuous'; of flow models the
    time 0 to 1 before their shift; EDM models have none. 'logsnr': log(alpha^2 / sigma^2), both squares, so that it is
    twice lambda. 'sigma': the level itself.
    ValueError for timesteps that lie outside the model's levels or do not fall.
    Source: ComfyUI 0.3.64, comfy/model_sampling.py; Lu et al. 2022, arXiv 2206.00927, appendix D.4 for log alpha.
    """
    if not timesteps:
        raise ValueError("need at least one timestep, got none; write some between commas")
    clock = clock_of_kind(kind, levels, process)
    sigmas = [clock.sigma_of(float(value)) for value in timesteps]
    _require_reachable(sigmas[0], levels)
    if append_zero and sigmas[-1] > 0.0:
        sigmas.append(0.0)
    if any(following >= sigma for sigma, following in pairwise(sigmas)):
        raise ValueError(f"the levels of the timesteps must fall from step to step, got {_shown(sigmas)}; "
                         "sort them and drop repeats, or choose the kind they are of")
    return torch.tensor(sigmas, dtype=torch.float64)


def timesteps_of_sigmas(sigmas: list[float], levels, process: Process, *, kind: str = "index") -> list[float]:
    """What sigmas_from_timesteps makes those levels of, without a last 0. Places of a table are not rounded."""
    kept = sigmas[:-1] if sigmas and sigmas[-1] == 0.0 else sigmas
    if not kept or min(kept) <= 0.0:
        raise ValueError(f"need sigmas above 0, with at most a 0 at the end, got [{_shown(sigmas)}]")
    _require_reachable(kept[0], levels)
    clock = clock_of_kind(kind, levels, process)
    return [clock.time_of(float(sigma)) for sigma in kept]


def clock_of_kind(kind: str, levels, process: Process) -> Clock:
    """The two-way map between sigmas and one of KINDS."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if kind == "sigma":
        return Clock(lambda sigma: sigma, lambda time: time)
    if kind == "logsnr":
        return Clock(lambda sigma: 2.0 * _lam(process, sigma), lambda time: process.sigma(time / 2.0))
    counted = told_places(levels)
    if counted is None:
        return _shifted_clock(levels, process) if kind == "t01" else _told_clock(levels)
    table = levels.sigmas.tolist()
    if kind == "index":
        return _in_places(clock_of_table(table), len(table), *counted)
    places = clock_of_table([math.hypot(1.0, sigma) for sigma in table])  # in the logs of 1 / alpha
    by_alpha = Clock(lambda sigma: places.time_of(math.hypot(1.0, sigma)),
                     lambda place: math.sqrt(max(places.sigma_of(place) ** 2 - 1.0, 0.0)))
    return _in_places(by_alpha, len(table), *counted, shares=kind == "t01")


def told_places(levels) -> tuple[int, int] | None:
    """(first, stride) of a network that is told first + stride * (place in its table of levels), as Stable Diffusion is
    (0, 1) and LCM, which knows every twentieth of its levels (19, 20); None for others."""
    told = levels.timestep(levels.sigmas).cpu()
    first, stride = (0, 1) if told.is_floating_point() else (int(told[0]), int(told[1] - told[0]))
    places = first + stride * torch.arange(len(told))
    return (first, stride) if (told.double() - places).abs().max() < 0.5 else None


def counts_places(levels) -> bool:
    """Whether the network is told places in its table of levels."""
    return told_places(levels) is not None


def place_of(levels, sigma: Tensor, counted: tuple[int, int] = (0, 1)) -> Tensor:
    """What a network that counts places, see told_places, is told of sigma (any shape), not rounded: straight lines in
    log sigma, in sigma's precision and on its device. Levels outside the table take the nearest end."""
    (first, stride), table, value = counted, levels.sigmas.to(sigma).log(), sigma.log()
    high = torch.searchsorted(table, value.contiguous()).clamp(1, len(table) - 1)
    part = (value - table[high - 1]) / (table[high] - table[high - 1])
    return first + stride * (high - 1 + part.clamp(0.0, 1.0))


def _in_places(places: Clock, count: int, first: int, stride: int, *, shares: bool = False) -> Clock:
    """A clock of what the network is told of the places 0 to count - 1, which refuses others; shares: its times are
    (what it is told + 1) / (the highest it is told + 1)."""
    whole = first + stride * (count - 1) + 1

    def time(place: float) -> float:
        told = first + stride * place
        return (told + 1.0) / whole if shares else told

    def checked(place: float, what: str) -> float:
        if not -0.05 <= place <= count - 0.95:
            raise ValueError(f"{what} lies outside this model's timesteps {time(0):g} to {time(count - 1):g}; choose "
                             "the kind it is of, or the model it was made for")
        return place

    def sigma_of(value: float) -> float:
        told = value * whole - 1.0 if shares else value
        return places.sigma_of(checked((told - first) / stride, f"timestep {value:g}"))

    return Clock(lambda sigma: time(checked(places.time_of(sigma), f"sigma {sigma:g}")), sigma_of)


def _told_clock(levels) -> Clock:
    """What the network is told, and the level that it is told it of: found in timestep() alone, since sigma() of
    shifted models counts in another time."""
    def told(sigma: float) -> float:
        return float(levels.timestep(torch.tensor(sigma, dtype=torch.float64)))

    highest = float(levels.sigma_max) * 1.001  # beyond what _require_reachable lets pass

    def sigma_of(time: float) -> float:
        if abs(time - told(0.0)) < 1e-12:
            return 0.0
        if time < told(SMALLEST):
            raise ValueError(f"timestep {time:g} lies below what this model counts, {told(SMALLEST):.4g} to "
                             f"{told(float(levels.sigma_max)):.6g}; choose the kind it is of")
        return math.exp(_inverse(lambda log_sigma: told(math.exp(log_sigma)), time, math.log(SMALLEST),
                                 math.log(highest)))

    return Clock(told, sigma_of)


def _shifted_clock(levels, process: Process) -> Clock:
    """The model's schedule time 0 to 1, through sigma()."""
    if float(levels.timestep(levels.sigma_min)) < 0.0:
        raise ValueError("t01 has no meaning for this model, which counts log(sigma); choose index, logsnr or sigma")
    whole = float(levels.timestep(torch.ones((), dtype=torch.float64))) if process is FLOW else 1.0

    def sigma_of(time: float) -> float:
        if not 0.0 <= time <= 1.0 + 1e-9:
            raise ValueError(f"t01 must lie in [0, 1], got {time:g}; counts from 0 to 1000 are the kind index")
        if time == 0.0 and process is FLOW:
            return 0.0
        return float(levels.sigma(torch.tensor(time * whole, dtype=torch.float64)))

    return Clock(lambda sigma: _inverse(sigma_of, sigma, SMALLEST, 1.0), sigma_of)


def _inverse(function: Callable[[float], float], value: float, low: float, high: float) -> float:
    """Where a rising function has a value between its own at low and high; outside of them the nearer end."""
    while True:
        middle = (low + high) / 2.0
        if middle in (low, high):
            return low if abs(function(low) - value) <= abs(function(high) - value) else high
        low, high = (middle, high) if function(middle) < value else (low, middle)


def _lam(process: Process, sigma: float) -> float:
    alpha = process.alpha(sigma)
    if alpha <= 0.0:
        raise ValueError(f"sigma {sigma:g} is noise alone, its log-SNR has no number; choose index, t01 or sigma")
    return math.log(alpha / sigma)


def _require_reachable(sigma: float, levels) -> None:
    """Raises ValueError for a first level above the model's highest."""
    highest = float(levels.sigma_max)
    if sigma > highest * 1.0005:
        raise ValueError(f"the first level, sigma {sigma:.6g}, lies above this model's highest, {highest:.6g}; choose "
                         "the kind of the timesteps, or a schedule made for this model")


def _shown(sigmas: list[float]) -> str:
    return ", ".join(f"{sigma:.4g}" for sigma in sigmas[:8]) + (", ..." if len(sigmas) > 8 else "")
