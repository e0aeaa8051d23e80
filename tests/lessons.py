"""Lessons on the exact mixture: noises and where an accurate run takes them."""
import gmm
import pytest
import torch

from odeon.models.levels import DiscreteLevels, FlowLevels
from odeon.samplers.process import FLOW, VE
from odeon.schedules.classic import classic_sigmas
from odeon.schedules.optimize.teacher import Lesson, score_of, teach

LEVELS = {VE: DiscreteLevels(), FLOW: FlowLevels()}
MODEL = {VE: gmm.denoise, FLOW: gmm.denoise_flow}
BOTH = pytest.mark.parametrize("process", [VE, FLOW], ids=lambda process: process.name)


def noises(process, count, seed=5):
    unit = torch.randn(count, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return unit * float(LEVELS[process].sigma_max)


def lesson_of(process, plan, *, count=72, held=24):
    levels, x = LEVELS[process], noises(process, count)
    *_, last = teach(MODEL[process], x, [float(levels.sigma_max), 0.0], steps=160, process=process,
                     sigma_min=float(levels.sigma_min))
    assert score_of(last.state["error"]).median < 2e-3
    return Lesson(MODEL[process], x, last.state["targets"],
                  lambda sigmas: plan(sigmas, order=3, process=process), held=held)


def simple(process, steps):
    return classic_sigmas("simple", LEVELS[process], steps).tolist()


class Guided:
    """Guidance at 2 toward one class."""

    def __init__(self, process):
        self.model = MODEL[process]

    def __call__(self, x, sigma):
        return self.apart(x, sigma)[0]

    def apart(self, x, sigma):
        uncond = self.model(x, sigma)
        guidance = 2.0 * (self.model(x, sigma, label=1) - uncond)
        return uncond + guidance, guidance


def guided_lesson(process, plan, *, count, held):
    model, levels, x = Guided(process), LEVELS[process], noises(process, count)
    *_, last = teach(model, x, [float(levels.sigma_max), 0.0], steps=160, process=process,
                     sigma_min=float(levels.sigma_min))
    return Lesson(model, x, last.state["targets"], lambda sigmas: plan(sigmas, order=3, process=process), held=held)
