"""Levels in other units, on every kind of model that ComfyUI knows."""
import math

import pytest
import torch
from golden_runs import load, tensor
from other_levels import CascadeLevels, ContinuousVLevels, CosmosLevels, DistilledLevels, EDMLevels

from odeon import NODE_CLASS_MAPPINGS, host
from odeon.models.levels import DiscreteLevels, FlowLevels
from odeon.samplers.process import FLOW, VE
from odeon.schedules.timesteps import (
    KINDS,
    clock_of_kind,
    place_of,
    sigmas_from_timesteps,
    timesteps_of_sigmas,
    told_places,
)

RUNS = {run["settings"]["model_sampling"].split(" (")[0]: run
        for run in load("schedules/sigma_timestep_conversion")["runs"]}
MODELS = {"sd": (DiscreteLevels(rounded=True), VE),
          "sd zsnr": (DiscreteLevels(rounded=True, zero_terminal=True), VE),
          "sd3 flow": (FlowLevels(3.0), FLOW), "wan flow": (FlowLevels(8.0), FLOW),
          "flux": (FlowLevels(math.exp(1.15), count=10000, top=1.0), FLOW),
          "edm": (EDMLevels(0.002, 120.0), VE), "svd": (EDMLevels(0.002, 700.0), VE),
          "continuous v": (ContinuousVLevels(0.03, 500.0), VE), "cosmos rflow": (CosmosLevels(0.002, 80.0), VE),
          "stable cascade": (CascadeLevels(2.0), VE)}
TABLES = ("sd", "sd zsnr")
SHIFTED = ("sd3 flow", "wan flow", "flux", "stable cascade")  # sigma() counts in another time than timestep()
# The recorded numbers are float32: near the end of a tangent or a cosine that is so much.
ROUGH = {"continuous v": 5e-5, "stable cascade": 5e-4}


def test_every_recorded_model_is_here():
    assert set(RUNS) == set(MODELS)
    for name, run in RUNS.items():
        levels, settings = MODELS[name][0], run["settings"]
        assert len(levels.sigmas) == settings["table_len"]
        for end in ("sigma_min", "sigma_max"):
            assert float(getattr(levels, end)) == pytest.approx(settings[end], rel=ROUGH.get(name, 2e-7))
        assert told_places(levels) == ((0, 1) if name in TABLES else None)


@pytest.mark.parametrize("name", list(MODELS))
def test_golden_levels_of_timesteps(name):
    """What ComfyUI's sigma() says, in the time it counts in: the network's own, or t01 where the model shifts."""
    (levels, process), run = MODELS[name], RUNS[name]
    kind = "t01" if name in SHIFTED or name == "cosmos rflow" else "index"
    whole = float(levels.timestep(torch.ones((), dtype=torch.float64))) if process is FLOW else 1.0
    seen = 0
    for timestep, sigma in zip(run["timestep"], run["sigma_of_timestep"]):
        if sigma == 0.0 or sigma > float(levels.sigma_max) * 1.0005:
            continue
        ours = sigmas_from_timesteps([timestep / whole], levels, process, kind=kind)[0].item()
        assert ours == pytest.approx(sigma, rel=ROUGH.get(name, 1e-6))
        seen += 1
    assert seen >= 5


@pytest.mark.parametrize("name", list(MODELS))
def test_golden_timesteps_of_levels(name):
    """What ComfyUI's timestep() tells the network, but for its rounding to whole places of a table."""
    (levels, process), run = MODELS[name], RUNS[name]
    low, high = float(levels.sigma_min), float(levels.sigma_max)
    for sigma, told in zip(run["sigma"], run["timestep_of_sigma"]):
        if not low * 0.9999 < sigma < high * 1.0001:
            continue
        ours = timesteps_of_sigmas([sigma], levels, process)[0]
        assert levels.timestep(torch.tensor(sigma)).item() == pytest.approx(told, abs=3e-5)
        if name in TABLES:  # the nearest in log sigma, so at most half a place away
            assert abs(ours - told) <= 0.5 + 1e-4
        else:
            assert ours == pytest.approx(told, rel=1e-6, abs=1e-5)
            assert sigmas_from_timesteps([told], levels, process)[0].item() == pytest.approx(
                sigma, rel=ROUGH.get(name, 1e-6))


@pytest.mark.parametrize("name", list(MODELS))
def test_golden_levels_of_a_share_of_the_run(name):
    """ComfyUI's percent_to_sigma: a share of the model's own time, counted from the top."""
    (levels, process), run = MODELS[name], RUNS[name]
    for percent, sigma in zip(run["percent"], run["percent_to_sigma"]):
        if 0.0 < percent < 1.0:
            if name in TABLES:
                ours = sigmas_from_timesteps([(1.0 - percent) * 999.0], levels, process)
            elif name in SHIFTED:
                ours = sigmas_from_timesteps([1.0 - percent], levels, process, kind="t01")
            else:  # even in log sigma
                low, high = math.log(levels.sigma_min), math.log(levels.sigma_max)
                ours = sigmas_from_timesteps([2.0 * -(high + percent * (low - high))], levels, process, kind="logsnr")
            assert ours[0].item() == pytest.approx(sigma, rel=2e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", list(MODELS))
def test_there_and_back(name, kind):
    levels, process = MODELS[name]
    low, high = float(levels.sigma_min), float(levels.sigma_max)
    sigmas = [0.97 * high, 0.5 * high, math.sqrt(low * high), low * 1.3]
    if name == "stable cascade" and kind == "t01":
        sigmas[0] = 90.0  # from 99.995 on its time says nothing
    if kind == "t01" and name in ("edm", "svd"):
        with pytest.raises(ValueError, match="t01 has no meaning for this model"):
            timesteps_of_sigmas(sigmas, levels, process, kind=kind)
        return
    timesteps = timesteps_of_sigmas([*sigmas, 0.0], levels, process, kind=kind)
    assert len(timesteps) == 4
    back = sigmas_from_timesteps(timesteps, levels, process, kind=kind)
    assert back.tolist() == pytest.approx([*sigmas, 0.0], rel=1e-9)
    assert sigmas_from_timesteps(timesteps, levels, process, kind=kind, append_zero=False).shape == (4,)


@pytest.mark.parametrize("name", TABLES)
def test_whole_places_are_exact(name):
    levels, process = MODELS[name]
    whole = [float(i) for i in reversed(range(1000))]
    sigmas = sigmas_from_timesteps(whole, levels, process, append_zero=False)
    assert torch.equal(sigmas.float(), levels.sigmas.flip(0))
    assert timesteps_of_sigmas(levels.sigmas.flip(0).tolist(), levels, process) == whole
    assert levels.timestep(sigmas.float()).tolist() == whole


def test_log_alpha_between_places_is_near_log_sigma_but_for_the_lowest():
    """By the formula, and so far from straight lines in log sigma."""
    levels, process = MODELS["sd"]
    places = [999.0, 500.25, 100.75, 20.5, 3.5, 0.5]
    by_alpha, by_sigma = (sigmas_from_timesteps(places, levels, process, kind=kind)
                          for kind in ("index_continuous", "index"))
    logs = (1.0 / (1.0 + levels.sigmas.double().square())).sqrt().log()
    for place, sigma in zip(places, by_alpha.tolist()):
        low = int(place)
        alpha = math.exp(torch.lerp(logs[low], logs[min(low + 1, 999)], place - low).item())
        assert sigma == pytest.approx(math.sqrt(1.0 / alpha ** 2 - 1.0), rel=1e-9)
    assert (by_alpha / by_sigma - 1.0)[:4].abs().max() < 2e-4 < (by_alpha / by_sigma - 1.0)[5].abs()
    shares = [(place + 1.0) / 1000.0 for place in places]
    assert torch.allclose(sigmas_from_timesteps(shares, levels, process, kind="t01"), by_alpha, rtol=1e-12)


def test_the_trap_of_shifted_models():
    """timestep() is what the network is told, sigma() reads another time: a list of the first kind is not for it."""
    levels, process = MODELS["sd3 flow"]
    half = torch.tensor(0.5)
    assert levels.sigma(levels.timestep(half)).item() == pytest.approx(0.75)
    assert sigmas_from_timesteps([500.0], levels, process)[0].item() == pytest.approx(0.5, rel=1e-12)
    assert sigmas_from_timesteps([0.5], levels, process, kind="t01")[0].item() == pytest.approx(0.75, rel=1e-6)
    assert sigmas_from_timesteps([0.5], *MODELS["flux"])[0].item() == pytest.approx(0.5, rel=1e-12)
    assert sigmas_from_timesteps([1000.0, 500.0, 0.0], levels, process).tolist() == pytest.approx([1.0, 0.5, 0.0])


@pytest.mark.parametrize("name", ["edm", "svd", "continuous v"])
def test_exact_inverses_elsewhere(name):
    levels, _ = MODELS[name]
    times = torch.linspace(-0.5, 0.9, 7, dtype=torch.float64).abs()
    assert torch.allclose(levels.timestep(levels.sigma(times)), times, atol=1e-14)


def test_logsnr_is_of_the_squares():
    ours = sigmas_from_timesteps([0.0, 2.0], *MODELS["sd"], kind="logsnr")
    assert ours.tolist() == pytest.approx([1.0, math.exp(-1.0), 0.0])
    assert sigmas_from_timesteps([0.0], *MODELS["flux"], kind="logsnr")[0].item() == 0.5
    assert timesteps_of_sigmas([0.5, 0.2], *MODELS["flux"], kind="logsnr") == pytest.approx([0.0, math.log(16.0)])


def test_places_as_tensors_are_the_clock_s():
    levels, process = MODELS["sd"]
    sigmas = tensor([14.6, 3.3, 0.5, 0.03])
    clock = clock_of_kind("index", levels, process)
    assert torch.allclose(place_of(levels, sigmas), tensor([clock.time_of(s) for s in sigmas.tolist()]), atol=1e-9)
    assert place_of(levels, sigmas.float()[:, None]).shape == (4, 1)
    assert (place_of(levels, sigmas.float()) - place_of(levels, sigmas)).abs().max() < 1e-3
    assert place_of(levels, tensor([1e-4, 99.0])).tolist() == [0.0, 999.0]


def test_lcm_is_told_every_twentieth_place():
    """ComfyUI's levels of LCM: 50 of SD's, each told as SD's place, so that lists of SD's timesteps serve it."""
    levels, sd = DistilledLevels(), MODELS["sd"][0]
    assert told_places(levels) == (19, 20)
    timesteps = [999.0, 759.0, 499.0, 259.0]
    sigmas = sigmas_from_timesteps(timesteps, levels, VE)
    assert torch.equal(sigmas.float()[:-1], sd.sigmas[[999, 759, 499, 259]])
    assert timesteps_of_sigmas(sigmas.tolist(), levels, VE) == timesteps
    assert place_of(levels, sigmas[:-1], (19, 20)).tolist() == pytest.approx(timesteps, abs=1e-4)
    shares = timesteps_of_sigmas(sigmas.tolist(), levels, VE, kind="t01")
    assert shares == pytest.approx([1.0, 0.76, 0.5, 0.26])
    between = sigmas_from_timesteps([509.0], levels, VE)[0].item()
    assert between == pytest.approx(math.sqrt(sd.sigmas[499].item() * sd.sigmas[519].item()), rel=1e-6)
    with pytest.raises(ValueError, match="timestep 0 lies outside this model's timesteps 19 to 999"):
        sigmas_from_timesteps([0.0], levels, VE)


def node(name, **inputs):
    cls = NODE_CLASS_MAPPINGS[name]
    return getattr(cls(), cls.FUNCTION)(**inputs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["sd", "sd zsnr", "sd3 flow", "flux"])
def test_nodes_write_what_they_read(name, kind):
    levels, process = MODELS[name]
    model = host.make_model(torch.nn.Identity(), prediction="flow" if process is FLOW else "v", levels=levels,
                            channels=4, rgb_factors=[[0.1] * 3] * 4)
    high = float(levels.sigma_max) * 0.9999
    sigmas = torch.tensor([high, high / 2, high / 17, 0.0305, 0.0])
    written = node("OdeonSigmasToTimesteps", model=model, sigmas=sigmas, kind=kind)["result"][0]
    read, = node("OdeonSigmasFromTimesteps", model=model, timesteps=written, kind=kind, append_zero=True)
    assert read.dtype == torch.float32 and torch.allclose(read, sigmas, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize(("name", "timesteps", "kind", "message"), [
    ("sd", [1000.0], "index", "timestep 1000 lies outside this model's timesteps 0 to 999"),
    ("sd", [999.0], "t01", "outside this model's timesteps 0.001 to 1"),
    ("sd", [0.5, 0.6], "t01", "must fall from step to step"), ("sd", [], "index", "need at least one timestep"),
    ("sd3 flow", [1200.0], "index", "lies above this model's highest, 1"),
    ("sd3 flow", [-5.0], "index", "timestep -5 lies below what this model counts"),
    ("sd3 flow", [1.5], "t01", r"t01 must lie in \[0, 1\]"),
    ("sd", [20.0], "sigma", "above this model's highest, 14.6146"),
    ("flux", [1.0], "frames", "kind must be one of index"),
])
def test_bad_timesteps_are_named(name, timesteps, kind, message):
    with pytest.raises(ValueError, match=message):
        sigmas_from_timesteps(timesteps, *MODELS[name], kind=kind)


def test_bad_sigmas_are_named():
    for sigmas, message in (([], "need sigmas above 0"), ([1.0, 0.0, 0.0], "with at most a 0 at the end"),
                            ([80.0, 1.0], "above this model's highest"), ([1.0, 0.001], "sigma 0.001 lies outside")):
        with pytest.raises(ValueError, match=message):
            timesteps_of_sigmas(sigmas, *MODELS["sd"])
    with pytest.raises(ValueError, match="noise alone, its log-SNR has no number"):
        timesteps_of_sigmas([1.0, 0.5], *MODELS["flux"], kind="logsnr")
    with pytest.raises(ValueError, match="timesteps must be numbers between commas; number 2 is 'x'"):
        model = host.make_model(torch.nn.Identity(), prediction="v", levels=MODELS["sd"][0], channels=4, rgb_factors=[])
        node("OdeonSigmasFromTimesteps", model=model, timesteps="9, x", kind="index", append_zero=True)
