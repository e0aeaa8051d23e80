"""Sampling objects (model_sampling) of either host whose network is told another level than the one it is asked at."""
import copy

import torch
from torch import Tensor

from ..schedules.conditioning import state_scale
from ..schedules.timesteps import place_of, told_places


def relabelled(sampling, told, *, levels, whole: bool):
    """A copy of a sampling object whose timestep() is that of told(sigma), by its own `levels`.

    Networks that count places of a table are told fractional ones where told(sigma) is not sigma; elsewhere all stays
    as it was, to the bit. whole: input and prediction are of the level told(sigma) too, D(k x, told), with
    k = state_scale for networks that count places and 1 for others.
    """
    counted = told_places(levels)

    class Relabelled(type(sampling)):
        own_levels = levels

        def timestep(self, sigma: Tensor) -> Tensor:
            level = told(sigma)
            if counted is None:
                return super().timestep(level)
            return torch.where(level == sigma, super().timestep(sigma), place_of(levels, level, counted))

        def calculate_input(self, sigma: Tensor, x: Tensor) -> Tensor:
            return super().calculate_input(*self._moved(sigma, x))

        def calculate_denoised(self, sigma: Tensor, output: Tensor, x: Tensor) -> Tensor:
            level, moved = self._moved(sigma, x)
            return super().calculate_denoised(level, output, moved)

        def _moved(self, sigma: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            if not whole:
                return sigma, x
            level = told(sigma)
            if counted is None:
                return level, x
            scale = state_scale(sigma, level)
            return level, x * (scale.reshape(-1, *[1] * (x.ndim - 1)) if scale.ndim == 1 else scale)

    made = copy.copy(sampling)
    made.__class__ = Relabelled
    return made
