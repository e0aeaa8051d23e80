"""Guidance rules over a run of the embedded runner: order, state, what is evaluated."""
import logging

import pytest
import torch
from guided import SIGMAS, WORD, model_of, sample

from odeon import host


def plain(cond, uncond, call):
    return uncond + call.scale * (cond - uncond)


def always(rule):
    return lambda: rule


def test_a_rule_sees_the_call():
    seen = []
    model = host.patch_guidance(model_of(), always(lambda cond, uncond, call: seen.append(call) or cond))
    sample(model, cfg=5.0)
    assert [float(call.sigma[0]) for call in seen] == [8.0, 4.0, 2.0, 1.0]
    assert all(call.scale == 5.0 and call.sigmas == SIGMAS.tolist() and call.x.shape == (2, 4, 8, 8) for call in seen)
    call = seen[1]
    for kind, denoised in (("cond", call.cond), ("uncond", call.uncond)):
        assert torch.equal(call.predict(kind)[0], denoised)
    assert torch.equal(call.predict("uncond", "cond")[1], call.cond)
    moved = call.predict("cond", x=call.x * 0.5, sigma=call.sigma * 0.5)[0]
    assert not torch.equal(moved, call.cond)


def test_changes_and_rules_go_in_the_order_of_the_wire():
    half = always(lambda denoised, call: denoised * 0.5)
    after = host.patch_prediction(host.patch_guidance(model_of(), always(plain)), half)
    before = host.patch_guidance(host.patch_prediction(model_of(), half), always(plain))
    alone = host.patch_prediction(model_of(), half)
    for model in (after, before):
        assert torch.allclose(sample(model), sample(alone), atol=1e-6)
    lifted = host.patch_guidance(alone, always(lambda cond, uncond, call: plain(cond, uncond, call) + 1.0))
    assert not torch.allclose(sample(lifted), sample(host.patch_prediction(
        host.patch_guidance(model_of(), always(lambda cond, uncond, call: plain(cond, uncond, call) + 1.0)), half)))


@pytest.mark.parametrize("negative", [None, WORD["uncond"]])
def test_without_guidance_predictions_change_and_rules_rest(negative):
    model = host.patch_guidance(model_of(), always(lambda cond, uncond, call: cond * float("nan")))
    cfg = 1.0 if negative else 7.0
    assert torch.equal(sample(model, cfg=cfg, negative=negative), sample(model_of(), cfg=1.0))
    seen = []
    changed = host.patch_prediction(model, always(lambda denoised, call: seen.append(call.uncond) or denoised))
    sample(changed, cfg=cfg, negative=negative)
    assert seen == [None] * 4
    if negative is None:
        asking = host.patch_prediction(model_of(), always(lambda denoised, call: call.predict("uncond")[0]))
        with pytest.raises(ValueError, match="needs a negative prompt"):
            sample(asking, negative=None)


def test_what_is_not_asked_for_is_not_evaluated_and_told(caplog):
    def evaluate(call):
        if float(call.sigma[0]) > 3.0:
            return call.predict("cond", "uncond")
        cond, = call.predict("cond")
        return cond, cond

    model = host.patch_guidance(host.patch_evaluation(model_of(), always(evaluate)),
                                always(lambda cond, uncond, call: plain(cond, uncond, call)))
    with caplog.at_level(logging.INFO):
        sample(model)
    assert model.network.asked == [0.4, -0.2, 0.4, -0.2, 0.4, 0.4]
    assert "guidance saved 2 of 8 model evaluations (25 %)" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        sample(host.patch_evaluation(model_of(), always(lambda call: call.predict("cond", "uncond"))))
        sample(model_of())
    assert "saved" not in caplog.text


def test_evaluations_ask_those_before_them():
    def leave_out(call):
        cond, = call.predict("cond")
        return cond, cond

    model = host.patch_evaluation(model_of(), always(leave_out))
    chained = host.patch_evaluation(model, always(lambda call: call.predict("cond", "uncond")))
    assert torch.equal(sample(chained), sample(model_of(), cfg=1.0))
    assert -0.2 not in chained.network.asked
    moved = host.patch_evaluation(model, always(lambda call: call.predict("cond", "uncond", x=call.x)))
    assert torch.equal(sample(moved), sample(model_of()))


def test_scales_change_the_cfg_of_everything(caplog):
    def change(scale, sigma):
        return scale if sigma > 3.0 else 1.0

    seen = []
    model = host.patch_guidance(host.patch_scale(host.patch_scale(model_of(), always(lambda scale, sigma: 2.0 * scale)),
                                                 always(change)),
                                always(lambda cond, uncond, call: seen.append(call.scale) or plain(cond, uncond, call)))
    with caplog.at_level(logging.INFO):
        sample(model, cfg=2.5)
    assert seen == [5.0, 5.0] and model.network.asked == [0.4, -0.2, 0.4, -0.2, 0.4, 0.4]
    assert "saved 2 of 8" in caplog.text
    sample(model, cfg=1.0)
    sample(model, negative=None)
    assert seen == [5.0, 5.0]


def test_state_lives_and_dies_with_a_run():
    def start():
        count = [0]

        def rule(cond, uncond, call):
            count[0] += 1
            return uncond + count[0] * (cond - uncond)

        return rule

    model = host.patch_guidance(model_of(), start)
    first = sample(model)

    def interrupted(model, x, sigmas, **options):
        model(x, sigmas[:1].expand(len(x)))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(model, method=interrupted)
    assert torch.equal(sample(model), first)


def test_another_model_beside():
    model, other = model_of(), model_of()
    patched, beside = host.with_model(model, other)
    patched = host.patch_prediction(patched, always(lambda denoised, call: call.predict("cond", model=beside)[0]))
    assert torch.equal(sample(patched), sample(model_of(), cfg=1.0))
    assert other.network.asked == [0.4] * 4
    with pytest.raises(ValueError, match="need one prediction type, got eps and flow"):
        host.with_model(model, model_of("flow"))
