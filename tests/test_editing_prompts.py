"""Editors by words as nodes in the embedded runner: identity, batches, masks, the source's own CFG, words of errors."""
import inspect

import pytest
import torch
from guided import SIGMAS, WORD, model_of

from odeon import NODE_CLASS_MAPPINGS
from odeon.host.embedded.sampling import Guider
from odeon.host.workflow import describe, inputs_of

FLOW_SIGMAS = torch.tensor([1.0, 0.8, 0.5, 0.2, 0.0])
OTHER = [[torch.full((1, 2, 3), 0.1), {}]]
EDITORS = {"OdeonSamplerDDCM": {"eta": 1.0}, "OdeonSamplerFlowEdit": {"strength": 1.0, "average": 2, "finish": 0},
           "OdeonDeltaDenoise": {"rate": 0.3}}
PLATEAU = {"plateau": 0.5, "repeats": -1, "start": "prediction", "average": False}
PICTURES = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(3))


def editor(name, source=WORD["cond"], source_cfg=1.0, **more):
    return NODE_CLASS_MAPPINGS[name]().build(source=source, source_cfg=source_cfg, **{**EDITORS[name], **more})[0]


def levels(prediction):
    return FLOW_SIGMAS if prediction == "flow" else SIGMAS


def run(sampler, *, model=None, latent=PICTURES, words=OTHER, cfg=1.0, mask=None, prediction="eps", item=None, seed=4,
        callback=None):
    noise = torch.randn(PICTURES.shape, generator=torch.Generator().manual_seed(seed))
    if item is not None:
        noise, latent = noise[item:item + 1], latent[item:item + 1]
    guider = Guider(model or model_of(prediction), words, WORD["uncond"], cfg)
    return guider.sample(noise, latent, sampler, levels(prediction), denoise_mask=mask, seed=seed, callback=callback)


@pytest.mark.parametrize("name", EDITORS)
def test_what_the_menu_shows_are_the_rule_s_options(name):
    cls = NODE_CLASS_MAPPINGS[name]
    shown = inputs_of(describe(cls))
    rule = inspect.signature(cls.EDIT).parameters
    own = [key for key in shown if not key.startswith("source")]
    assert own == [key for key, value in rule.items() if value.default not in (inspect.Parameter.empty, None)]
    assert all(shown[key][1]["default"] == rule[key].default for key in own)


@pytest.mark.parametrize("prediction", ["eps", "v", "flow"])
@pytest.mark.parametrize("name", EDITORS)
def test_same_words_and_cfg_give_the_picture_back_and_others_change_it(name, prediction):
    for cfg, options in ((1.0, {}), (3.0, {"source_cfg": 3.0, "source_negative": WORD["uncond"]})):
        same = run(editor(name, **options), words=WORD["cond"], cfg=cfg, prediction=prediction)
        assert torch.allclose(same, PICTURES, atol=1e-6)
    assert (run(editor(name), prediction=prediction) - PICTURES).abs().max() > 0.05


@pytest.mark.parametrize("name", EDITORS)
def test_an_item_of_a_batch_is_its_single_run_and_runs_repeat(name):
    whole = run(editor(name))
    assert torch.equal(run(editor(name)), whole) and not torch.allclose(run(editor(name), seed=5), whole, atol=1e-4)
    for item in range(3):
        assert torch.allclose(run(editor(name), item=item), whole[item:item + 1], atol=1e-6)


@pytest.mark.parametrize("prediction", ["eps", "flow"])
@pytest.mark.parametrize("name", EDITORS)
def test_a_mask_keeps_what_it_covers(name, prediction):
    mask = torch.cat([torch.zeros(1, 1, 8, 4), torch.ones(1, 1, 8, 4)], 3)
    out = run(editor(name), mask=mask, prediction=prediction)
    assert torch.allclose(out[..., :4], PICTURES[..., :4], atol=1e-6)
    assert (out[..., 4:] - PICTURES[..., 4:]).abs().max() > 0.05


@pytest.mark.parametrize("name", EDITORS)
def test_progress_is_every_step_and_an_interrupted_run_leaves_no_trace(name):
    seen, sampler, model = [], editor(name), model_of()
    first = run(sampler, model=model, callback=lambda step, *_: seen.append(step))
    assert seen == [0, 1, 2, 3]

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(sampler, model=model, callback=stop)
    assert torch.equal(run(sampler, model=model), first)


@pytest.mark.parametrize("name", EDITORS)
def test_an_evaluation_is_spared_where_the_source_has_no_cfg(name):
    calls = []
    for options in ({}, {"source_cfg": 2.0, "source_negative": WORD["uncond"]}):
        model = model_of()
        run(editor(name, **options), model=model, cfg=3.0)
        calls.append(len(model.network.asked))
    steps = 8 if name == "OdeonSamplerFlowEdit" else 4
    assert calls == [3 * steps, 4 * steps]


@pytest.mark.parametrize("name", EDITORS)
def test_refusals(name):
    with pytest.raises(ValueError, match="no picture to edit"):
        run(editor(name), latent=torch.zeros_like(PICTURES))
    with pytest.raises(ValueError, match="needs a negative for its source at CFG 2"):
        run(editor(name, source_cfg=2.0))
    model = model_of()
    model.network.fail = True
    with pytest.raises(ValueError, match="NaN or infinite values at sigma"):
        run(editor(name), model=model)


@pytest.mark.parametrize("prediction", ["eps", "flow"])
def test_plateau_runs_from_noise_and_from_an_estimate(prediction):
    node = NODE_CLASS_MAPPINGS["OdeonSamplerPlateauRefine"]()
    assert {key: spec[1]["default"] for key, spec in inputs_of(describe(type(node))).items()} == PLATEAU
    sampler, = node.build(**PLATEAU)
    drawn = run(sampler, latent=torch.zeros_like(PICTURES), prediction=prediction)
    assert torch.isfinite(drawn).all() and drawn.std() > 0.05
    near, = node.build(**{**PLATEAU, "start": "latent", "plateau": 0.75, "repeats": 0})
    moved = [(run(sampler, prediction=prediction) - PICTURES).norm() for sampler in (near, sampler)]
    assert moved[0] < moved[1]
    for item in range(3):
        single = run(sampler, item=item, prediction=prediction)
        assert torch.allclose(single, run(sampler, prediction=prediction)[item:item + 1], atol=1e-6)
