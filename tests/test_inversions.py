"""DDIM, BDIA, EDICT and RF inversion: recorded runs, the way back to the picture, limits, what they refuse."""
import pytest
import torch
from gmm import LABELS, MEANS, STDS, WEIGHTS, denoise, denoise_flow
from golden_runs import load, tensor

from odeon.editing.bdia_inversion import invert_bdia, sample_bdia_back
from odeon.editing.ddim_inversion import sample_ddim_invert
from odeon.editing.edict import edict_down, edict_up, sample_edict
from odeon.editing.inversion import slope
from odeon.editing.noise_maps import NoiseMaps
from odeon.editing.rf_inversion import pulls, sample_rf_edit, sample_rf_invert, steered
from odeon.samplers.ddim import plan_ddim
from odeon.samplers.linear import run
from odeon.samplers.process import FLOW, VE

LEVELS = {"VE": [14.6, 8.0, 5.0, 3.0, 2.0, 1.2, 0.7, 0.4, 0.2, 0.0],
          "flow": [1.0, 0.93, 0.85, 0.75, 0.65, 0.5, 0.35, 0.2, 0.1, 0.0]}
PROCESS = {"VE": VE, "flow": FLOW}


def model(label=0, cfg=1.0, kind="VE"):
    def guided(x, sigma):
        own = denoise if kind == "VE" else denoise_flow
        cond, uncond = (own(x, float(sigma[0]), each) for each in (label, None))
        return uncond + cfg * (cond - uncond)

    return guided


def clean(batch=3):
    generator = torch.Generator().manual_seed(4)
    own = torch.nonzero(LABELS == 0)[:, 0]
    which = own[torch.multinomial(WEIGHTS[own], batch, replacement=True, generator=generator)]
    noise = torch.randn(batch, 16, generator=generator, dtype=torch.float64)
    return MEANS[which] + STDS[which, None] * noise


def unit_noise(seed):
    return lambda stream: lambda sigma, sigma_next: torch.randn(
        3, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def levels_of(settings):
    """The VE levels of a recorded run, falling, its clean end included, and what makes its VP states VE ones."""
    alphas = tensor([*settings["alphas_cumprod_at_timesteps"], settings["final_alpha_cumprod"]])
    return (1.0 / alphas - 1.0).sqrt().tolist(), alphas.rsqrt()


def labels_of(settings):
    return ((settings[f"{which}_label"], settings[f"cfg_{short}"]) for which, short in (("source", "src"),
                                                                                        ("target", "tar")))


@pytest.mark.parametrize("recorded", load("editing/ddim_inversion")["runs"], ids=("cfg 1", "cfg 3.5"))
def test_recorded_ddim_inversions(recorded):
    settings = recorded["settings"]
    sigmas, sizes = levels_of(settings)
    guided = model(settings["label"], settings["cfg"])
    noisy = sample_ddim_invert(guided, tensor(recorded["x_init"]) * sizes[-1], sigmas[::-1],
                               eval_at="destination_level", process=VE)
    assert torch.allclose(noisy / sizes[0], tensor(recorded["x_final"]), atol=1e-9)
    x = noisy
    for sigma, sigma_next in zip(sigmas, sigmas[1:]):
        x = x + (sigma_next - sigma) * slope(guided, x, sigma, VE)
    assert torch.allclose(x / sizes[-1], tensor(recorded["x_roundtrip"]), atol=1e-9)


@pytest.mark.parametrize("recorded", load("editing/bdia_roundtrip")["runs"], ids=("gamma 1", "gamma 0.96", "40 steps"))
def test_recorded_bdia_round_trips(recorded):
    settings, x_init = recorded["settings"], tensor(recorded["x_init"])
    sigmas, sizes = levels_of(settings)
    source, target = labels_of(settings)
    pair = invert_bdia(model(*source), x_init * sizes[-1], sigmas, gamma=settings["gamma"], process=VE)
    recorded_pair = tensor(recorded["inverted_pair"])
    scale = recorded_pair.abs().max()
    for i in (0, 1):
        assert torch.allclose(pair[i] / sizes[i], recorded_pair[i], atol=1e-9 * float(scale))
    maps = bdia_maps(pair, sigmas, gamma=settings["gamma"])
    for label, wanted in ((source, "recon_pair"), (target, "x_final_pair")):
        back = sample_bdia_back(model(*label), x_init, sigmas, noise_maps=maps, process=VE)
        assert torch.allclose(back / sizes[-1], tensor(recorded[wanted])[0], atol=1e-9), wanted
    assert torch.allclose(back_of(maps, source, sigmas) / sizes[-1], x_init, atol=1e-9)


def bdia_maps(pair, sigmas, *, gamma, scaling="vp"):
    x = torch.stack(pair)
    return NoiseMaps("bdia", tuple(sigmas), x, x.new_zeros(0, *x.shape[1:]),
                     {"what": "noise maps", "model": {}, "gamma": gamma, "scaling": scaling})


def back_of(maps, label, sigmas, kind="VE"):
    return sample_bdia_back(model(*label, kind), maps.x[0], sigmas, noise_maps=maps, process=PROCESS[kind])


@pytest.mark.parametrize("recorded", load("editing/edict_roundtrip")["runs"], ids=("strength 1", "strength 0.85"))
def test_recorded_edict_round_trips(recorded):
    settings, x_init = recorded["settings"], tensor(recorded["x_init"])
    sigmas, sizes = levels_of(settings)
    source, target = labels_of(settings)
    options = {"mix": settings["mix_weight"], "leapfrog": settings["leapfrog"], "process": VE}
    pair = edict_up(model(*source), x_init * sizes[-1], sigmas, **options)
    for i in (0, 1):
        assert torch.allclose(pair[i] / sizes[0], tensor(recorded["inverted_pair"])[i], atol=1e-9)
    for label, wanted in ((source, "recon_pair"), (target, "x_final_pair")):
        down = edict_down(model(*label), pair, sigmas, **options)
        for i in (0, 1):
            assert torch.allclose(down[i] / sizes[-1], tensor(recorded[wanted])[i], atol=1e-9), wanted


@pytest.mark.parametrize("recorded", load("editing/rf_inversion")["runs"], ids=("plain", "shifted", "sde"))
def test_recorded_rf_runs(recorded):
    """The recorded inversion tells the network and the pull times i / (N + 1) while it steps by the differences of the
    falling schedule, which only the rule is shared with; the recorded edit adds noise in its last step too."""
    settings, sigmas = recorded["settings"], recorded["settings"]["sigmas"]
    x, y1 = tensor(recorded["x_init"]), tensor(recorded["y1_noise"])
    steps, guided = settings["N"], model(settings["source_label"], kind="flow")
    for i in range(steps):
        t = i / (steps + 1)
        velocity = slope(guided, x, t, FLOW) if t else -x
        x = x + (sigmas[i] - sigmas[i + 1]) * steered(velocity, (y1 - x) / (1.0 - t), settings["gamma"])
    assert torch.allclose(x, tensor(recorded["x_inverted"]), atol=1e-9)
    noises = tensor(recorded["noises"])
    left = iter(noises[1:])
    found = sample_rf_edit(
        model(settings["target_label"], kind="flow"), x, sigmas, reference=tensor(recorded["x_init"]),
        eta=settings["eta"], start=settings["start_fraction"], stop=settings["stop_fraction"], sde=settings["sde"],
        noise_of=lambda stream: lambda sigma, sigma_next: next(left), process=FLOW)
    if settings["sde"]:
        t = sigmas[-2]
        found = found + (2.0 * t / (1.0 - t) * t) ** 0.5 * next(left)
    assert torch.allclose(found, tensor(recorded["x_final"]), atol=1e-9)


@pytest.mark.parametrize("kind", LEVELS)
@pytest.mark.parametrize("gamma", [1.0, 0.96, 0.7])
@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_bdia_brings_the_picture_back(kind, gamma, cfg):
    x, sigmas, seen = clean(), LEVELS[kind], []
    for scaling in ("vp", "ve"):
        pair = invert_bdia(model(0, cfg, kind), x, sigmas, gamma=gamma, scaling=scaling, process=PROCESS[kind],
                           callback=lambda i, x, d, sigma, of: seen.append((i, of)))
        maps = bdia_maps(pair, sigmas, gamma=gamma, scaling=scaling)
        assert (back_of(maps, (0, cfg), sigmas, kind) - x).abs().max() < 1e-10
    assert seen == [(i, 8) for i in range(8)] * 2


@pytest.mark.parametrize("kind", LEVELS)
@pytest.mark.parametrize("mix", [1.0, 0.93])
@pytest.mark.parametrize("leapfrog", [True, False])
def test_edict_brings_the_picture_back_under_the_same_words_and_edits_under_others(kind, mix, leapfrog):
    x, sigmas = clean(), LEVELS[kind]

    def edit(label):
        return sample_edict(model(label, 3.0, kind), torch.zeros_like(x), sigmas, source=[], source_negative=[],
                            mix=mix, leapfrog=leapfrog, source_cfg=3.0, clean=x, process=PROCESS[kind],
                            prompted=lambda source, negative, cfg: model(0, cfg, kind))

    assert (edit(0) - x).abs().max() < 1e-9
    assert (edit(1) - x).abs().max() > 0.1


def test_float32_networks_lose_nothing_either():
    x, sigmas = clean().float(), LEVELS["VE"]
    inner = model(0, 3.0)

    def rough(state, sigma):
        assert state.dtype == sigma.dtype == torch.float32
        return inner(state.double(), sigma.double()).float()

    pair = invert_bdia(rough, x, sigmas, gamma=0.96, process=VE)
    back = sample_bdia_back(rough, x, sigmas, noise_maps=bdia_maps(pair, sigmas, gamma=0.96), process=VE)
    edited = sample_edict(rough, x, sigmas, source=[], clean=x, prompted=lambda *_, cfg: rough, process=VE)
    for found in (back, edited):
        assert found.dtype == torch.float32 and (found - x).norm() < 1e-6 * x.norm()


@pytest.mark.parametrize("kind", LEVELS)
def test_ddim_inversion_with_fixed_points_is_exact(kind):
    x = clean()
    down = [level for level in LEVELS[kind] if 0.3 < level < 4.0]
    noisy = sample_ddim_invert(model(kind=kind), x, down[::-1], fixed_point_iters=400, process=PROCESS[kind])
    back = run(lambda x, sigma: model(kind=kind)(x, torch.tensor([sigma], dtype=torch.float64)), noisy,
               plan_ddim(down, process=PROCESS[kind]))
    assert (back - x).abs().max() < 1e-10


@pytest.mark.parametrize("kind", LEVELS)
def test_ddim_inversion_is_of_first_order(kind):
    top, bottom = (8.0, 0.5) if kind == "VE" else (0.9, 0.3)
    errors = []
    for steps in (40, 80, 160):
        down = [top * (bottom / top) ** (i / steps) for i in range(steps + 1)]
        noisy = sample_ddim_invert(lambda x, sigma: gaussian(x, sigma, kind), clean(), down[::-1],
                                   process=PROCESS[kind])
        back = run(lambda x, sigma: gaussian(x, torch.tensor([sigma], dtype=torch.float64), kind), noisy,
                   plan_ddim(down, process=PROCESS[kind]))
        errors.append(float((back - clean()).norm()))
    assert all(1.9 < one / two < 2.1 for one, two in zip(errors, errors[1:]))


def gaussian(x, sigma, kind):
    """D of pictures drawn from N(0, 0.5^2)."""
    sigma = float(sigma[0])
    alpha = 1.0 if kind == "VE" else 1.0 - sigma
    return alpha * 0.25 / (alpha * alpha * 0.25 + sigma * sigma) * x


@pytest.mark.parametrize("kind", LEVELS)
def test_the_clean_end_at_zero_is_as_flip_sigmas_has_it(kind):
    up = LEVELS[kind][::-1][:-1]
    for options in ({}, {"eval_at": "destination_level"}):
        zero, tiny = (sample_ddim_invert(model(kind=kind), clean(), [low, *up[1:]], process=PROCESS[kind], **options)
                      for low in (0.0, 1e-4))
        assert torch.isfinite(zero).all() and torch.allclose(zero, tiny, atol=5e-3)


def test_rf_inversion_s_limits():
    x, down = clean(), LEVELS["flow"]
    up = [1e-4, *down[::-1][1:]]
    options = {"noise_of": unit_noise(3), "process": FLOW}
    noise = unit_noise(3)("")(1.0, 0.0)
    assert torch.allclose(sample_rf_invert(model(kind="flow"), x, up, gamma=1.0, **options), noise, atol=1e-12)
    assert torch.equal(sample_rf_invert(model(kind="flow"), x, up, gamma=0.0, **options),
                       sample_ddim_invert(model(kind="flow"), x, up, process=FLOW))
    edit = {**options, "reference": x}
    back = sample_rf_edit(model(1, kind="flow"), noise, down, eta=1.0, stop=1.0, **edit)
    assert torch.allclose(back, x, atol=1e-12)
    plain = run(lambda x, sigma: model(1, kind="flow")(x, [sigma]), noise, plan_ddim(down, process=FLOW))
    assert torch.allclose(sample_rf_edit(model(1, kind="flow"), noise, down, eta=0.0, **edit), plain, atol=1e-12)
    assert torch.isfinite(sample_rf_edit(model(1, kind="flow"), noise, [0.9999, *down[1:]], sde=True, **edit)).all()


def test_trends_of_the_pull():
    assert pulls(8, eta=0.5, start=0.0, stop=0.25, trend="constant") == [0.5, 0.5, *[0.0] * 6]
    assert pulls(6, eta=1.0, start=0.5, stop=1.0, trend="linear_decrease") == [0.0, 0.0, 0.0, 1.0, 0.5, 0.0]
    assert pulls(6, eta=1.0, start=0.5, stop=1.0, trend="linear_increase") == [0.0, 0.0, 0.0, 0.0, 0.5, 1.0]
    assert pulls(6, eta=1.0, start=0.5, stop=0.5, trend="constant") == [0.0] * 6
    assert pulls(4, eta=0.8, start=0.25, stop=1.0, trend="power", power=2.0) == [
        0.0, 0.8 * 0.75 ** 2, 0.8 * 0.5 ** 2, 0.8 * 0.25 ** 2]
    assert pulls(30, eta=0.5, start=0.0, stop=0.25, trend="constant") == [*[0.5] * 7, *[0.0] * 23]  # 7.5 steps are 7


def test_wrong_options_are_named():
    x, options = clean(), {"noise_of": unit_noise(0), "process": FLOW}
    with pytest.raises(ValueError, match="RF inversion is for flow models"):
        sample_rf_invert(model(), x, [0.1, 2.0], **{**options, "process": VE})
    with pytest.raises(ValueError, match="need 0 <= start <= stop <= 1, got 0.5 and 0.2"):
        sample_rf_edit(model(), x, LEVELS["flow"], reference=x, start=0.5, stop=0.2, **options)
    with pytest.raises(ValueError, match="power must be 0 or more, got -1.0"):
        sample_rf_edit(model(), x, LEVELS["flow"], reference=x, trend="power", power=-1.0, **options)
    with pytest.raises(ValueError, match="reference has the size .2, 16., the run .3, 16."):
        sample_rf_edit(model(), x, LEVELS["flow"], reference=x[:2], **options)
    with pytest.raises(ValueError, match="gamma must lie in .0, 1., got 0.0; with 0 no step"):
        invert_bdia(model(), x, LEVELS["VE"], gamma=0.0, process=VE)
    with pytest.raises(ValueError, match="needs at least 2 steps, got 1"):
        invert_bdia(model(), x, [1.0, 0.0], process=VE)
    with pytest.raises(ValueError, match="scaling must be 'vp' or 've', got 'vq'"):
        invert_bdia(model(), x, LEVELS["VE"], scaling="vq", process=VE)
    with pytest.raises(ValueError, match="mix must lie in .0.5, 1., got 0.2"):
        sample_edict(model(), x, LEVELS["VE"], source=[], mix=0.2, clean=x, prompted=None, process=VE)
    with pytest.raises(ValueError, match="eval_at must be one of"):
        sample_ddim_invert(model(), x, [0.1, 2.0], eval_at="there", process=VE)
