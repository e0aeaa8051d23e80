"""Guidance nodes in the embedded runner: neutral values, batches, repeated runs, multi-stage samplers, chains."""
import logging

import pytest
import torch
from guided import SIGMAS, WORD, euler, heun, model_of, restart, sample

from odeon import NODE_CLASS_MAPPINGS, host

APG = {"eta": 0.0, "norm_threshold": 2.0, "momentum": -0.5, "threshold_unit": "norm", "axes": "sample"}
MIMIC = {"mimic_scale": 1.5, "percentile": 0.95, "mimic_mode": "Linear Up", "mimic_min": 0.5, "cfg_mode": "Cosine Down",
         "cfg_min": 1.0, "sched_val": 1.0, "separate_channels": True, "startpoint": "MEAN", "variability": "AD",
         "phi": 0.8}
INTERVAL = {"sigma_hi": 4.0, "sigma_lo": 1.5, "outside_scale": 1.0, "curve": "constant", "table": ""}
FDG = {"w_high": 9.0, "w_low": 2.0, "levels": 2, "parallel_high": 0.5, "parallel_low": 1.0}
STRONG = {"OdeonAPG": APG,
          "OdeonCFGRescale": {"phi": 0.7, "space": "auto", "per_channel": False, "mask_stats": False},
          "OdeonMimicScale": MIMIC, "OdeonFDG": FDG, "OdeonGuidanceInterval": INTERVAL,
          "OdeonCFGZeroStar": {"zero_init_steps": 1},
          "OdeonScaleSchedule": {"table": "5: 2, 1: 0.5", "unit": "factor"},
          "OdeonMomentumGuidance": {"strength": 0.5, "decay": 0.6},
          "OdeonAdaptiveGuidance": {"gamma": 0.5, "space": "x0", "min_steps": 1},
          "OdeonAutoGuidance": {"weight": 2.0, "sigma_hi": -1.0, "sigma_lo": 0.0}}
NEUTRAL = {"OdeonAPG": {**APG, "eta": 1.0, "norm_threshold": 0.0, "momentum": 0.0},
           "OdeonCFGRescale": {**STRONG["OdeonCFGRescale"], "phi": 0.0},
           "OdeonMimicScale": {**MIMIC, "cfg_mode": "Constant", "phi": 0.0},
           "OdeonFDG": {**FDG, "w_high": 0.0, "w_low": 0.0, "parallel_high": 1.0},
           "OdeonGuidanceInterval": {**INTERVAL, "sigma_hi": -1.0, "sigma_lo": 0.0},
           "OdeonScaleSchedule": {"table": "1: 1", "unit": "factor"},
           "OdeonMomentumGuidance": {"strength": 0.0, "decay": 0.6},
           "OdeonAdaptiveGuidance": {"gamma": 1.01, "space": "x0", "min_steps": 1},
           "OdeonAutoGuidance": {"weight": 1.0, "sigma_hi": -1.0, "sigma_lo": 0.0}}
FLOW_SIGMAS = torch.tensor([1.0, 0.8, 0.5, 0.2, 0.0])


def build(name, model, **options):
    if name == "OdeonAutoGuidance":
        options["bad_model"] = model_of(model.model_sampling.prediction, share=0.3)
    cls = NODE_CLASS_MAPPINGS[name]
    return getattr(cls(), cls.FUNCTION)(model=model, **options)[0]


def levels(prediction):
    return FLOW_SIGMAS if prediction == "flow" else SIGMAS


@pytest.mark.parametrize("prediction", ["eps", "flow"])
@pytest.mark.parametrize("name", NEUTRAL)
def test_neutral_values_are_plain_cfg_with_other_patches_on(name, prediction):
    lifted = host.patch_prediction(model_of(prediction), lambda: lambda denoised, call: denoised + 0.1)
    plain = sample(lifted, sigmas=levels(prediction))
    for _ in range(2):  # and twice in a chain
        lifted = build(name, lifted, **NEUTRAL[name])
        assert torch.allclose(sample(lifted, sigmas=levels(prediction)), plain, atol=2e-6)


@pytest.mark.parametrize("prediction", ["eps", "flow"])
@pytest.mark.parametrize("name", STRONG)
def test_it_changes_the_picture_and_leaves_no_trace(name, prediction):
    options = {"sigmas": levels(prediction)}
    model = build(name, model_of(prediction), **STRONG[name])
    first = sample(model, **options)
    assert torch.isfinite(first).all()
    assert not torch.allclose(first, sample(model_of(prediction), **options), atol=1e-3)

    def interrupted(model, x, sigmas, **options):
        euler(model, x, sigmas[:3], **options)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(model, method=interrupted, **options)
    assert torch.equal(sample(model, **options), first)


@pytest.mark.parametrize("method", [euler, heun, restart])
@pytest.mark.parametrize("name", STRONG)
def test_an_item_of_a_batch_is_its_single_run(name, method):
    model = build(name, build(name, model_of(), **STRONG[name]), **STRONG[name])  # twice in a chain
    whole = sample(model, batch=3, method=method)
    assert torch.isfinite(whole).all()
    for item in range(3):
        alone = sample(model, batch=3, item=item, method=method)
        assert torch.allclose(whole[item:item + 1], alone, atol=1e-5)


@pytest.mark.parametrize("name", STRONG)
def test_at_cfg_1_and_without_a_negative_no_zeros_are_guided_by(name):
    model = build(name, model_of(), **STRONG[name])
    at_one, alone = sample(model, cfg=1.0), sample(model, negative=None)
    assert torch.allclose(at_one, alone)
    if name not in ("OdeonMomentumGuidance", "OdeonAutoGuidance"):
        assert torch.equal(at_one, sample(model_of(), cfg=1.0))


@pytest.mark.parametrize("name", STRONG)
def test_masks_keep_what_they_cover(name):
    mask = torch.cat([torch.zeros(1, 1, 8, 4), torch.ones(1, 1, 8, 4)], 3)
    out = sample(build(name, model_of(), **STRONG[name]), mask=mask)
    assert torch.isfinite(out).all() and out[..., :4].abs().max() < 1e-6 and out[..., 4:].abs().min() > 0.0


def test_rescale_measures_only_where_the_picture_is_made():
    mask = torch.cat([torch.zeros(1, 1, 8, 4), torch.ones(1, 1, 8, 4)], 3)
    options = {**STRONG["OdeonCFGRescale"], "mask_stats": True}
    whole, inside = (sample(build("OdeonCFGRescale", model_of(), **{**options, "mask_stats": on}), mask=mask)
                     for on in (False, True))
    assert not torch.allclose(whole, inside, atol=1e-4)
    model = build("OdeonCFGRescale", model_of(), **options)
    assert torch.equal(sample(model), sample(build("OdeonCFGRescale", model_of(), **STRONG["OdeonCFGRescale"])))


def asked(model):
    model.network.asked.clear()
    sample(model)
    return model.network.asked


def test_the_interval_saves_what_it_leaves_out(caplog):
    with caplog.at_level(logging.INFO):
        words = asked(build("OdeonGuidanceInterval", model_of(), **INTERVAL))
    assert words == [0.4, 0.4, -0.2, 0.4, -0.2, 0.4]  # sigmas 8, 4, 2, 1
    assert "saved 2 of 8" in caplog.text
    empty = {**INTERVAL, "sigma_hi": 0.01, "sigma_lo": 0.005}
    assert torch.equal(sample(build("OdeonGuidanceInterval", model_of(), **empty)), sample(model_of(), cfg=1.0))
    elsewhere = build("OdeonGuidanceInterval", model_of(), **{**empty, "outside_scale": 2.0})
    assert torch.equal(sample(elsewhere), sample(model_of(), cfg=2.0))


def test_a_flow_s_interval_is_in_noise_over_picture():
    model = build("OdeonGuidanceInterval", model_of("flow"), **{**INTERVAL, "sigma_hi": 5.42, "sigma_lo": 0.28})
    sample(model, sigmas=torch.tensor([1.0, 0.85, 0.84, 0.3, 0.218, 0.1, 0.0]))
    assert model.network.asked == [0.4, 0.4, 0.4, -0.2, 0.4, -0.2, 0.4, 0.4]


def test_schedules_give_every_rule_the_cfg():
    doubled = build("OdeonScaleSchedule", model_of(), table="1: 2", unit="factor")
    assert torch.equal(sample(doubled), sample(model_of(), cfg=6.0))
    set_to = build("OdeonScaleSchedule", model_of(), table="1: 5", unit="cfg")
    assert torch.equal(sample(build("OdeonAPG", set_to, **APG)), sample(build("OdeonAPG", model_of(), **APG), cfg=5.0))


def test_adaptive_guidance_stops_once_every_picture_agrees():
    words = asked(build("OdeonAdaptiveGuidance", model_of(), gamma=0.9, space="x0", min_steps=2))
    assert words == [0.4, -0.2, 0.4, -0.2, 0.4, 0.4]
    with_rule = build("OdeonAPG", build("OdeonAdaptiveGuidance", model_of(), gamma=0.97, space="x0", min_steps=1),
                      **APG)
    whole = sample(with_rule, batch=3, method=restart)
    for item in range(3):
        assert torch.allclose(whole[item:item + 1], sample(with_rule, batch=3, item=item, method=restart), atol=1e-5)


def test_zero_star_stands_still_only_from_pure_noise():
    model = build("OdeonCFGZeroStar", model_of("flow"), zero_init_steps=2)
    states = []

    def watched(model, x, sigmas, **_):
        states.append(x)
        for sigma, sigma_next in zip(sigmas[:-1], sigmas[1:]):
            x = x + (x - model(x, sigma.expand(len(x)))) / sigma * (sigma_next - sigma)
            states.append(x)
        return x

    sample(model, sigmas=FLOW_SIGMAS, method=watched)
    assert torch.equal(states[2], states[0]) and not torch.equal(states[3], states[2])
    states.clear()
    sample(model, sigmas=FLOW_SIGMAS[1:], method=watched)
    assert not torch.equal(states[1], states[0])


def test_autoguidance_asks_the_other_model_in_its_own_words_and_only_inside_the_interval():
    bad = model_of()
    node = NODE_CLASS_MAPPINGS["OdeonAutoGuidance"]()
    model, = node.patch(model_of(), bad, 2.0, 4.0, 1.5, bad_positive=[[torch.full((1, 2, 3), 0.7), {}]])
    sample(model)
    assert bad.network.asked == [0.7, 0.7]
    same, = node.patch(model_of(), bad, 5.0, -1.0, 0.0)
    assert torch.allclose(sample(same), sample(model_of()), atol=1e-6)
    with pytest.raises(ValueError, match="need one prediction type"):
        node.patch(model_of(), model_of("flow"), 2.0, -1.0, 0.0)


def fit(model, **options):
    return NODE_CLASS_MAPPINGS["OdeonFitLinearAG"]().measure(**{
        "model": model, "positive": WORD["cond"], "negative": WORD["uncond"], "sigmas": SIGMAS, "cfg": 3.0,
        "latent": {"samples": torch.zeros(1, 4, 8, 8)}, "start_seed": 0, "samples": 16, "ridge": 1e-6,
        "policy": "paper", "tolerance": 0.05, "name": "", **options})


def test_linear_ag_saves_work_and_stays_near(tmp_path, monkeypatch):
    monkeypatch.setenv("ODEON_FOLDER", str(tmp_path))
    coefs, text = fit(model_of(), name="mine")["result"]
    assert text == "both, estimate, cond, cond: 3 of 8 evaluations saved"
    linear = build("OdeonLinearAG", model_of(), coefs=coefs)
    words = asked(linear)
    assert words == [0.4, -0.2, 0.4, 0.4, 0.4]
    assert torch.equal(sample(build("OdeonLinearAG", model_of(), coefs="mine")), sample(linear))
    searched, text = fit(model_of(), policy="search", tolerance=0.2)["result"]
    assert int(text.split(": ")[1].split()[0]) >= 2
    near, full = sample(build("OdeonLinearAG", model_of(), coefs=searched)), sample(model_of())
    assert (near - full).norm() < 0.25 * full.norm()
    whole = sample(linear, batch=3)
    assert torch.allclose(whole[1:2], sample(linear, batch=3, item=1), atol=1e-5)


def test_linear_ag_refuses_what_it_was_not_fitted_for(tmp_path, monkeypatch):
    monkeypatch.setenv("ODEON_FOLDER", str(tmp_path))
    coefs = fit(model_of(), policy="search", tolerance=10.0)["result"][0]
    assert coefs.policy == ("cond",) * 4
    linear = build("OdeonLinearAG", model_of(), coefs=coefs)
    with pytest.raises(ValueError, match="no weights for sigma 3"):
        sample(linear, sigmas=torch.tensor([3.0, 1.0, 0.0]))
    with pytest.raises(ValueError, match="starts in the middle: the run is at step 3"):
        sample(linear, sigmas=SIGMAS[2:])
    with pytest.raises(ValueError, match="fitted on another model"):
        build("OdeonLinearAG", model_of(share=0.3), coefs=coefs)
    with pytest.raises(ValueError, match="cfg must not be 1"):
        fit(model_of(), cfg=1.0)
    with pytest.raises(ValueError, match="there is no file"):
        build("OdeonLinearAG", model_of(), coefs="none")


def test_nan_predictions_stay_visible():
    """No rule hides a broken prediction."""
    for name in STRONG:
        broken = model_of()
        broken.network.fail = True
        assert not torch.isfinite(sample(build(name, broken, **STRONG[name]))).all(), name


def test_what_is_wrong_with_the_numbers_is_said_before_the_run():
    for name, options, said in (
            ("OdeonGuidanceInterval", {**INTERVAL, "sigma_hi": 1.0, "sigma_lo": 2.0}, "need 0 <= sigma_lo <= sigma_hi"),
            ("OdeonGuidanceInterval", {**INTERVAL, "curve": "table"}, "need at least one finite number"),
            ("OdeonScaleSchedule", {"table": "5", "unit": "factor"}, "need parts 'sigma: value'")):
        with pytest.raises(ValueError, match=said):
            build(name, model_of(), **options)
