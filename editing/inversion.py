"""What inversions share: the slope of a model's path, the level that a clean picture counts as, exact arithmetic."""
from collections.abc import Callable

import torch
from torch import Tensor

from ..samplers.process import VE, Process

FLOOR = 1e-4  # of sigma 0, where the slope has no value; FlipSigmas takes the same


def slope(denoise: Callable, x: Tensor, sigma: float, process: Process, *, from_sigma: float | None = None) -> Tensor:
    """dx / dsigma = (x - D) / sigma at a level, of a state (B, C, ...) at from_sigma where it is another one.

    denoise(x, sigma (B,)). A state of another level goes into the network as large as it is at its own, which is how
    papers evaluate it: in the VE form it is brought to the size of this level. sigma 0 is read as FLOOR.
    """
    sigma = max(sigma, FLOOR)
    if from_sigma is not None and process is VE:
        x = x * ((1.0 + sigma * sigma) / (1.0 + from_sigma * from_sigma)) ** 0.5
    return (x - denoise(x, x.new_full((len(x),), sigma))) / sigma


def exactly(denoise: Callable, x: Tensor) -> tuple[Callable, Tensor]:
    """(denoise, x) in float64, where the device has it: the network itself still sees the precision of x.

    Steps that are undone by their own algebra lose what they round away, and magnify it.
    """
    if x.device.type == "mps":
        return denoise, x

    def precise(state: Tensor, sigma: Tensor) -> Tensor:
        return denoise(state.to(x.dtype), sigma.to(x.dtype)).to(torch.float64)

    return precise, x.to(torch.float64)


def require_picture(clean: Tensor) -> None:
    """Raises ValueError for an empty latent."""
    if not clean.any():
        raise ValueError("there is no picture to edit: the latent is empty; encode one with VAE Encode")
