import logging

import numpy
import pytest
import torch
from gmm import MEANS, UNIT_NOISE, WEIGHTS, denoise
from golden_runs import load, tensor

from odeon import NODE_CLASS_MAPPINGS, host
from odeon.host.embedded.model import ModelSampling
from odeon.models.levels import DiscreteLevels, FlowLevels, TableLevels
from odeon.schedules.spacing import SPACINGS, spaced_sigmas, spaced_timesteps
from odeon.schedules.zero_snr import TERMINAL_SIGMA, zero_terminal_sigmas

GOLDEN = load("schedules/diffusers_spacing")
SPACED = [run for run in GOLDEN["runs"] if "timestep_spacing" in run["settings"]]
SD = DiscreteLevels(rounded=True)


@pytest.mark.parametrize("i", range(len(SPACED)))
def test_golden_timesteps_and_levels(i):
    settings = SPACED[i]["settings"]
    spacing, steps = settings["timestep_spacing"], settings["steps"]
    if spacing == "linspace" and settings["scheduler"] == "EulerDiscreteScheduler":
        spacing = "linspace_fractional"
    options = {"steps": steps, "spacing": spacing, "offset": settings["steps_offset"]}
    assert spaced_timesteps(1000, **options) == pytest.approx(SPACED[i]["timesteps"], rel=1e-6)
    if "sigmas" in SPACED[i]:  # computed in float32 from float32 betas: 1.3e-5 off at the lowest level
        assert spaced_sigmas(SD, **options).tolist() == pytest.approx(SPACED[i]["sigmas"], rel=1.5e-5)


def test_golden_rescale():
    golden, = GOLDEN["zero_terminal_snr"]
    places = golden["settings"]["indices"]
    betas = torch.linspace(0.00085 ** 0.5, 0.012 ** 0.5, 1000, dtype=torch.float64) ** 2
    kept = torch.cumprod(1.0 - betas, dim=0)
    assert kept[places].tolist() == pytest.approx(golden["alphas_cumprod_before"], rel=1e-12)
    made = 1.0 / (1.0 + zero_terminal_sigmas(((1.0 - kept) / kept).sqrt()).square())
    assert made[places[:-1]].tolist() == pytest.approx(golden["alphas_cumprod_after"][:-1], rel=1e-9)
    assert golden["alphas_cumprod_after"][-1] == 0.0 and made[-1].item() == pytest.approx(4.8973451890853435e-08)
    betas_after = 1.0 - torch.cat([made[:1], made[1:] / made[:-1]])
    assert betas_after[places[:-1]].tolist() == pytest.approx(golden["betas_after"][:-1], rel=1e-9)


def test_the_first_level_stays_the_order_too_and_the_last_is_the_one_asked_for():
    made = zero_terminal_sigmas(SD.sigmas)
    assert made[0].item() == pytest.approx(SD.sigmas[0].item(), rel=1e-9)
    assert (made.diff() > 0.0).all() and made[-1].item() == TERMINAL_SIGMA == pytest.approx(4518.7637, abs=1e-3)
    assert zero_terminal_sigmas(SD.sigmas, 1e5)[-1] == 1e5
    assert torch.equal(zero_terminal_sigmas(SD.sigmas, 1e5)[:-1], made[:-1])
    assert torch.allclose(zero_terminal_sigmas(made), made, rtol=1e-9)  # a second time changes nothing
    with pytest.raises(ValueError, match="top_sigma must lie above the level below it, 2254, got 2000"):
        zero_terminal_sigmas(SD.sigmas, 2000.0)


def test_velocity_knows_the_mean_in_pure_noise_and_float32_noise_prediction_does_not():
    """D(pure noise) at the capped level, of the exact mixture, read through both predictions in float32."""
    mean = (WEIGHTS[:, None] * MEANS).sum(0)
    sigma = torch.tensor(TERMINAL_SIGMA)
    x = UNIT_NOISE * TERMINAL_SIGMA
    exact = denoise(x, TERMINAL_SIGMA)
    assert (exact - mean).abs().max() < 1e-3
    eps = ((x - exact) / sigma).float()
    v = ((x / (sigma ** 2 + 1.0) - exact) * (sigma ** 2 + 1.0).sqrt() / sigma).float()
    by_v, by_eps = (ModelSampling(kind, SD).calculate_denoised(sigma, output, x.float())
                    for kind, output in (("v", v), ("eps", eps)))
    assert (by_v - mean).abs().max() < 1e-3
    assert (by_v - exact).abs().max() < 1e-5 < 1e-4 < (by_eps - exact).abs().max()


@pytest.mark.parametrize("levels", [SD, FlowLevels(3.0), FlowLevels(3.0, count=10000, top=1.0)])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_spacings_fall_to_zero_and_only_leading_misses_the_top(levels, spacing):
    for steps in (1, 2, 9, 50):
        sigmas = spaced_sigmas(levels, steps, spacing)
        assert len(sigmas) == steps + 1 and sigmas[-1] == 0.0
        assert (sigmas.diff() < 0.0).all()
        assert (sigmas[0] == levels.sigmas[-1].double()) == (spacing != "leading")
    places = spaced_timesteps(len(levels.sigmas), len(levels.sigmas), spacing, offset=0)
    assert places == [float(i) for i in reversed(range(len(levels.sigmas)))]


def test_halves_go_where_numpy_s_rounding_takes_them_as_in_diffusers():
    assert spaced_timesteps(1000, 48)[3] == 936 and spaced_timesteps(1000, 27, "linspace")[13] == 499
    for steps in range(2, 1001):
        trailing = numpy.round(numpy.arange(1000, 0, -1000 / steps)) - 1
        assert spaced_timesteps(1000, steps) == trailing[:steps].tolist()  # now and then arange has one more
        assert spaced_timesteps(1000, steps, "linspace") == numpy.linspace(0, 999, steps).round()[::-1].tolist()


@pytest.mark.parametrize(("options", "message"), [
    ({"steps": 0}, "steps must lie from 1 to the table's 1000 levels, got 0"), ({"steps": 1001}, "got 1001"),
    ({"spacing": "x"}, "spacing must be one of trailing, leading"),
    ({"spacing": "leading", "steps": 1000}, "ends at place 1000 of 1000; lower the offset"),
])
def test_bad_spacing_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        spaced_sigmas(SD, **options)


def model(prediction="v", levels=SD):
    return host.make_model(torch.nn.Identity(), prediction=prediction, levels=levels, channels=4,
                           rgb_factors=[[0.1] * 3] * 4)


def patched(network, prediction="keep", top_sigma=4518.7637):
    node = NODE_CLASS_MAPPINGS["OdeonZeroSNR"]()
    return node.patch(model=network, prediction=prediction, top_sigma=top_sigma)[0]


def test_the_node_changes_levels_and_prediction_of_a_copy(caplog):
    caplog.set_level(logging.WARNING)
    own = model()
    changed = patched(own)
    # the table the node gets is float32, which shows where little of the picture is left
    assert torch.allclose(host.levels_of(changed).sigmas, DiscreteLevels(zero_terminal=True).sigmas, rtol=5e-5)
    assert torch.equal(host.levels_of(own).sigmas, SD.sigmas) and not host.predicts_eps(changed)
    told = changed.model_sampling.timestep(torch.tensor([4518.0, 0.0292]))
    assert told.tolist() == [999, 0] and told.dtype == torch.int64  # rounded, as before
    assert not caplog.text
    assert host.predicts_eps(patched(model("eps"))) and "set prediction to v_prediction" in caplog.text
    velocity = patched(model("eps"), "v_prediction")
    assert velocity.model_sampling.prediction == "v"
    sigma, output, x = torch.ones(1, 1), torch.full((1, 4), 0.3), torch.full((1, 4), 2.0)
    assert torch.equal(velocity.model_sampling.calculate_denoised(sigma, output, x),
                       own.model_sampling.calculate_denoised(sigma, output, x))
    assert isinstance(host.levels_of(changed), TableLevels) and host.levels_of(changed).rounded
    with pytest.raises(ValueError, match="flow models start from pure noise as they are"):
        patched(model("flow", FlowLevels()))


def test_trailing_spacing_of_the_changed_model_starts_at_pure_noise():
    node = NODE_CLASS_MAPPINGS["OdeonSigmasTimestepSpacing"]()
    sigmas, = node.build(model=patched(model()), steps=5, spacing="trailing", offset=1)
    golden = tensor(load("schedules/diffusers_spacing")["zero_terminal_snr"][0]["alphas_cumprod_after"])
    assert sigmas[0].item() == pytest.approx(4518.7637, rel=1e-6) and len(sigmas) == 6 and len(golden) == 12
