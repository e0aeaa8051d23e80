"""The nodes of LD3 and TimeTuner on a small network: what they report is what the sampler then does."""
import re

import pytest
import torch
from gmm import MEANS, denoise
from other_levels import EDMLevels

from odeon import NODE_CLASS_MAPPINGS, host
from odeon.host.embedded.sampling import Guider, Noise
from odeon.models.levels import DiscreteLevels, FlowLevels
from odeon.samplers.process import FLOW, VE
from odeon.schedules.optimize.teacher import teacher_levels
from odeon.schedules.optimize.time_tuner import label_clock

COUNT, HELD = 12, 4
WORD = [[torch.zeros(1, 2, 3), {}]]


class Net(torch.nn.Module):
    """The exact mixture as a network that predicts noise: told a place of the table, given x / sqrt(1 + sigma^2)."""

    def __init__(self, levels):
        super().__init__()
        self.levels, self.weight = levels, torch.nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x, timesteps, context=None, **_):
        logs = self.levels.log_sigmas.double()
        low = timesteps[0].detach().floor().long().clamp(0, len(logs) - 2)
        sigma = torch.lerp(logs[low], logs[low + 1], (timesteps[0] - low).double()).exp()
        state = x.flatten(1).double() * (1.0 + sigma.square()).sqrt()
        return ((state - denoise(state, sigma)) / sigma).reshape(x.shape).to(x.dtype)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ODEON_FOLDER", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def model():
    levels = DiscreteLevels(rounded=True)
    return host.make_model(Net(levels), prediction="eps", levels=levels, channels=4, rgb_factors=[[0.1] * 3] * 4)


def build(name, **given):
    cls = NODE_CLASS_MAPPINGS[name]
    inputs = {key: spec[1]["default"] for group in cls.INPUT_TYPES().values() for key, spec in group.items()
              if "default" in spec[1]}
    found = getattr(cls(), cls.FUNCTION)(**{**inputs, **given})
    return found["result"] if isinstance(found, dict) else found


def learn(name, model, sigmas, **given):
    with torch.inference_mode():
        return build(name, model=model, positive=WORD, negative=WORD, sigmas=sigmas, cfg=1.0, samples=COUNT,
                     start_seed=3, latent={"samples": torch.zeros(1, 4, 2, 2)}, teacher_steps=60, **given)


def drawn(model, sampler, sigmas):
    """The ends of the noises that the nodes hold back."""
    latent = torch.zeros(COUNT, 4, 2, 2)
    noise = Noise(3).generate_noise({"samples": latent})
    return Guider(model, WORD, WORD, 1.0).sample(noise, latent, sampler, sigmas)[COUNT - HELD:].double()


def distances(report, what):
    return [float(value) for value in re.search(rf"{what}: median ([\d.e+-]+), mean ([\d.e+-]+)", report).groups()]


@pytest.fixture
def targets(model):
    def ends(sigmas):
        fine = torch.tensor(teacher_levels(sigmas.tolist(), 60, sigma_min=0.0291675, process=VE))
        return drawn(model, build("OdeonSamplerExponentialAdams", order=3)[0], fine)

    return ends


SIGMAS = torch.tensor([14.6146, 11.0, 8.0, 5.0, 2.0, 0.0])  # too high to be any good
LD3 = {"rounds_v1": 0, "rounds_v2": 4, "rate": 0.02, "soft_radius": 0.0}


@pytest.mark.parametrize("decouple", ["label_only", "whole_denoiser", "off"])
def test_ld3_reports_what_the_sampler_then_does(decouple, model, targets):
    sampler = build("OdeonSamplerUniPC")[0]
    sigmas, report, plot, about, cond = learn("OdeonOptimizeLD3", model, SIGMAS, sampler=sampler, decouple=decouple,
                                              told_rate=0.2, **LD3)
    assert plot.shape[0] == 1 and about["steps"] == 5 and about["report"] == report
    assert torch.equal(sigmas, cond) is (decouple == "off") and "unipc" in report
    if decouple != "off":
        told = build("OdeonConditioningSigmas", model=model, sigmas=sigmas, cond_sigmas=cond, mode=decouple)[0]
    ends = targets(SIGMAS)
    for what, of, levels in (("as given", model, SIGMAS), ("learned", model if decouple == "off" else told, sigmas),
                             *([] if decouple == "off" else [("learned, without the told levels", model, sigmas)])):
        errors = (drawn(of, sampler, levels) - ends).flatten(1).square().mean(1).sqrt()
        assert distances(report, what) == pytest.approx([errors.quantile(0.5).item(), errors.mean().item()], rel=0.01)
    assert distances(report, "learned")[0] < distances(report, "as given")[0]


def test_time_tuner_reports_what_the_sampler_then_does(model, targets):
    levels = build("OdeonSigmasPower", steps=5)[0]
    data = {"samples": MEANS.float().reshape(-1, 4, 2, 2)}
    sigmas, report, plot, about, cond = learn("OdeonOptimizeTimeTuner", model, levels, data=data, iterations=30,
                                              rate=0.02, order="parallel")
    assert torch.equal(sigmas, levels) and not torch.equal(cond, sigmas) and plot.shape[0] == 1
    told = build("OdeonConditioningSigmas", model=model, sigmas=sigmas, cond_sigmas=cond, mode="label_only")[0]
    ends, ddim = targets(levels), build("OdeonSamplerDDIM")[0]
    for what, of in (("as given", model), ("learned", told)):
        errors = (drawn(of, ddim, levels) - ends).flatten(1).square().mean(1).sqrt()
        assert distances(report, what) == pytest.approx([errors.quantile(0.5).item(), errors.mean().item()], rel=0.01)


def test_the_model_is_left_as_it_was_and_results_are_kept(model):
    sampling, weight = model.model_sampling, model.network.weight
    given = {"sampler": build("OdeonSamplerUniPC")[0], **LD3}
    first = learn("OdeonOptimizeLD3", model, SIGMAS, **given)
    assert model.model_sampling is sampling and model.network.weight is weight
    forward, model.network.forward = model.network.forward, None
    try:
        assert torch.equal(learn("OdeonOptimizeLD3", model, SIGMAS, **given)[0], first[0])
    finally:
        model.network.forward = forward


def test_samplers_that_add_noise_are_refused(model):
    noisy = build("OdeonSamplerExponentialAdams", eta=1.0)[0]
    with pytest.raises(ValueError, match="adds noise, so that no run has one right end; set its eta to 0"):
        learn("OdeonOptimizeLD3", model, SIGMAS, sampler=noisy)


@pytest.mark.parametrize("levels", [FlowLevels(), EDMLevels(0.002, 80.0)], ids=["flow", "edm"])
def test_label_clocks_of_other_networks(levels):
    """A flow's time is its sigma; a network told log(sigma) / 4 is counted by its place between the two ends."""
    flow = isinstance(levels, FlowLevels)
    clock = label_clock(levels.sigmas.tolist(), FLOW if flow else VE)
    assert clock.sigma_of(clock.time_of(0.3)) == pytest.approx(0.3)
    assert clock.time_of(float(levels.sigma_max)) == pytest.approx(1.0)
    assert (clock.time_of(0.3) == 0.3) is flow
