import math

import pytest
import torch
from golden_runs import load

from odeon.models.levels import DiscreteLevels, FlowLevels
from odeon.schedules.classic import SCHEDULERS, classic_sigmas

RUNS = load("classic_schedules")["runs"]


@pytest.mark.parametrize("i", range(len(RUNS)), ids=lambda i: "-".join(map(str, RUNS[i]["settings"].values()))[-24:])
def test_golden_parity(i):
    settings = RUNS[i]["settings"]
    levels = DiscreteLevels() if settings["model_sampling"].startswith("sd (") else FlowLevels(3.0)
    ours = classic_sigmas(settings["scheduler"], levels, settings["steps"])
    if RUNS[i]["sigmas"] is None:  # ComfyUI divides by zero here
        assert ours.tolist() == pytest.approx([float(levels.sigma_max), 0.0])
    else:
        assert ours.tolist() == pytest.approx(RUNS[i]["sigmas"], rel=2e-6)


@pytest.mark.parametrize("name", list(SCHEDULERS))
@pytest.mark.parametrize("levels", [DiscreteLevels(), FlowLevels()], ids=["discrete", "flow"])
def test_falls_from_the_top_to_zero(name, levels):
    for steps in (1, 2, 9, 30):
        sigmas = classic_sigmas(name, levels, steps)
        assert (sigmas.diff() < 0).all()
        assert sigmas[-1] == 0.0
        assert sigmas[0] <= float(levels.sigma_max) * (1 + 1e-6)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="scheduler must be one of simple"):
        classic_sigmas("nope", FlowLevels(), 4)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        classic_sigmas("simple", FlowLevels(), 0)


def test_timesteps_and_sigmas_are_inverse():
    levels = DiscreteLevels()
    whole = torch.arange(1000.0)
    assert torch.allclose(levels.sigma(whole), levels.sigmas, rtol=1e-6)
    assert torch.allclose(levels.timestep(levels.sigmas), whole, atol=2e-3)
    between = torch.tensor([0.03, 0.1, 1.0, 5.123, 14.0])
    assert torch.allclose(levels.sigma(levels.timestep(between)), between, rtol=1e-6)
    assert levels.timestep(torch.tensor([1e-5, 99.0])).tolist() == [0.0, 999.0]


def test_flow_shift_is_its_formula_and_no_inverse():
    levels = FlowLevels(3.0)
    half = torch.tensor(0.5)
    assert levels.sigma(levels.timestep(half)).item() == pytest.approx(0.75)
    assert levels.sigma_max == 1.0
    assert math.isclose(levels.sigma_min.item(), 3e-3 / (1 + 2e-3), rel_tol=1e-5)
