"""A network that is told other levels than those a run integrates over."""
import math

import pytest
import torch
from gmm import UNIT_NOISE, denoise, denoise_flow
from golden_runs import load, tensor
from other_levels import EDMLevels

from odeon import NODE_CLASS_MAPPINGS, host
from odeon.host.embedded.model import ModelSampling
from odeon.host.embedded.sampling import Guider
from odeon.host.relabel import relabelled
from odeon.models.levels import DiscreteLevels, FlowLevels
from odeon.samplers.clock import clock_of_table
from odeon.samplers.ddim import plan_ddim
from odeon.samplers.dpm_solver_pp import plan_dpm_solver_pp
from odeon.samplers.edm_heun import plan_edm_heun
from odeon.samplers.linear import run
from odeon.samplers.pndm import plan_pndm
from odeon.samplers.unipc import plan_unipc
from odeon.schedules.conditioning import told_levels

TIME_TUNER, LD3 = load("schedules/conditioning_time_tuner"), load("schedules/conditioning_ld3")
SD, EDM = DiscreteLevels(rounded=True), EDMLevels(0.002, 700.0)
PLACES = clock_of_table(SD.sigmas.tolist())


class Mixture(torch.nn.Module):
    """The exact mixture as networks see it. scaled: told places of SD's table and given x / sqrt(1 + sigma^2), with
    `prediction` eps or v; else told log(sigma) / 4 and given x."""

    def __init__(self, prediction="eps", scaled=True):
        super().__init__()
        self.prediction, self.scaled, self.told = prediction, scaled, []

    def forward(self, x, timesteps, context=None, **_):
        self.told.append(float(timesteps.flatten()[0]))
        flat = x.reshape(len(x), -1).double()
        if self.prediction == "flow":
            sigma = self.told[-1] / 1000.0
            return ((flat - denoise_flow(flat, sigma)) / sigma).reshape(x.shape)
        sigma = PLACES.sigma_of(self.told[-1]) if self.scaled else math.exp(4.0 * self.told[-1])
        size = math.sqrt(1.0 + sigma * sigma)
        state = flat * size if self.scaled else flat
        denoised = denoise(state, sigma)
        if self.prediction == "v":
            return ((state / size ** 2 - denoised) * size / sigma).reshape(x.shape)
        return ((state - denoised) / sigma).reshape(x.shape)


def called(sampling, network):
    """model(x, sigma) in float64, by the steps that a host takes around a network."""
    def model(x, sigma):
        level = torch.full((len(x), 1), sigma, dtype=torch.float64)
        output = network(sampling.calculate_input(level, x), sampling.timestep(level[:, 0]))
        return sampling.calculate_denoised(level, output, x)

    return model


@pytest.mark.parametrize("i", range(len(TIME_TUNER["runs"])))
def test_golden_time_tuner(i):
    """Label only, on a network that is told fractional places: DDIM in the VE form, recorded in the VP form."""
    golden = TIME_TUNER["runs"][i]
    sigmas, cond = ([*golden[name], golden["sigmas_ve_prev"][-1]] for name in ("sigmas_ve", "sigma_cond_ve"))
    start, end = (math.sqrt(1.0 + sigma ** 2) for sigma in (sigmas[0], sigmas[-1]))
    # untuned, the network is told whole places of the table, which is float32
    for told, wanted, tolerance in ((cond, "x_final", 1e-9), (sigmas, "x_final_untuned", 3e-8)):
        network = Mixture()
        sampling = relabelled(ModelSampling("eps", SD), told_levels(sigmas, told), levels=SD, whole=False)
        x = run(called(sampling, network), tensor(golden["x_init"]) * start, plan_ddim(sigmas)) / end
        assert (x - tensor(golden[wanted])).abs().max() < tolerance
        times = zip(golden["timesteps_continuous"], golden["t_ratios"])
        if wanted == "x_final":  # its time is (place + 1) / 1000, in a table that it reads in log alpha
            assert network.told == pytest.approx([1000.0 * time * ratio - 1.0 for time, ratio in times], abs=2e-3)


PLANS = {"dpm_solver++": lambda sigmas, order, variant: plan_dpm_solver_pp(sigmas, order=order),
         "uni_pc": lambda sigmas, order, variant: plan_unipc(sigmas, order=order, variant=variant),
         "euler": lambda sigmas, order, variant: plan_ddim(sigmas),
         "ipndm": lambda sigmas, order, variant: plan_pndm(sigmas, variant="iPNDM", max_order=order)}


def ld3_sampling(golden):
    """LD3's solvers on a VE network without input scaling: those of the noise take it at the told level and go on from
    the true one, those of the data take D at the told level."""
    whole = golden["settings"]["solver"] in ("dpm_solver++", "uni_pc")
    told = told_levels(golden["timesteps"], golden["timesteps2"])
    # 'flow' is the sampling object that gives the network x itself, and x - sigma times its output
    return relabelled(ModelSampling("flow", EDM), told, levels=EDM, whole=whole)


@pytest.mark.parametrize("i", range(len(LD3["runs"])))
def test_golden_ld3(i):
    golden = LD3["runs"][i]
    settings = golden["settings"]
    steps = PLANS[settings["solver"]](golden["timesteps"], settings["order"], settings["variant"])
    model = called(ld3_sampling(golden), Mixture(scaled=False))
    assert (run(model, tensor(LD3["x_init"]), steps) - tensor(golden["x_final"])).abs().max() < 1e-9


def network_model(prediction="eps", network=None, levels=None):
    levels = levels or (FlowLevels() if prediction == "flow" else SD)
    return host.make_model(network or Mixture(prediction), prediction=prediction, levels=levels, channels=1,
                           rgb_factors=[[0.1] * 3])


def patched(model, sigmas, cond, mode="label_only"):
    node = NODE_CLASS_MAPPINGS["OdeonConditioningSigmas"]()
    return node.patch(model=model, sigmas=torch.as_tensor(sigmas), cond_sigmas=torch.as_tensor(cond), mode=mode)[0]


def sampled(model, sampler, sigmas, noise=None):
    noise = UNIT_NOISE.reshape(3, 1, 4, 4).float() if noise is None else noise
    return Guider(model, [[torch.zeros(1, 2, 3), {}]]).sample(
        noise, torch.zeros_like(noise), sampler, torch.as_tensor(sigmas, dtype=torch.float32))


def test_golden_time_tuner_through_the_host():
    """The node, a SAMPLER and a GUIDER, in the float32 of a real run."""
    for golden in TIME_TUNER["runs"]:
        sigmas, cond = ([*golden[name], golden["sigmas_ve_prev"][-1]] for name in ("sigmas_ve", "sigma_cond_ve"))
        start, end = (math.sqrt(1.0 + sigma ** 2) for sigma in (sigmas[0], sigmas[-1]))
        noise = (tensor(golden["x_init"]) * start / sigmas[0]).reshape(3, 1, 4, 4).float()
        out = sampled(patched(network_model(), sigmas, cond), host.solver(plan_ddim), sigmas, noise).flatten(1) / end
        assert (out - tensor(golden["x_final"])).abs().max() < 2e-5


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_whole_denoiser_of_a_scaled_network_is_d_of_the_scaled_state(prediction):
    """D(k x, c) with k = sqrt((1 + c^2) / (1 + s^2)), which leaves the network's own input as it is."""
    sigmas, cond = [5.0, 1.0, 0.3], [4.0, 1.1, 0.25]
    sampling = relabelled(ModelSampling(prediction, SD), told_levels(sigmas, cond), levels=SD, whole=True)
    x = UNIT_NOISE * 3.0
    for sigma, told in zip(sigmas, cond):
        scale = math.sqrt((1.0 + told ** 2) / (1.0 + sigma ** 2))
        ours = called(sampling, Mixture(prediction))(x, sigma)
        assert (ours - denoise(scale * x, told)).abs().max() < 1e-6
        level = torch.tensor([[sigma]], dtype=torch.float64)
        assert torch.allclose(sampling.calculate_input(level, x),
                              ModelSampling(prediction, SD).calculate_input(level, x), rtol=1e-12)


def test_whole_denoiser_of_a_flow_is_d_at_the_told_level():
    sigmas, cond = [0.9, 0.5, 0.1], [0.85, 0.52, 0.13]
    own, told_at, x = ModelSampling("flow", FlowLevels()), told_levels(sigmas, cond), UNIT_NOISE
    sampling, label = (relabelled(own, told_at, levels=own.levels, whole=whole) for whole in (True, False))
    for sigma, told in zip(sigmas, cond):
        assert (called(sampling, Mixture("flow"))(x, sigma) - denoise_flow(x, told)).abs().max() < 1e-12
        velocity = (x - denoise_flow(x, told)) / told
        assert (called(label, Mixture("flow"))(x, sigma) - (x - sigma * velocity)).abs().max() < 1e-12


@pytest.mark.parametrize("mode", ["label_only", "whole_denoiser"])
@pytest.mark.parametrize("prediction", ["eps", "v", "flow"])
def test_equal_levels_change_nothing_to_the_bit(prediction, mode):
    """At the levels and between them: Heun's second call and a middle stage."""
    sigmas = torch.tensor([0.97, 0.6, 0.31, 0.12, 0.0]) * (1.0 if prediction == "flow" else 14.0)
    for plan in (plan_ddim, plan_unipc, plan_edm_heun):
        plain, same = (sampled(model, host.solver(plan), sigmas) for model in (
            network_model(prediction), patched(network_model(prediction), sigmas, sigmas, mode)))
        assert torch.equal(plain, same)
    other = patched(network_model(prediction), sigmas, torch.cat([sigmas[:1] * 0.9, sigmas[1:]]), mode)
    assert not torch.equal(sampled(other, host.solver(plan_ddim), sigmas), plain)


def test_only_moved_levels_are_told_unrounded():
    network = Mixture()
    sigmas = [5.0, 2.0, 0.5, 0.0]
    model = patched(network_model(network=network), sigmas, [5.0, 2.1, 0.5, 0.0])
    sampled(model, host.solver(plan_ddim), sigmas)
    expected = [SD.timestep(torch.tensor(5.0)).item(), PLACES.time_of(2.1), SD.timestep(torch.tensor(0.5)).item()]
    assert network.told == pytest.approx(expected, abs=1e-3)
    assert network.told[0] == expected[0] and network.told[2] == expected[2] and network.told[1] % 1 > 0.01


def test_between_levels_the_ratio_goes_straight_in_log_sigma():
    told = told_levels([8.0, 2.0, 0.5, 0.0], [4.0, 2.0, 1.0, 0.0])
    at = tensor([8.0, 4.0, 2.0, 1.0, 0.5, 20.0, 0.01])
    assert told(at).tolist() == pytest.approx([4.0, 4.0 * math.sqrt(0.5), 2.0, math.sqrt(2.0), 1.0, 10.0, 0.02])
    assert told(at.float()[:, None]).dtype == torch.float32 and told(at[:, None]).shape == (7, 1)
    assert told_levels([3.0, 0.0], [6.0, 0.0])(tensor([3.0, 1.0])).tolist() == pytest.approx([6.0, 2.0])


def test_levels_stay_the_model_s_own():
    """So that Odeon's schedule nodes may be given the patched model too, and patching twice tells the last."""
    sigmas, network = [5.0, 2.0, 0.5, 0.0], Mixture()
    model = network_model(network=network)
    changed = patched(model, sigmas, [4.0, 2.0, 0.6, 0.0])
    assert host.levels_of(changed) is host.levels_of(model) is SD
    twice = patched(changed, sigmas, [4.5, 2.0, 0.5, 0.0])
    sampled(twice, host.solver(plan_ddim), sigmas)
    assert network.told == pytest.approx([PLACES.time_of(4.5), SD.timestep(torch.tensor(2.0)).item(),
                                          PLACES.time_of(0.6)], abs=1e-3)
    network.told.clear()
    sampled(model, host.solver(plan_ddim), sigmas)
    assert network.told[0] == SD.timestep(torch.tensor(5.0)).item()


@pytest.mark.parametrize(("sigmas", "cond", "message"), [
    ([2.0, 1.0, 0.0], [2.0, 0.0], "need a conditioning sigma for each of the 3 sigmas, got 2"),
    ([2.0, 3.0, 0.0], [2.0, 1.0, 0.0], "strictly decreasing"), ([2.0], [1.0], "at least 2"),
    ([2.0, 1.0, 0.5], [2.0, 1.0, 0.0], "must be above 0 wherever sigmas are"),
    ([2.0, math.nan, 0.0], [2.0, 1.0, 0.0], "must be finite"),
    ([2.0, 1.0, 0.0], [math.inf, 1.0, 0.0], "must be finite"),
    ([2.0, 1.0, -0.5], [2.0, 1.0, 0.5], "none below 0"),
])
def test_bad_levels_are_named(sigmas, cond, message):
    with pytest.raises(ValueError, match=message):
        told_levels(sigmas, cond)
