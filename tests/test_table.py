"""Any plan as one table of numbers: the same run, and gradients in its levels."""
import random

import gmm
import pytest
import torch
from test_plans import CASES, CLOCKS, SIGMAS

from odeon import NODE_CLASS_MAPPINGS
from odeon.host.common import planned
from odeon.samplers.linear import run
from odeon.samplers.process import FLOW, VE
from odeon.samplers.table import run_table, smooth_table, steps_of_table, table_of

DENOISE = {VE: gmm.denoise, FLOW: gmm.denoise_flow}
X = {VE: gmm.UNIT_NOISE * SIGMAS[VE][0], FLOW: gmm.UNIT_NOISE}
EVERY_NODE = dict(CASES)  # one choice of options for each node
SOME = random.Random(1).sample(CASES, 60)


def _plan(name, options, process):
    cls = NODE_CLASS_MAPPINGS[name]

    def plan(sigmas):
        return planned(cls.PLAN, sigmas, process=process, clock=CLOCKS[process], **options)

    try:
        plan(SIGMAS[process])
    except ValueError as error:
        pytest.skip(f"not for {process.name}: {error}")
    return plan


def _noises(table):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 16, dtype=torch.float64, generator=generator) for _ in range(table.noise.shape[1])]


@pytest.mark.parametrize("process", [VE, FLOW], ids=lambda process: process.name)
@pytest.mark.parametrize(("name", "options"), SOME)
def test_a_table_runs_as_its_plan(name, options, process):
    steps = _plan(name, options, process)(SIGMAS[process])
    table, draws = table_of(steps), None
    noises = _noises(table)
    draws = iter(noises)
    expected = run(DENOISE[process], X[process], steps, noise_sampler=lambda sigma, sigma_next: next(draws))
    assert (run_table(DENOISE[process], X[process], table, noises) - expected).abs().max() < 1e-10
    if not noises:
        again = run(DENOISE[process], X[process], steps_of_table(table))
        assert (again - expected).abs().max() < 1e-10


@pytest.mark.parametrize("process", [VE, FLOW], ids=lambda process: process.name)
@pytest.mark.parametrize("name", sorted(EVERY_NODE))
def test_gradients_in_the_levels_are_those_of_differences(name, process):
    """Autograd through the table and the model, against central differences of the whole run."""
    plan, first = _plan(name, EVERY_NODE[name], process), int(process is FLOW)
    sigmas = torch.tensor(SIGMAS[process], dtype=torch.float64, requires_grad=True)
    table = smooth_table(plan, sigmas, first=first)
    noises = _noises(table)
    weights = torch.linspace(-1.0, 1.0, 48, dtype=torch.float64).reshape(3, 16)
    (run_table(DENOISE[process], X[process], table, noises) * weights).sum().backward()

    def end(i, reach):
        levels = list(SIGMAS[process])
        levels[i] += reach
        draws = iter(noises)
        x = run(DENOISE[process], X[process], plan(levels), noise_sampler=lambda sigma, sigma_next: next(draws))
        return (x * weights).sum().item()

    for i in range(first, len(SIGMAS[process]) - 1):
        reach = 1e-3 * min(abs(SIGMAS[process][i] - SIGMAS[process][j]) for j in (i - 1, i + 1) if j >= 0)
        slope = (8.0 * (end(i, reach) - end(i, -reach)) - (end(i, 2 * reach) - end(i, -2 * reach))) / (12.0 * reach)
        assert sigmas.grad[i].item() == pytest.approx(slope, rel=1e-6, abs=1e-6 * sigmas.grad.abs().max().item())


def test_noise_must_be_given_for_every_draw():
    plan = _plan("OdeonSamplerExponentialAdams", {"order": 2, "eta": 1.0, "s_noise": 1.0, "lambda_mode": "log_snr"}, VE)
    with pytest.raises(ValueError, match="takes 7 draws of noise, got 0"):
        run_table(gmm.denoise, X[VE], table_of(plan(SIGMAS[VE])))
