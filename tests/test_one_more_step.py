import math

import pytest
import torch
from gmm import MEANS, WEIGHTS, denoise
from golden_runs import load, tensor

from odeon import NODE_CLASS_MAPPINGS, host
from odeon.host.embedded.model import ModelSampling
from odeon.host.embedded.sampling import Guider, Noise, Sampler
from odeon.measure.mean import mean_prediction
from odeon.models.levels import DiscreteLevels, FlowLevels
from odeon.samplers.exponential_adams import plan_exponential_adams
from odeon.samplers.linear import run
from odeon.samplers.one_more_step import NOISES, noise_share, one_more_step
from odeon.samplers.process import FLOW
from odeon.schedules.power import power_sigmas
from odeon.schedules.zero_snr import TERMINAL_SIGMA

GOLDEN = load("schedules/one_more_step")
MEAN = (WEIGHTS[:, None] * MEANS).sum(0)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ODEON_FOLDER", str(tmp_path))


@pytest.mark.parametrize("i", range(len(GOLDEN["runs"])))
def test_golden_step(i):
    """The published step, recorded in the VP form, where x is sqrt(abar) times the VE state."""
    golden = GOLDEN["runs"][i]
    kept, scale = golden["settings"]["alpha_bar"], golden["settings"]["oms_guidance_scale"]
    uncond, text = tensor(GOLDEN["v_uncond"]), tensor(GOLDEN["v_text"])
    sigma = math.sqrt((1.0 - kept) / kept)
    # what a host makes of a guided v prediction of pure noise, at the level it has for that
    top = torch.tensor(TERMINAL_SIGMA, dtype=torch.float64)
    sampling = ModelSampling("v", DiscreteLevels())
    read = [sampling.calculate_denoised(top, v, torch.zeros_like(v)) for v in (uncond, text)]
    guided = read[0] + scale * (read[1] - read[0])
    for mean, tolerance in ((-(uncond + scale * (text - uncond)), 1e-12), (guided, 1e-7)):
        ours = math.sqrt(kept) * one_more_step(mean, tensor(golden["noises"]), sigma, kind="fresh_variance")
        assert (ours - tensor(golden["x_final"])).abs().max() < tolerance


def test_noise_is_the_statistically_right_one_but_for_the_published_weight():
    sigma = 14.614642
    assert noise_share(sigma) == noise_share(sigma, "deterministic") == 1.0
    assert noise_share(sigma, "fresh_variance") == pytest.approx(1.0 - 0.00233, abs=1e-5)
    assert noise_share(0.9, "fresh_variance", process=FLOW) == pytest.approx(0.9 / math.hypot(0.1, 0.9))
    noise = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(one_more_step(torch.zeros(16), noise, sigma), sigma * noise)
    assert torch.allclose(one_more_step(torch.ones(16), noise, 0.9, process=FLOW), 0.1 + 0.9 * noise)
    with pytest.raises(ValueError, match="noise must be one of fresh, fresh_variance, deterministic, got 'x'"):
        noise_share(1.0, "x")


def test_the_batch_mean_comes_nearer_to_the_data_s():
    """On the exact mixture, how much of the data's mean the pictures lack: 2 % of it from SD's highest level, 4 % from
    sigma 5, and about nothing after one more step. 2500 noises and their opposites, so that chance has no mean."""
    noise = torch.randn(2500, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    noise = torch.cat([noise, -noise])
    for top, lack in ((14.614642, 0.018), (5.0, 0.044)):
        steps = plan_exponential_adams(power_sigmas(24, top, 0.03).tolist(), order=2)
        plain, centred = (1.0 - (run(denoise, one_more_step(mean, noise, top), steps).mean(0) @ MEAN) / (MEAN @ MEAN)
                          for mean in (torch.zeros(16, dtype=torch.float64), MEAN))
        assert plain == pytest.approx(lack, abs=0.005) and abs(centred) < 0.4 * plain


def test_the_mean_of_predictions_is_the_mean_of_all_pictures():
    noise = torch.randn(64, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    *_, last = mean_prediction(denoise, noise * 4518.0, 4518.0, batch=10)
    assert last.done == last.total == 64
    assert (last.state["sum"] / last.state["count"] - MEAN).abs().max() < 5e-4


def test_an_interrupted_mean_goes_on():
    noise = torch.randn(20, 3, generator=torch.Generator().manual_seed(3))
    model = lambda x, sigma: torch.tanh(x)
    whole = list(mean_prediction(model, noise, 2.0, batch=8))
    assert [step.done for step in whole] == [8, 16, 20]
    for stop in (0, 1, 2):
        *_, last = mean_prediction(model, noise, 2.0, batch=8, state=whole[stop].state)
        assert torch.equal(last.state["sum"], whole[-1].state["sum"]) and int(last.state["count"]) == 20


class Coloured(torch.nn.Module):
    """A network whose pictures are all one: each channel its own value, the prompt's mean added."""

    def __init__(self, prediction="eps"):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2), requires_grad=False)
        self.prediction, self.calls = prediction, 0

    def forward(self, x, timesteps, context=None, **_):
        self.calls += 1
        picture = (torch.arange(4.0).reshape(1, 4, 1, 1) + context.mean()).expand(x.shape)
        if self.prediction == "flow":
            return (x - picture) / (timesteps.reshape(-1, 1, 1, 1) / 1000.0)
        sigma = DiscreteLevels().sigma(timesteps).reshape(-1, 1, 1, 1)
        return (x * (1.0 + sigma.square()).sqrt() - picture) / sigma


def build(prediction="eps", latent=None, **changes):
    network = Coloured(prediction)
    levels = FlowLevels() if prediction == "flow" else DiscreteLevels()
    model = host.make_model(network, prediction=prediction, levels=levels, channels=4, rgb_factors=[[0.1] * 3] * 4)
    given = {"model": model, "positive": [[torch.ones(1, 2, 3), {}]], "negative": [[torch.zeros(1, 2, 3), {}]],
             "sigmas": torch.tensor([14.614642, 3.0, 0.0]), "latent": {"samples": torch.zeros(3, 4, 8, 8), "tag": 1},
             "cfg": 2.0, "start_seed": 7, "samples": 5, "noise": "fresh", "batch": 2, **changes}
    return (*NODE_CLASS_MAPPINGS["OdeonOneMoreStep"]().measure(**given), given, network)


def test_the_node_asks_under_the_prompt_and_its_cfg():
    latent, _, _, network = build()
    expected = (torch.arange(4.0).reshape(1, 4, 1, 1) + 2.0).expand(3, 4, 8, 8)  # 0 + 2 (1 - 0) of the prompt
    assert latent["tag"] == 1 and torch.allclose(latent["samples"], expected, atol=1e-4)
    assert network.calls == 6  # two prompts, batches of 2, 2 and 1
    other = Coloured()
    asked = host.make_model(other, prediction="eps", levels=DiscreteLevels(), channels=4, rgb_factors=[])
    _, _, _, network = build(oms_model=asked)
    assert network.calls == 0 and other.calls == 6


@pytest.mark.parametrize("kind", NOISES)
@pytest.mark.parametrize("top", [14.614642, 6.0])
def test_a_sampler_starts_where_the_step_ends(kind, top):
    """Whatever the sampler multiplies noise by at the highest level and below it."""
    sigmas = torch.tensor([top, 1.0, 0.0])
    latent, noise, given, _ = build(sigmas=sigmas, noise=kind)
    seen = []

    class Spy:
        def __call__(self, model, x, sigmas, **_):
            seen.append(x)
            return x

    drawn = noise.generate_noise({"samples": torch.zeros(3, 4, 8, 8)})
    Guider(given["model"], given["positive"]).sample(drawn, latent["samples"], Sampler(Spy()), sigmas, seed=noise.seed)
    own = Noise(7).generate_noise({"samples": torch.zeros(3, 4, 8, 8)})
    unit = (seen[0] - latent["samples"]) / (top * noise_share(top, kind))
    assert unit.std() == pytest.approx(1.0, abs=0.06)
    assert torch.allclose(unit, own, atol=1e-5) == (kind == "deterministic")
    assert noise.seed == 7
    assert torch.equal(drawn, noise.generate_noise({"samples": torch.zeros(3, 4, 8, 8)}))


def test_a_picture_given_takes_the_model_s_place():
    mean = {"samples": torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))}
    latent, _, _, network = build(mean=mean)
    assert network.calls == 0 and latent["samples"].shape == (3, 4, 8, 8)
    assert torch.equal(latent["samples"][2, :, ::2, ::2], mean["samples"][0])
    two = {"samples": torch.stack([torch.zeros(4, 8, 8), torch.ones(4, 8, 8)])}
    assert build(mean=two)[0]["samples"].amax((1, 2, 3)).tolist() == [0.0, 1.0, 0.0]


def test_flow_models_that_start_at_pure_noise_are_named():
    with pytest.raises(ValueError, match="starts at pure noise already"):
        build("flow", sigmas=torch.tensor([1.0, 0.5, 0.0]))
    latent, noise, given, _ = build("flow", sigmas=torch.tensor([0.9, 0.5, 0.0]))
    assert torch.allclose(latent["samples"][0, :, 0, 0], torch.arange(4.0) + 2.0, atol=1e-4)
    assert noise.generate_noise(given["latent"]).std() == pytest.approx(1.0, abs=0.06)
