"""InfEdit's consistency step: recorded runs of the authors' code, identity, levels, noise."""
import math

import pytest
import torch
from gmm import LABELS, MEANS, UNIT_NOISE, denoise, denoise_flow
from golden_runs import load, tensor

from odeon.editing.ddcm import sample_ddcm
from odeon.samplers.noise import step_noise
from odeon.samplers.process import FLOW, VE

RUNS = load("editing/infedit_ddcm")["runs"]
CLEAN = MEANS[:1].repeat(3, 1) + 0.3 * UNIT_NOISE
LEVELS = {VE: [14.6, 5.0, 2.0, 0.8, 0.2, 0.0], FLOW: [1.0, 0.9, 0.7, 0.4, 0.1, 0.0]}
DENOISE = {VE: denoise, FLOW: denoise_flow}


def under(label, process=VE, cfg=1.0):
    """The exact denoiser of one class, guided."""
    def model(x, sigma):
        level, plain = sigma[0].item(), DENOISE[process]
        cond = plain(x, level, label)
        return cond if cfg == 1.0 else torch.lerp(plain(x, level), cond, cfg)

    return model


def edited(levels, process=VE, *, target=1, clean=CLEAN, seed=0, **options):
    return sample_ddcm(under(target, process), torch.full_like(clean, math.nan), levels, source=under(0, process),
                       clean=clean, process=process, **{"noise_sampler": step_noise(clean, seed, "ddcm"), **options})


@pytest.mark.parametrize("run", RUNS, ids=["cfg 2", "cfg 1", "eta 0.3"])
def test_recorded_runs(run):
    asked, shares = run["settings"], run["settings"]["alphas_cumprod_at_timesteps"]
    levels = [*(math.sqrt((1.0 - share) / share) for share in shares), 0.0]
    noises, seen = iter(tensor([run["init_noise"], *run["noises"]])), []
    clean = tensor(run["x_init"])
    out = sample_ddcm(under(asked["target_label"], cfg=asked["cfg_tar"]), None, levels, process=VE, eta=asked["eta"],
                      source=under(asked["source_label"], cfg=asked["cfg_src"]), clean=clean,
                      noise_sampler=lambda sigma, sigma_next: next(noises),
                      callback=lambda i, x, denoised, sigma, of: seen.append(denoised))
    assert torch.stack(seen).sub(tensor(run["pred_x0_per_step"])).abs().max() < 1e-9
    assert out.sub(tensor(run["x_final"])).abs().max() < 1e-9


@pytest.mark.parametrize("process", [VE, FLOW], ids=["VE", "flow"])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_same_words_give_the_picture_back_at_any_number_of_steps(process, eta):
    for levels in (LEVELS[process], LEVELS[process][::2] + [0.0] * (len(LEVELS[process]) % 2 == 0)):
        assert torch.equal(edited(levels, process, target=0, eta=eta), CLEAN)


@pytest.mark.parametrize("process", [VE, FLOW], ids=["VE", "flow"])
def test_the_picture_becomes_what_is_asked(process):
    near = torch.cdist(edited(LEVELS[process], process), MEANS).argmin(1)
    assert (LABELS[near] == 1).all()


def test_eta_0_draws_one_noise_and_a_run_that_ends_above_0_leaves_the_edit_under_noise():
    noises = [UNIT_NOISE]
    out = edited([5.0, 2.0, 0.5, 0.0], eta=0.0, noise_sampler=lambda *_: noises.pop())
    assert not noises and torch.isfinite(out).all()
    for process in (VE, FLOW):
        sigma, seen = LEVELS[process][2], []
        part = edited(LEVELS[process][1:3], process, noise_sampler=lambda *_: UNIT_NOISE,
                      callback=lambda i, x, denoised, sigma, of, seen=seen: seen.append(denoised))
        assert torch.allclose(part, process.alpha(sigma) * seen[-1] + sigma * UNIT_NOISE, atol=1e-12)


def test_an_item_of_a_batch_is_its_single_run():
    whole = edited(LEVELS[VE])
    for item in range(3):
        assert torch.allclose(edited(LEVELS[VE], clean=CLEAN[item:item + 1]), whole[item:item + 1], atol=1e-12)


def test_refusals():
    with pytest.raises(ValueError, match="eta must lie in"):
        edited(LEVELS[VE], eta=1.5)
    with pytest.raises(ValueError, match="strictly decrease"):
        edited([1.0, 2.0])
