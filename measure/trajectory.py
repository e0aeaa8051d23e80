"""How the predictions of a run change from step to step, and schedules as curves."""
from typing import NamedTuple

from torch import Tensor

from ..schedules.timesteps import timesteps_of_sigmas

UNITS = {"sigma": "sigma", "log_sigma": "sigma", "log_snr": "logsnr", "timestep": "index"}


class Seen(NamedTuple):
    """One step of a run: the prediction D (B, ...), and how many model calls had been made when it came."""
    denoised: Tensor
    calls: int


def changes(seen: list[Seen], result: Tensor) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """(how far each prediction lies from the one before, how far each lies from the result), both against the model
    calls made: root mean squares of each picture, averaged over the batch. result (B, ...)."""
    moved = [(step.calls, rms(step.denoised - before.denoised)) for before, step in zip(seen, seen[1:])]
    return moved, [(step.calls, rms(step.denoised - result)) for step in seen]


def rms(difference: Tensor) -> float:
    """The root mean square of each item (B, ...), averaged over the items."""
    return difference.double().square().flatten(1).mean(1).sqrt().mean().item()


def calls_of_steps(seen: list[Seen], total: int) -> list[int]:
    """How many model calls each step took, of `total`: a step is seen after its first call."""
    starts = [step.calls - 1 for step in seen]
    return [end - start for start, end in zip(starts, [*starts[1:], total])] if seen else []


def schedule_curve(sigmas: list[float], unit: str, *, levels=None, process=None) -> list[tuple[int, float]]:
    """A schedule as points (step, level in one of UNITS). What has no number is left out: of log_snr and timestep a 0
    at the end, of log_snr the pure noise that flow models start from.

    levels, process: of the model, which log_snr and timestep need. Raises ValueError without them.
    """
    if unit not in UNITS:
        raise ValueError(f"unit must be one of {', '.join(UNITS)}, got {unit!r}")
    if UNITS[unit] == "sigma":
        return list(enumerate(sigmas))
    if levels is None:
        raise ValueError(f"{unit} depends on the model; connect the MODEL that the schedule is for, or choose sigma")
    steps = [i for i, sigma in enumerate(sigmas)
             if sigma > 0.0 and (unit != "log_snr" or process.alpha(sigma) > 0.0)]
    return list(zip(steps, timesteps_of_sigmas([sigmas[i] for i in steps], levels, process, kind=UNITS[unit])))


def spread(count: int, most: int) -> list[int]:
    """At most `most` places of `count`, evenly spread, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]
