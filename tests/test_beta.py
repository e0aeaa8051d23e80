"""Beta schedules, and the fit of one to how a model's prediction changes."""
import math

import pytest
import torch
from gmm import denoise
from golden_runs import load
from other_levels import CascadeLevels, ContinuousVLevels, CosmosLevels, EDMLevels
from scipy.stats import beta as beta_law

from odeon import NODE_CLASS_MAPPINGS
from odeon.host.embedded.core_sampling import model_sigmas
from odeon.host.embedded.sampling import Guider
from odeon.measure.spectrum import change_curves, fit_beta, spectral_changes
from odeon.models.levels import DiscreteLevels, FlowLevels
from odeon.samplers.clock import clock_of_table
from odeon.samplers.dpm_solver_pp import plan_dpm_solver_pp
from odeon.samplers.linear import run
from odeon.samplers.process import FLOW, VE
from odeon.schedules.beta import beta_sigmas

RUNS = load("schedules/beta")["runs"]
IN_SIGMA = [run for run in load("schedules/diffusers_spacing")["runs"] if run["settings"].get("use_beta_sigmas")]
LEVELS = {"sd": DiscreteLevels(), "sd zsnr": DiscreteLevels(zero_terminal=True), "sd3 flow": FlowLevels(3.0),
          "wan flow": FlowLevels(8.0), "flux": FlowLevels(math.exp(1.15), count=10000, top=1.0),
          "edm": EDMLevels(0.002, 120.0), "svd": EDMLevels(0.002, 700.0),
          "continuous v": ContinuousVLevels(0.03, 500.0), "cosmos rflow": CosmosLevels(0.002, 80.0),
          "stable cascade": CascadeLevels(2.0)}
SD = LEVELS["sd"]


@pytest.mark.parametrize("i", range(len(RUNS)))
def test_golden_parity(i):
    settings, golden = RUNS[i]["settings"], RUNS[i]["sigmas"]
    name = settings["model_sampling"].split(" (")[0]
    ours = beta_sigmas(LEVELS[name], settings["steps"], settings.get("alpha", 0.6), settings.get("beta", 0.6))
    rel = 1e-4 if name == "stable cascade" else 2e-6  # its recorded table is float32 through and through
    if name == "stable cascade":  # ComfyUI keeps the equal levels of its clamped table, which divide by zero
        golden = list(dict.fromkeys(golden))
    assert ours.tolist() == pytest.approx(golden, rel=rel)


@pytest.mark.parametrize("i", range(len(IN_SIGMA)))
def test_golden_parity_in_sigma(i):
    settings = IN_SIGMA[i]["settings"]
    levels = FlowLevels() if "Flow" in settings["scheduler"] else SD
    ours = beta_sigmas(levels, settings["steps"], space="sigma")
    # diffusers computes in float32 from float32 betas: 1.3e-5 off at the lowest level
    assert ours.tolist() == pytest.approx(IN_SIGMA[i]["sigmas"], rel=1.5e-5)


def test_both_one_is_even_and_equal_ones_are_symmetric():
    for steps in (1, 7, 20, 333):
        places = [round((1.0 - j / steps) * 999) for j in range(steps)]
        assert beta_sigmas(SD, steps, 1.0, 1.0).tolist() == [*SD.sigmas[places].tolist(), 0.0]
    place = {sigma: i for i, sigma in enumerate(SD.sigmas.tolist())}
    for shape in (0.5, 0.6, 2.0):
        places = [place[sigma] for sigma in beta_sigmas(SD, 20, shape, shape).tolist()[:-1]]
        assert all(abs(places[j] + places[20 - j] - 999) <= 1 for j in range(1, 20))


def test_which_number_gathers_where():
    even = beta_sigmas(SD, 20, 1.0, 1.0)
    assert (beta_sigmas(SD, 20, 0.5, 1.0)[1:-1] < even[1:-1]).all()  # low noise
    assert (beta_sigmas(SD, 20, 1.0, 0.5)[1:-1] > even[1:-1]).all()  # high noise


def test_repeats_are_dropped_or_spread():
    dropped, spread = (beta_sigmas(SD, 300, 0.2, 0.2, repeats=repeats) for repeats in ("drop", "spread"))
    assert len(dropped) < 301 == len(spread)
    for sigmas in (dropped, spread):
        assert (sigmas.diff() < 0.0).all() and sigmas[0] == SD.sigmas[-1] and sigmas[-1] == 0.0
    assert torch.equal(beta_sigmas(SD, 20, repeats="spread"), beta_sigmas(SD, 20))
    assert beta_sigmas(SD, 1000, 0.2, 3.0, repeats="spread").tolist() == [*SD.sigmas.flip(0).tolist(), 0.0]
    with pytest.raises(ValueError, match="a table of 1000 levels has no 1001 different ones"):
        beta_sigmas(SD, 1001, repeats="spread")


def test_denoise_keeps_the_end_of_a_longer_schedule():
    assert torch.equal(beta_sigmas(SD, 10, denoise=0.5), beta_sigmas(SD, 20)[-11:])
    assert beta_sigmas(SD, 10, denoise=0.0).shape == (0,)


@pytest.mark.parametrize(("options", "message"), [
    ({"steps": 0}, "steps must be at least 1"), ({"alpha": 0.0}, "alpha and beta must be above 0, got 0 and 0.6"),
    ({"repeats": "x"}, "repeats must be one of drop, spread"), ({"space": "x"}, "space one of index, sigma"),
    ({"denoise": 2.0}, r"denoise must lie in \[0, 1\]"),
])
def test_bad_input_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        beta_sigmas(SD, **options)


@pytest.mark.parametrize(("alpha", "beta"), [(0.6, 0.6), (1.0, 1.0), (0.5, 1.7), (3.0, 0.8)])
def test_the_fit_finds_the_law_that_made_the_curve(alpha, beta):
    places = [1.0 - i / 40 for i in range(40)]
    law = beta_law(alpha, beta)
    for used in (places, places[3:-4]):  # a part of the levels too
        whole = law.cdf(used[0]) - law.cdf(used[-1])
        done = [(law.cdf(used[0]) - law.cdf(place)) / whole for place in used]
        assert fit_beta(used, done) == pytest.approx((alpha, beta), rel=1e-3)


def waves(coarse_at, fine_at):
    """A model of a picture with one coarse and one fine wave, each there from a level on (half there at it)."""
    grid = torch.arange(16) * 2.0 * math.pi / 16
    coarse, fine = torch.cos(grid), torch.cos(7.0 * grid)

    def model(x, sigma):
        shares = [1.0 / (1.0 + (sigma / at) ** 8) for at in (coarse_at, fine_at)]
        picture = shares[0] * (coarse[:, None] + coarse) + 0.01 * shares[1] * (fine[:, None] + fine)
        return picture.expand(x.shape)

    return model


def last(generator):
    *_, state = generator
    return state.state


def spread_sigmas(steps=60, top=10.0, bottom=0.01):
    return [top * (bottom / top) ** (i / steps) for i in range(steps + 1)] + [0.0]


def test_bands_change_where_the_model_changes_them():
    """The state follows a wave that appears at a level halfway at half that level. The fine wave has a hundredth of the
    coarse one's size: a ring counts by its share, not by its size."""
    sigmas, x = spread_sigmas(), torch.zeros(2, 3, 16, 16)
    curves = change_curves(last(spectral_changes(waves(0.4, 0.04), x, sigmas))["changes"])
    for name, at in (("low", 0.4), ("high", 0.04)):
        assert curves[name][0] == 0.0 and curves[name][-1] == pytest.approx(1.0)
        assert all(later >= earlier for earlier, later in zip(curves[name], curves[name][1:]))
        half = next(sigma for sigma, done in zip(sigmas, curves[name]) if done >= 0.5)
        assert half == pytest.approx(at / 2.0, rel=0.15)


def test_a_ring_is_a_frequency():
    """A plain wave along one axis falls in the ring of its frequency and no other."""
    x = torch.zeros(1, 1, 32, 32)
    for waves_across, ring in ((1, 0), (8, 5), (16, 11)):  # the corner, (16, 16), is the end of ring 15
        wave = torch.cos(torch.arange(32) * 2.0 * math.pi * waves_across / 32).expand(1, 1, 32, 32)
        model = lambda x, sigma, wave=wave: wave * (sigma < 2.0)
        changes = last(spectral_changes(model, x, [3.0, 1.0, 0.0]))["changes"]
        assert changes.shape == (2, 16) and (changes[0] == 0.0).all()
        assert changes[1].argmax() == ring and changes[1, ring] == pytest.approx(wave.norm().item(), rel=1e-4)
        assert changes[1].sum() - changes[1, ring] < 1e-3


def test_changes_are_those_of_states_of_unit_size():
    """Noise that is only weakened does not change; what it is weakened from does not matter for a flow either."""
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for process, sigmas in ((VE, [50.0, 40.0, 30.0]), (FLOW, [1.0, 0.98, 0.96])):
        changes = last(spectral_changes(lambda x, sigma: torch.zeros_like(x), x * sigmas[0], sigmas, bins=4,
                                        process=process))["changes"]
        assert changes.max() < 3e-3 * x[0].norm()


@pytest.mark.parametrize("shape", [(2, 4, 24), (2, 4, 8, 12), (1, 4, 3, 8, 8)])
def test_any_shape_and_an_interrupted_run_goes_on(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    model = lambda x, sigma: torch.tanh(x / (1.0 + sigma))
    sigmas = [0.99, 0.7, 0.5, 0.3, 0.1, 0.0]
    whole = list(spectral_changes(model, x, sigmas, bins=4, process=FLOW))
    assert [step.done for step in whole] == [1, 2, 3, 4, 5] and {step.total for step in whole} == {5}
    for stop in (0, 1, 3):
        rest = list(spectral_changes(model, x, sigmas, bins=4, process=FLOW, state=whole[stop].state))
        assert [step.done for step in rest] == list(range(stop + 2, 6))
        assert torch.equal(rest[-1].state["changes"], whole[-1].state["changes"])


def test_what_cannot_be_fitted_is_named():
    with pytest.raises(ValueError, match="bins must be at least 2, got 1"):
        next(spectral_changes(lambda x, sigma: x, torch.zeros(1, 1, 4), [1.0, 0.0], bins=1))
    with pytest.raises(ValueError, match="nothing changes along this schedule"):
        change_curves(torch.zeros(5, 4, dtype=torch.float64))


def node(name, **inputs):
    cls = NODE_CLASS_MAPPINGS[name]
    own = {key: spec[1]["default"] for group in cls.INPUT_TYPES().values() for key, spec in group.items()
           if "default" in spec[1]}
    return getattr(cls(), cls.FUNCTION)(**{**own, **inputs})


def test_what_the_fit_gains_on_a_trained_model(tmp_path, monkeypatch):
    """shapes-dit-small at CFG 3, DPM-Solver++(2M), mean square distance to 40 steps: the figures of the help page."""
    monkeypatch.setenv("ODEON_FOLDER", str(tmp_path))
    model, clip, _ = node("OdeonShapesCheckpoint", model="shapes-dit-small")
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (
        "a large green star above a small orange ring on night", ""))
    sigmas, alpha, beta, plot, report = node(
        "OdeonFitBeta", model=model, positive=positive, negative=negative, sigmas=model_sigmas(model, "simple", 30),
        latent={"samples": torch.zeros(1, 4, 16, 16)}, start_seed=1, steps=6, samples=4)["result"]
    assert (alpha, beta) == pytest.approx((1.29, 1.02), abs=0.05) and plot.shape[-1] == 3
    assert report.startswith(f"alpha {alpha:.4f}, beta {beta:.4f}: least squares on 31 levels")
    assert torch.equal(sigmas, node("OdeonSigmasBeta", model=model, steps=6, alpha=alpha, beta=beta)[0])
    noise = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(100))
    solver = node("OdeonSamplerDPMSolverPP", lower_order_below=0)[0]
    ends = [Guider(model, positive, negative, 3.0).sample(noise, torch.zeros_like(noise), solver, steps)
            for steps in (model_sigmas(model, "simple", 40), sigmas, node("OdeonSigmasBeta", model=model, steps=6)[0],
                          node("OdeonSigmasBeta", model=model, steps=6, alpha=1.0, beta=1.0)[0])]
    fitted, usual, even = ((end - ends[0]).square().mean().item() for end in ends[1:])
    assert fitted == pytest.approx(0.0245, abs=0.003)
    assert usual == pytest.approx(0.0756, abs=0.008) and even == pytest.approx(0.0280, abs=0.003)


def test_where_the_fit_loses():
    """On the exact mixture, 16 numbers without coarse or fine, Beta(0.6, 0.6) is three times nearer at 8 steps."""
    draw = torch.Generator().manual_seed(0)
    first, noise = (torch.randn(count, 16, generator=draw, dtype=torch.float64) for count in (32, 512))
    fine = beta_sigmas(SD, 40, 1.0, 1.0).tolist()
    model = lambda x, sigma: denoise(x.flatten(1), sigma).reshape(x.shape)
    changes = last(spectral_changes(model, first.reshape(32, 1, 4, 4) * fine[0], fine, bins=4))["changes"]
    place_of = clock_of_table(SD.sigmas.tolist()).time_of
    alpha, beta = fit_beta([place_of(sigma) / 999 if sigma else 0.0 for sigma in fine], change_curves(changes)["all"])
    ends = [run(denoise, noise * sigmas[0], plan_dpm_solver_pp(sigmas.tolist(), order=2)) for sigmas in (
        beta_sigmas(SD, 400, 1.0, 1.0), beta_sigmas(SD, 8, alpha, beta), beta_sigmas(SD, 8))]
    fitted, usual = ((end - ends[0]).square().mean().item() for end in ends[1:])
    assert fitted / usual == pytest.approx(3.15, abs=0.3)
