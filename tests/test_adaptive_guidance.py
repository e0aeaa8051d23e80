import pytest
import torch
from gmm import denoise
from golden_runs import load, tensor

from odeon.guidance.adaptive import agreement, decided, first_state
from odeon.samplers.process import FLOW, VE

RUNS = load("guidance/adaptive_guidance")["runs"]


@pytest.mark.parametrize("i", range(len(RUNS)))
def test_golden_decisions_and_the_end(i):
    settings = RUNS[i]["settings"]
    x, levels, calls = tensor(RUNS[i]["x_init"]), settings["sigmas"], 0
    state = first_state(1, x)
    for k, step in enumerate(RUNS[i]["steps"]):
        sigma = step["sigma"]
        for space, name in (("x0", "cos_x0"), ("eps", "cos_eps")):
            cond, uncond = tensor(step["cond"]), tensor(step["uncond"])
            found = agreement(cond, uncond, tensor(step["x"]), tensor([sigma]), space=space).item()
            assert abs(found - step[name]) < 1e-9
        cond, uncond = denoise(x, sigma, settings["cond_label"]), denoise(x, sigma)
        guided = state[0, 0].item() == 0.0
        calls += 2 if guided else 1
        assert step["nfe"] == (2 if guided else 1)
        out = uncond + settings["cfg"] * (cond - uncond) if guided else cond
        if guided:
            state = decided(state, agreement(cond, uncond, x, tensor([sigma])), gamma=settings["threshold"])
        x = x + (x - out) / sigma * (levels[k + 1] - sigma)
    assert (x - tensor(RUNS[i]["x_final"])).abs().max() < 1e-9 and calls == RUNS[i]["total_nfe"]


def steps_of(cosines, **options):
    """For each step, whether it is still guided."""
    state, guided = first_state(1, torch.zeros(1)), []
    for cosine in cosines:
        guided.append(state[0, 0].item() == 0.0)
        state = decided(state, torch.tensor([cosine]), **options)
    return guided


def test_a_step_that_reaches_gamma_is_still_guided_and_nothing_switches_back():
    assert steps_of([0.2, 0.995, 0.5, 0.5], gamma=0.99) == [True, True, False, False]
    assert steps_of([0.2, 1.0, 1.0], gamma=1.01) == [True] * 3
    assert steps_of([0.2, 0.3], gamma=-1.0) == [True, False]
    assert steps_of([1.0] * 4, gamma=0.9, min_steps=3) == [True, True, True, False]
    assert steps_of([float("nan")] * 3, gamma=0.9) == [True] * 3


@pytest.mark.parametrize("space", ["eps", "velocity"])
def test_where_pure_noise_agrees_with_itself_the_cosine_must_have_risen(space):
    assert steps_of([0.999, 0.996, 0.9955, 0.998, 0.999], gamma=0.991, space=space) == [True] * 4 + [False]


def test_samples_decide_for_themselves():
    state = decided(first_state(2, torch.zeros(1)), torch.tensor([0.999, 0.1]))
    assert state[:, 0].tolist() == [1.0, 0.0]


def test_spaces():
    generator = torch.Generator().manual_seed(2)
    x, cond, uncond = (torch.randn(3, 4, 5, 5, generator=generator, dtype=torch.float64) for _ in range(3))
    t = tensor([0.6] * 3)
    for process, space, wanted in ((VE, "auto", "x0"), (FLOW, "auto", "velocity"), (VE, "velocity", "eps")):
        assert torch.allclose(agreement(cond, uncond, x, t, space=space, process=process),
                              agreement(cond, uncond, x, t, space=wanted, process=process))
    eps = [x + 0.4 * (x - denoised) / 0.6 for denoised in (cond, uncond)]
    wanted = torch.nn.functional.cosine_similarity(eps[0].flatten(1), eps[1].flatten(1))
    assert torch.allclose(agreement(cond, uncond, x, t, space="eps", process=FLOW), wanted)
    with pytest.raises(ValueError, match="space must be one of auto, x0, eps, velocity"):
        agreement(cond, uncond, x, t, space="x")
