"""Plateau and refine: less left to chance than from pure noise, and its limits."""
from itertools import pairwise

import pytest
import torch
from gmm import LABELS, MEANS, denoise, denoise_flow

from odeon.editing.plateau import sample_plateau_refine
from odeon.samplers.noise import step_noise
from odeon.samplers.process import FLOW, VE

LEVELS = {VE: [14.6, 8.0, 5.0, 3.0, 2.0, 1.2, 0.7, 0.4, 0.2, 0.1, 0.0],
          FLOW: [1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.25, 0.1, 0.0]}
DENOISE = {VE: denoise, FLOW: denoise_flow}
NOISE = torch.randn(64, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def refined(process=VE, *, clean=None, noise=NOISE, label=1, **options):
    clean = torch.zeros_like(noise) if clean is None else clean
    calls = []

    def model(x, sigma):
        calls.append(sigma[0].item())
        return DENOISE[process](x, sigma[0].item(), label)

    levels = LEVELS[process]
    x = process.alpha(levels[0]) * clean + levels[0] * noise
    out = sample_plateau_refine(model, x, levels, clean=clean, process=process,
                                **{"noise_sampler": step_noise(noise, 0, "plateau"), **options})
    return out, calls


def euler(x, levels, process, label=1):
    for sigma, sigma_next in pairwise(levels):
        denoised = DENOISE[process](x, sigma, label)
        x = denoised + sigma_next / sigma * (x - denoised)
    return x


@pytest.mark.parametrize("process", [VE, FLOW], ids=["VE", "flow"])
def test_low_on_the_schedule_an_estimate_leaves_far_less_to_chance_and_high_on_it_nothing_stays(process):
    plain = euler(LEVELS[process][0] * NOISE, LEVELS[process], process).var(0).sum()
    seen = MEANS[LABELS == 1][0] + NOISE[0]  # one noisy look at the picture, its posterior mean the estimate
    estimate = denoise(seen[None], 1.0, 1).expand_as(NOISE)

    def left(plateau, **options):
        return refined(process, clean=estimate, start="latent", plateau=plateau, **options)[0].var(0).sum() / plain

    assert left(0.8) < 0.05
    assert left(0.5) > 0.7  # so much noise lets the plateau wander to every mode
    assert left(0.5, repeats=0) < left(0.5, repeats=2) < left(0.5)


@pytest.mark.parametrize("process", [VE, FLOW], ids=["VE", "flow"])
def test_no_repeats_from_a_latent_is_img2img(process):
    clean, levels = MEANS[:1].expand_as(NOISE), LEVELS[process][5:]
    out, calls = refined(process, clean=clean, start="latent", repeats=0, noise_sampler=lambda *_: NOISE)
    x = process.alpha(levels[0]) * clean + levels[0] * NOISE
    assert torch.allclose(out, euler(x, levels, process), atol=1e-12) and calls == levels[:-1]


def test_plateau_0_without_repeats_is_euler_from_the_first_prediction():
    out, calls = refined(plateau=0.0, repeats=0)
    again = step_noise(NOISE, 0, "plateau")(0.0, 0.0)
    x = denoise(14.6 * NOISE, 14.6, 1) + 14.6 * again
    assert torch.allclose(out, euler(x, LEVELS[VE], VE), atol=1e-9) and calls[:2] == [14.6, 14.6]


@pytest.mark.parametrize(("repeats", "cost"), [(-1, 11), (0, 6), (3, 9)])
def test_what_it_costs_and_where(repeats, cost):
    seen = []
    _, calls = refined(repeats=repeats, callback=lambda i, x, denoised, sigma, of: seen.append((i, of)))
    assert len(calls) == cost and calls[1:-4] == [1.2] * (cost - 5)
    assert seen == [(i, cost - 1) for i in range(cost - 1)]


def test_the_average_of_predictions_is_what_goes_on():
    one, _ = refined(repeats=1, average=True)
    same, _ = refined(repeats=1)
    assert torch.equal(one, same)
    many, _ = refined(repeats=8, average=True, label=None)
    plain, _ = refined(repeats=8, label=None)
    assert not torch.allclose(many, plain, atol=1e-3)


def test_an_item_of_a_batch_is_its_single_run():
    whole, _ = refined()
    for item in range(3):
        assert torch.allclose(refined(noise=NOISE[item:item + 1])[0], whole[item:item + 1], atol=1e-12)


@pytest.mark.parametrize(("options", "words"), [
    ({"plateau": 1.0}, "plateau must be"), ({"repeats": -2}, "repeats must"),
    ({"start": "noise"}, "start must be one of")])
def test_refusals(options, words):
    with pytest.raises(ValueError, match=words):
        refined(**options)
