import pytest
import torch
from gmm import denoise, log_spaced

from odeon import NODE_CLASS_MAPPINGS
from odeon.guidance.agd import Adapters, distill, trajectories
from odeon.host.embedded.sampling import Guider, Noise
from odeon.samplers.ddim import plan_ddim
from odeon.samplers.linear import run

CHANNELS = {"input_1_0_attn1": 6, "single_0": 8}


@pytest.fixture
def adapters():
    torch.manual_seed(0)
    return Adapters(CHANNELS, words=5, hidden=16)


def tokens(adapters, scale=4.0, time=0.5):
    words = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1))
    return adapters.tokens(torch.full((2,), scale), torch.full((2,), time), words)


def test_untrained_adapters_add_nothing_and_trained_ones_hear_scale_time_and_words(adapters):
    x = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(2))
    found = tokens(adapters)
    assert found.shape == (2, 2 + 3, 16)
    assert not adapters.added("input_1_0_attn1", x, found).any()
    torch.nn.init.normal_(adapters.places["input_1_0_attn1"].to_out.weight)
    base = adapters.added("input_1_0_attn1", x, found)
    assert base.any() and adapters.added("input_1_0_attn1", x.half(), found).dtype == torch.float16
    for other in (tokens(adapters, scale=5.0), tokens(adapters, time=0.6)):
        assert not torch.allclose(adapters.added("input_1_0_attn1", x, other), base, atol=1e-5)
    assert torch.allclose(adapters.added("input_1_0_attn1", x[1:], found[1:]), base[1:], atol=1e-6)


def test_trajectories_are_ddim_s_and_go_on_from_their_state():
    x = 14.6 * torch.randn(3, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    sigmas = [*log_spaced(5, top=14.6, bottom=0.05), 0.0]
    states = [progress.state for progress in trajectories(denoise, x, sigmas)]
    seen = []
    run(denoise, x, plan_ddim(sigmas), callback=lambda i, x, denoised, sigma: seen.append((x, denoised)))
    for place, name in enumerate(("x", "denoised")):
        for i in range(6):
            assert (states[-1][name][i] - seen[i][place]).abs().max() < 1e-5  # kept as float32
    calls = []
    again = [progress.state for progress in trajectories(
        lambda x, sigma: calls.append(sigma) or denoise(x, sigma), x, sigmas, state=states[2])]
    assert calls == sigmas[3:-1] and (again[-1]["x"] - states[-1]["x"]).abs().max() < 1e-4
    assert [*trajectories(None, x, sigmas, state=states[-1])][-1].state is states[-1]


def toy(adapters):
    """A denoiser of 6 places that the guided one exceeds by scale: only the adapters can tell how much."""
    def model(x, sigma, scale, run):
        found = adapters.tokens(torch.full((len(x),), scale), torch.full((len(x),), sigma), torch.zeros(len(x), 3, 5))
        return x + adapters.added("input_1_0_attn1", x, found)

    return model


def test_training_learns_what_cfg_adds_and_goes_on_from_its_state(adapters):
    generator = torch.Generator().manual_seed(4)
    scales, sigmas = torch.linspace(1.0, 6.0, 12), torch.tensor([1.0, 0.5])
    x = torch.randn(12, 2, 4, 7, 6, generator=generator)
    push = torch.randn(6, generator=generator)
    taught = {"x": x, "denoised": x + (scales - 1.0)[:, None, None, None, None] * push, "scales": scales,
              "sigmas": sigmas}
    model = toy(adapters)
    states = [progress.state for progress in distill(model, adapters, taught, iterations=150, picks=2, rate=5e-3,
                                                     warm_up=10)]
    losses = states[-1]["losses"]
    assert len(losses) == 150 and losses[-20:].mean() < 0.2 * losses[:10].mean()
    other = Adapters(CHANNELS, words=5, hidden=16)
    resumed = [progress.state for progress in distill(toy(other), other, taught, iterations=150, picks=2,
                                                      rate=5e-3, state=states[139])]
    assert len(resumed) == 10 and len(resumed[-1]["losses"]) == 150
    done = [*distill(None, adapters, taught, iterations=150, state=states[-1])]
    assert len(done) == 1 and done[0].state is states[-1]


def node(which, **inputs):
    cls = NODE_CLASS_MAPPINGS[which]
    values = {key: spec[1]["default"] for group in cls.INPUT_TYPES().values() for key, spec in group.items()
              if len(spec) > 1 and "default" in spec[1]}
    return getattr(cls(), cls.FUNCTION)(**{**values, **inputs})


@pytest.mark.parametrize(("name", "levels", "iterations"), [("shapes-unet", [3.0, 0.8, 0.0], 6),
                                                            ("shapes-dit-small", [0.9, 0.5, 0.0], 20)])
def test_record_train_apply_on_the_shapes_models(name, levels, iterations, tmp_path, monkeypatch):
    """A few steps of training: the file loads on its model, refuses others, and one evaluation comes nearer to CFG."""
    monkeypatch.setenv("ODEON_FOLDER", str(tmp_path))
    model, clip, _ = NODE_CLASS_MAPPINGS["OdeonShapesCheckpoint"]().load(name)
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a red star", ""))
    sigmas, latent = torch.tensor(levels), {"samples": torch.zeros(2, 4, 8, 8)}
    recorded, = node("OdeonAGDRecord", model=model, positive=positive, negative=negative, sigmas=sigmas,
                     latent=latent, cfg_min=2.9, cfg_max=3.1, runs=2)
    assert recorded["tensors"]["x"].shape == (2, 2, 2, 4, 8, 8)
    found = node("OdeonAGDTrain", model=model, trajectories=recorded, name="few", hidden=16, iterations=iterations,
                 picks=2, rate=3e-3)["result"]
    adapter = found[0]

    def drawn(patched, cfg=1.0):
        noise = Noise(3).generate_noise(latent)
        guider = Guider(patched, positive, negative, cfg)
        solver, = NODE_CLASS_MAPPINGS["OdeonSamplerExponentialAdams"]().build(order=1, eta=0.0, s_noise=1.0)
        with torch.inference_mode():
            return guider.sample(noise, latent["samples"], solver, sigmas, seed=3)

    applied, = node("OdeonAGDApply", model=model, scale=3.0, name="few")
    connected, = node("OdeonAGDApply", model=model, scale=3.0, name="connected", adapter=adapter)
    assert torch.equal(drawn(applied), drawn(connected)) and torch.equal(drawn(applied), drawn(applied))
    full, plain = drawn(model, cfg=3.0), drawn(model)
    assert (drawn(applied) - full).norm() < (0.9 if iterations == 20 else 1.0) * (plain - full).norm()
    other, _, _ = NODE_CLASS_MAPPINGS["OdeonShapesCheckpoint"]().load("shapes-dit")
    with pytest.raises(ValueError, match="of another model"):
        node("OdeonAGDApply", model=other, scale=3.0, name="few")
    with pytest.raises(ValueError, match=r"CFGs from 2.9 to 3.1, got 9"):
        node("OdeonAGDApply", model=model, scale=9.0, name="few")
    with pytest.raises(ValueError, match="no adapter is connected"):
        node("OdeonAGDApply", model=model, scale=3.0)
