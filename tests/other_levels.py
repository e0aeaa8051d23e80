"""Levels of the kinds of models that Odeon carries none of, as ComfyUI defines them, in float64."""
import math

import torch

from odeon.models.levels import DiscreteLevels


class Table:
    """The ends of a table."""

    @property
    def sigma_min(self):
        return self.sigmas[0]

    @property
    def sigma_max(self):
        return self.sigmas[-1]


class EDMLevels(Table):
    """EDM, SVD: the network is told log(sigma) / 4."""

    def __init__(self, sigma_min, sigma_max):
        self.sigmas = torch.linspace(math.log(sigma_min), math.log(sigma_max), 1000, dtype=torch.float64).exp()

    def timestep(self, sigma):
        return 0.25 * sigma.log()

    def sigma(self, timestep):
        return (4.0 * timestep).exp()


class ContinuousVLevels(EDMLevels):
    """An angle as a share of a right angle."""

    def timestep(self, sigma):
        return sigma.atan() * 2.0 / math.pi

    def sigma(self, timestep):
        return (timestep * math.pi / 2.0).tan()


class CosmosLevels(EDMLevels):
    """Cosmos: a VE state, told as the time of a flow."""

    def timestep(self, sigma):
        return sigma / (sigma + 1.0)

    def sigma(self, timestep):
        top = self.sigma_max / (self.sigma_max + 1.0)
        return self.sigma_max if timestep >= top else timestep / (1.0 - timestep)


class CascadeLevels(Table):
    """Stable Cascade: a cosine, which sigma() shifts and timestep() does not."""

    def __init__(self, shift):
        self.shift, self.cosine_s = shift, 8e-3
        self.first = math.cos(self.cosine_s / (1.0 + self.cosine_s) * math.pi / 2.0) ** 2
        self.sigmas = self.sigma(torch.arange(1, 10001, dtype=torch.float64) / 10000)

    def sigma(self, timestep):
        angle = (timestep + self.cosine_s) / (1.0 + self.cosine_s) * math.pi / 2.0
        kept = (angle.cos().square() / self.first)
        kept = ((kept / (1.0 - kept)).log() - 2.0 * math.log(self.shift)).sigmoid().clamp(0.0001, 0.9999)
        return ((1.0 - kept) / kept).sqrt()

    def timestep(self, sigma):
        kept = (1.0 / (sigma.square() + 1.0)).clamp(0.0, 1.0)
        return (kept * self.first).sqrt().acos() / (math.pi / 2.0) * (1.0 + self.cosine_s) - self.cosine_s


class DistilledLevels(Table):
    """LCM: every twentieth of Stable Diffusion's levels, told as their places among all."""

    def __init__(self):
        self.sigmas = DiscreteLevels().sigmas[19::20]

    def timestep(self, sigma):
        nearest = (sigma.log() - self.sigmas.log()[:, None]).abs().argmin(0).reshape(sigma.shape)
        return nearest * 20 + 19
