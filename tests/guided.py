"""A small model and sampler for guidance rules in the embedded runner."""
import torch

from odeon.host.embedded.model import Model
from odeon.host.embedded.sampling import Guider, Sampler
from odeon.models.levels import DiscreteLevels, FlowLevels

WORD = {"cond": [[torch.full((1, 2, 3), 0.4), {}]], "uncond": [[torch.full((1, 2, 3), -0.2), {}]]}
SIGMAS = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.0])


class Network(torch.nn.Module):
    """Denoised is tanh(share x + word) on every prediction type; keeps the words it is asked for."""

    def __init__(self, prediction, levels, share):
        super().__init__()
        self.prediction, self.levels, self.fail = prediction, levels, False
        self.share = torch.nn.Parameter(torch.tensor([share, share]), requires_grad=False)
        self.asked = []

    def forward(self, x, timesteps, context=None, y=None, transformer_options=None):
        self.asked.append(round(float(context[0, 0, 0]), 3))
        sigma = (timesteps / 1000.0 if self.prediction == "flow" else self.levels.sigma(timesteps)).reshape(-1, 1, 1, 1)
        if self.prediction == "eps":
            x = x * (sigma.square() + 1.0).sqrt()
        denoised = torch.tanh(x * self.share[0] + context.mean((1, 2)).reshape(-1, 1, 1, 1))
        return (x - denoised) / sigma * (float("nan") if self.fail else 1.0)


def model_of(prediction="eps", share=0.5):
    levels = FlowLevels() if prediction == "flow" else DiscreteLevels()
    return Model(Network(prediction, levels, share), prediction=prediction, levels=levels, channels=4)


def euler(model, x, sigmas, extra_args=None, **_):
    for sigma, sigma_next in zip(sigmas[:-1], sigmas[1:]):
        x = x + (x - model(x, sigma.expand(len(x)), **(extra_args or {}))) / sigma * (sigma_next - sigma)
    return x


def sample(model, *, cfg=3.0, negative=WORD["uncond"], method=euler, batch=2, item=None, sigmas=SIGMAS, mask=None):
    """A run; item: of one picture of the batch alone."""
    noise = torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    noise = noise if item is None else noise[item:item + 1]
    return Guider(model, WORD["cond"], negative, cfg).sample(noise, torch.zeros_like(noise), Sampler(method), sigmas,
                                                             denoise_mask=mask)


def heun(model, x, sigmas, extra_args=None, **_):
    for sigma, sigma_next in zip(sigmas[:-1], sigmas[1:]):
        slope = (x - model(x, sigma.expand(len(x)), **(extra_args or {}))) / sigma
        there = x + slope * (sigma_next - sigma)
        if sigma_next > 0.0:
            slope = 0.5 * (slope + (there - model(there, sigma_next.expand(len(x)), **(extra_args or {}))) / sigma_next)
        x = x + slope * (sigma_next - sigma)
    return x


def restart(model, x, sigmas, extra_args=None, **_):
    """Euler, gone through twice from the second level to the last but one."""
    x = euler(model, x, sigmas[:-1], extra_args)
    x = x + x.sign() * (sigmas[1] ** 2 - sigmas[-2] ** 2).sqrt()
    return euler(model, x, sigmas[1:], extra_args)
