"""What an inversion leaves for the way back to a picture."""
from typing import NamedTuple

import torch
from torch import Tensor

KINDS = {"edit_friendly": "edit-friendly inversion", "bdia": "BDIA inversion"}


class NoiseMaps(NamedTuple):
    """States and noise of a picture on one schedule, in the scale of a model's own latents.

    kind: one of KINDS. sigmas: the schedule, falling, N + 1 levels. x (M, B, C, ...): of 'edit_friendly' the states at
    all N + 1 levels, of 'bdia' those at sigmas[0] and sigmas[1]. z (N, B, C, ...): of 'edit_friendly' the noise of each
    step, which has no rows in 'bdia'. about: what else the way back needs or is told of: "what", "model", "process".
    """
    kind: str
    sigmas: tuple[float, ...]
    x: Tensor
    z: Tensor
    about: dict

    def at_run(self, kind: str, sigmas: list[float], x: Tensor) -> tuple[Tensor, Tensor]:
        """(x, z) for a run (B, C, ...) down the same levels; one picture serves a whole batch.

        Raises ValueError where they are of another kind, schedule or size.
        """
        if self.kind != kind:
            raise ValueError(f"these noise maps come from {KINDS[self.kind]}, this sampler goes back from "
                             f"{KINDS[kind]}; take the sampler that belongs to them")
        same = len(sigmas) == len(self.sigmas) and all(
            abs(a - b) <= 1e-3 * abs(b) for a, b in zip(sigmas, self.sigmas))
        if not same:
            raise ValueError(f"these noise maps belong to {told(self.sigmas)}, the run has {told(sigmas)}; connect the "
                             "SIGMAS that the inversion had, whole")
        if self.x.shape[2:] != x.shape[1:] or self.x.shape[1] not in (1, len(x)):
            raise ValueError(f"these noise maps are of {shown(self.x.shape[1:])}, the run is of {shown(x.shape)}; "
                             "connect a LATENT of the size and batch that was inverted")
        return tuple(kept.expand(len(kept), *x.shape) for kept in (self.x, self.z))

    def schedule(self) -> Tensor:
        """SIGMAS they belong to."""
        return torch.tensor(self.sigmas, dtype=torch.float64).float()

    def described(self) -> str:
        """What they are, in words."""
        cfg = self.about.get("cfg", "unknown")
        return f"{KINDS[self.kind]} of {shown(self.x.shape[1:])}, CFG {cfg}, {told(self.sigmas)}"


def told(sigmas) -> str:
    """A schedule in words."""
    return f"a schedule of {len(sigmas) - 1} steps from sigma {sigmas[0]:.5g} to {sigmas[-1]:.5g}"


def shown(shape) -> str:
    """A latent's size in words."""
    return f"{shape[0]} latent{'s' * (shape[0] > 1)} of {' x '.join(str(side) for side in shape[1:])}"


def require_consistent(maps: NoiseMaps) -> None:
    """Raises ValueError for numbers that no inversion leaves: a file that was cut or changed."""
    steps, levels = len(maps.sigmas) - 1, maps.sigmas
    states = {"edit_friendly": steps + 1, "bdia": 2}.get(maps.kind)
    falling = steps > 0 and all(high > low for high, low in zip(levels, levels[1:])) and levels[-1] >= 0.0
    sized = (maps.x.ndim > 2 and maps.z.ndim == maps.x.ndim and maps.x.shape[1:] == maps.z.shape[1:]
             and len(maps.x) == states and len(maps.z) == (0 if maps.kind == "bdia" else steps))
    if not (falling and sized and maps.x.isfinite().all() and maps.z.isfinite().all() and "model" in maps.about):
        raise ValueError("the noise maps in it do not fit together: the file was changed or belongs to another version")
