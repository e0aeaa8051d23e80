"""Laws that hold for the plan of every solver node, with every choice of its options."""
import math
from itertools import product

import pytest
import torch

from odeon import NODE_CLASS_MAPPINGS
from odeon.samplers.linear import run
from odeon.samplers.process import FLOW, VE

SIGMAS = {VE: [14.6, 9.0, 5.5, 3.0, 1.4, 0.6, 0.2, 0.03, 0.0], FLOW: [1.0, 0.95, 0.8, 0.6, 0.45, 0.3, 0.1, 0.02, 0.0]}


def _choices(kind, options):
    if isinstance(kind, list):
        return kind
    if kind == "INT":
        return sorted({options["min"], options["default"], min(options["max"], options["min"] + 3)})
    return sorted({options["default"], 0.5, 1.0})


def _cases():
    for name, cls in NODE_CLASS_MAPPINGS.items():
        if hasattr(cls, "PLAN"):
            inputs = cls.INPUT_TYPES()["required"]
            for values in product(*(_choices(*spec) for spec in inputs.values())):
                yield name, dict(zip(inputs, values))


CASES = list(_cases())


@pytest.mark.parametrize("process", [VE, FLOW], ids=lambda process: process.name)
def test_two_laws_of_a_linear_plan(process):
    assert CASES
    for name, options in CASES:
        options = {key: 1.0 if key == "s_noise" else value for key, value in options.items()}
        for step in NODE_CLASS_MAPPINGS[name].PLAN(SIGMAS[process], process=process, **options):
            alpha, alpha_next = process.alpha(step.sigma), process.alpha(step.sigma_next)
            for update in (step.predict, *([step.correct] if step.correct else [])):
                assert update.x_coef * alpha + math.fsum(update.d_coefs) == pytest.approx(alpha_next, abs=1e-12), name
                variance = (update.x_coef * step.sigma) ** 2 + update.noise_coef ** 2
                if step.sigma_next > 0.0 and update.noise_coef:
                    assert variance == pytest.approx(step.sigma_next ** 2, rel=1e-12), name


@pytest.mark.parametrize(("name", "options"), CASES[::3])
def test_runs_where_nothing_can_be_read_back(name, options):
    x = torch.empty(2, 4, device="meta")  # has no values: .item(), float(x) or `if x:` would raise
    for process, sigmas in SIGMAS.items():
        steps = NODE_CLASS_MAPPINGS[name].PLAN(sigmas, process=process, **options)
        out = run(lambda x, sigma: 0.5 * x, x, steps, noise_sampler=lambda sigma, sigma_next: torch.empty_like(x))
        assert out.shape == x.shape


def test_state_is_left_alone_and_steps_are_reported():
    steps = NODE_CLASS_MAPPINGS["OdeonSamplerExponentialAdams"].PLAN(SIGMAS[VE])
    x = torch.randn(2, 3)
    before, seen = x.clone(), []
    run(lambda x, sigma: 0.5 * x, x, steps, callback=lambda i, x, denoised, sigma: seen.append((i, sigma)))
    assert torch.equal(x, before)
    assert seen == list(enumerate(SIGMAS[VE][:-1]))
