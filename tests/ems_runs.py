"""What tests of DPM-Solver-v3 and of its statistics share."""

import pytest
import torch
from gmm import UNIT_NOISE, log_spaced

from odeon.measure.ems import measure_ems
from odeon.samplers.dpm_solver_v3 import EMS, sample_dpm_solver_v3
from odeon.samplers.process import FLOW, VE

START = 14.6 * UNIT_NOISE
BY_PROCESS = pytest.mark.parametrize("process", [VE, FLOW], ids=lambda process: process.name)

tensor = lambda values: torch.tensor(values, dtype=torch.float64)
levels = lambda count: log_spaced(count, 14.6, 0.05)
rms = lambda x: x.square().mean().sqrt().item()


def unit_noise(count, seed, shape=(16,)):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def recording(model, calls):
    def recorded(x, sigma):
        calls.append((x, sigma, model(x, sigma)))
        return calls[-1][2]

    return recorded


def solve(model, x, sigmas, ems, process=VE, **options):
    return sample_dpm_solver_v3(lambda x, sigma: model(x, sigma[0].item()), x, sigmas, process=process, ems=ems,
                                **options)


def measured(model, noise, points, **options):
    options = {"process": VE, "sigma_max": 14.6, "sigma_min": 0.05, "batch": len(noise), **options}
    return [progress.state for progress in measure_ems(model, noise, points=points, **options)][-1]


def constant(l_value, s_value, points=3000, process=VE, top=14.6):
    table = torch.ones(points + 1, 1, dtype=torch.float64)
    return EMS(l_value * table, s_value * table, 0.0 * table, *process.lams([top, 0.05]))


def made_up(process, sigmas, points):
    """Smooth statistics that differ from place to place."""
    first, *_, last = process.lams(sigmas)
    lam = torch.linspace(first, last, points + 1, dtype=torch.float64)[:, None]
    place = torch.arange(16, dtype=torch.float64) / 16.0
    return EMS(1.0 / (1.0 + torch.exp(2.0 * lam) * (0.3 + place)), 0.8 * torch.cos(0.5 * lam + place),
               0.3 * torch.sin(lam + place), first, last)
