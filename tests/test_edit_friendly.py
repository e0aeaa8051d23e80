"""Edit-friendly DDPM inversion: recorded runs, exact reconstruction, what its noise is like, what it refuses."""
import math

import pytest
import torch
from gmm import LABELS, MEANS, STDS, WEIGHTS, denoise, denoise_flow
from golden_runs import load, tensor

from odeon.editing.edit_friendly import extract, posterior, sample_edit_friendly
from odeon.editing.noise_maps import NoiseMaps
from odeon.samplers.process import FLOW, VE

ABOUT = {"what": "noise maps", "model": {}, "eta": 1.0}
LEVELS = {"VE": [14.6, 8.0, 5.0, 3.0, 2.0, 1.2, 0.7, 0.4, 0.2, 0.0],
          "flow": [1.0, 0.93, 0.85, 0.75, 0.65, 0.5, 0.35, 0.2, 0.1, 0.0]}
PROCESS = {"VE": VE, "flow": FLOW}


def model(label, cfg=1.0, kind="VE"):
    def guided(x, sigma):
        own = denoise if kind == "VE" else denoise_flow
        cond, uncond = (own(x, float(sigma[0]), each) for each in (label, None))
        return uncond + cfg * (cond - uncond)

    return guided


def drawn(seed, shape):
    generator = torch.Generator().manual_seed(seed)
    return lambda sigma, sigma_next: torch.randn(shape, generator=generator, dtype=torch.float64)


def maps_of(x, sigmas, kind="VE", *, label=0, cfg=3.5, eta=1.0, exact_last=True, seed=0):
    states, z = extract(model(label, cfg, kind), x, sigmas, eta=eta, exact_last=exact_last, process=PROCESS[kind],
                        noise_sampler=drawn(seed, x.shape))
    return NoiseMaps("edit_friendly", tuple(sigmas), states, z, {**ABOUT, "eta": eta})


def edited(maps, label, cfg, *, skip=0.0, kind="VE", **options):
    return sample_edit_friendly(model(label, cfg, kind), maps.x[0], [*maps.sigmas], noise_maps=maps, skip=skip,
                                clean=maps.x[-1],
                                process=PROCESS[kind], **options)


def clean(batch=3):
    """Pictures that the mixture's class 0 has."""
    generator = torch.Generator().manual_seed(4)
    own = torch.nonzero(LABELS == 0)[:, 0]
    which = own[torch.multinomial(WEIGHTS[own], batch, replacement=True, generator=generator)]
    noise = torch.randn(batch, 16, generator=generator, dtype=torch.float64)
    return MEANS[which] + STDS[which, None] * noise


@pytest.mark.parametrize("run", load("editing/edit_friendly_ddpm")["runs"], ids=("skip 7 of 20", "10 steps"))
def test_recorded_runs(run):
    """The reference takes the picture for the state at its last level, whose map it sets to 0, and its states are of
    unit size (VP)."""
    settings, x_init, wanted = run["settings"], tensor(run["x_init"]), tensor(run["x_t"])
    sigmas, steps = settings["sigmas_ve"], settings["steps"]
    sizes = [(1.0 + sigma * sigma) ** 0.5 for sigma in sigmas]
    noises = [tensor(run["noises"])[:, steps - 1 - i] for i in range(steps)]
    source, target = ((settings[f"{which}_label"], settings[f"cfg_{short}"])
                      for which, short in (("source", "src"), ("target", "tar")))
    left = iter([*noises, torch.zeros(3, 16)])
    states, z = extract(model(*source), x_init, sigmas, eta=settings["eta"], exact_last=False, process=VE,
                        noise_sampler=lambda sigma, sigma_next: next(left))
    for i in range(steps):
        assert torch.allclose(states[i] / sizes[i], wanted[:, steps - i], atol=1e-9)
    for i in range(steps - 1):  # the last but one state is reached, not set: its map is of the picture
        assert torch.allclose(z[i], tensor(run["z"])[:, steps - 1 - i], atol=1e-9, rtol=1e-9)
    maps = NoiseMaps("edit_friendly", tuple(sigmas), states, z, ABOUT)
    skip = settings["skip"] / steps
    assert torch.allclose(edited(maps, *source, skip=skip) / sizes[-1], tensor(run["x_recon"]), atol=1e-9)
    assert torch.allclose(edited(maps, *target, skip=skip) / sizes[-1], tensor(run["x_final"]), atol=1e-9)


@pytest.mark.parametrize("eta", [1.0, 0.4])
@pytest.mark.parametrize("cfg", [1.0, 7.0])
@pytest.mark.parametrize("kind", LEVELS)
def test_the_picture_comes_back_and_passes_every_state(kind, cfg, eta):
    x, seen = clean(), {}
    maps = maps_of(x, LEVELS[kind], kind, cfg=cfg, eta=eta)
    back = edited(maps, 0, cfg, kind=kind, callback=lambda i, x, denoised, sigma, of: seen.update({i: x}))
    assert (back - x).abs().max() < 1e-12 * max(1.0, maps.z.abs().max())
    assert [*seen] == [*range(9)]
    for i, state in seen.items():
        assert (state - maps.x[i]).abs().max() < 1e-11


def test_without_exact_last_the_last_step_is_the_model_s():
    x = clean()
    maps = maps_of(x, LEVELS["VE"], exact_last=False)
    assert not maps.z[-1].any()
    assert 1e-3 < (edited(maps, 0, 3.5) - x).abs().max() < 0.5


@pytest.mark.parametrize("kind", LEVELS)
def test_steps_are_ddpm_s(kind):
    process = PROCESS[kind]
    for sigma, sigma_next in zip(LEVELS[kind], LEVELS[kind][1:]):
        mean, v = posterior(process, sigma, sigma_next, 1.0)
        assert mean.x_coef * process.alpha(sigma) + mean.d_coefs[0] == pytest.approx(process.alpha(sigma_next))
        assert (mean.x_coef * sigma) ** 2 + v * v == pytest.approx(sigma_next ** 2)
    mean, v = posterior(VE, 2.0, 1.0, 1.0)
    assert v * v == pytest.approx(1.0 * (4.0 - 1.0) / 4.0) and mean.x_coef * 2.0 == pytest.approx(0.5)


def test_maps_are_larger_than_noise_and_turn_from_step_to_step():
    """The paper's claim: their spread is far above 1 and neighbours are opposed; the mixture shows 2.4 to 3.6, -0.5."""
    x = clean(200)
    sigmas = [14.6 * (1.0 - i / 40) ** 3 + 0.05 * (i < 40) for i in range(41)]
    z = maps_of(x, sigmas, cfg=1.0).z[5:35]
    spread = z.std((1, 2))
    assert float(spread.min()) > 2.0 and float(spread.max()) < 5.0
    beside = torch.nn.functional.cosine_similarity(z[1:].flatten(1), z[:-1].flatten(1))
    assert -0.6 < float(beside.mean()) < -0.4


def test_less_left_out_is_farther_from_the_picture():
    x = clean(60)
    maps = maps_of(x, LEVELS["VE"], cfg=1.0)
    distance = [float((edited(maps, 1, 3.0, skip=skip) - x).norm()) for skip in (0.0, 0.4, 0.7, 1.0)]
    assert distance == sorted(distance, reverse=True) and distance[-1] < 1e-12


def test_one_picture_serves_a_batch_and_each_is_its_single_run():
    maps = maps_of(clean(1), LEVELS["VE"])
    whole = sample_edit_friendly(model(1, 5.0), torch.zeros(3, 16, dtype=torch.float64), LEVELS["VE"], noise_maps=maps,
                                 clean=maps.x[-1], process=VE)
    assert torch.allclose(whole, edited(maps, 1, 5.0, skip=0.36).expand(3, 16), atol=1e-12)


def test_under_a_mask_what_is_kept_is_the_picture():
    x, mask = clean(), torch.cat([torch.zeros(3, 8), torch.ones(3, 8)], 1)
    maps, seen = maps_of(x, LEVELS["VE"]), []
    out = sample_edit_friendly(model(1, 5.0), x, LEVELS["VE"], noise_maps=maps, skip=0.2, clean=x, mask=mask,
                               process=VE, callback=lambda i, state, *_, of: seen.append(state[:, :8]))
    assert torch.equal(out[:, :8], x[:, :8]) and (out - x)[:, 8:].abs().max() > 0.1
    assert all(torch.equal(*pair) for pair in zip(seen, maps.x[2:, :, :8]))


def test_what_does_not_belong_together_is_refused_in_words():
    maps = maps_of(clean(), LEVELS["VE"])
    run = {"noise_maps": maps, "process": VE, "clean": maps.x[-1]}
    with pytest.raises(ValueError, match="belong to a schedule of 9 steps from sigma 14.6 to 0, the run has a schedule "
                                         "of 8 steps from sigma 8 to 0; connect the SIGMAS"):
        sample_edit_friendly(model(0), clean(), LEVELS["VE"][1:], **run)
    with pytest.raises(ValueError, match="the run has"):
        sample_edit_friendly(model(0), clean(), [14.6, *[0.9 * sigma for sigma in LEVELS["VE"][1:]]], **run)
    with pytest.raises(ValueError, match="are of 3 latents of 16, the run is of 3 latents of 12"):
        sample_edit_friendly(model(0), clean()[:, :12], LEVELS["VE"], **run)
    with pytest.raises(ValueError, match="3 latents of 16, the run is of 2 latents of 16"):
        sample_edit_friendly(model(0), clean(2), LEVELS["VE"], **run)
    with pytest.raises(ValueError, match="skip must lie in .0, 1., got 36: .* 0.36 for 36 of 100"):
        sample_edit_friendly(model(0), clean(), LEVELS["VE"], skip=36, **run)
    with pytest.raises(ValueError, match="come from edit-friendly inversion, this sampler goes back from BDIA"):
        maps.at_run("bdia", LEVELS["VE"], clean())
    with pytest.raises(ValueError, match="eta must lie in .0, 1., got 0.*DDIM inversion"):
        maps_of(clean(), LEVELS["VE"], eta=0.0)
    assert math.isfinite(float(maps.z.abs().max()))
