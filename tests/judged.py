"""How near Euler ends on found levels, on starts that no search saw: the exact mixture, in both processes."""
import functools

import torch
from gmm import denoise, denoise_flow

from odeon.models.levels import DiscreteLevels, FlowLevels
from odeon.samplers.exponential_adams import plan_exponential_adams
from odeon.samplers.linear import run
from odeon.samplers.pndm import plan_pndm
from odeon.samplers.process import FLOW, VE
from odeon.schedules.classic import classic_sigmas

MODELS = {VE: denoise, FLOW: denoise_flow}
LEVELS = {VE: DiscreteLevels(), FLOW: FlowLevels()}


def classic(process, name, steps):
    """Levels of one of ComfyUI's schedulers."""
    return classic_sigmas(name, LEVELS[process], steps).tolist()


def learned(process, count, seed=0):
    """Starts to search on."""
    noise = torch.randn(count, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return float(LEVELS[process].sigma_max) * noise


@functools.cache
def _judged(process):
    """1024 other starts, and where the ODE takes them."""
    x = learned(process, 1024, seed=1)
    top, bottom = classic(process, "simple", 1)[0], 0.001
    if process is FLOW:
        fine = torch.linspace(torch.tensor(0.9995).logit(), torch.tensor(bottom).logit(), 300).double().sigmoid()
        sigmas = [1.0, *fine.tolist(), 0.0]
    else:
        sigmas = [*(top * (bottom / top) ** (i / 300) for i in range(301)), 0.0]
    return x, run(MODELS[process], x, plan_exponential_adams(sigmas, process=process))


def share_left(process, sigmas, *, scaled=True):
    """Euler's mean distance on these levels over that on the best of ComfyUI's karras, normal and simple."""
    named = [classic(process, name, len(sigmas) - 1) for name in ("karras", "normal", "simple")]
    return _mean_distance(process, sigmas, scaled=scaled) / min(_mean_distance(process, levels) for levels in named)


def _mean_distance(process, sigmas, *, scaled=True):
    """Mean over the starts of the root mean square distance to the end; scaled: as samplers scale starts."""
    x, ends = _judged(process)
    x = x * (sigmas[0] / classic(process, "simple", 1)[0]) if scaled else x
    missed = run(MODELS[process], x, plan_pndm(sigmas, max_order=1, process=process)) - ends
    return missed.square().mean(1).sqrt().mean().item()
