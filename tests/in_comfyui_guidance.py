"""Guidance rules inside ComfyUI, under its own Python; see in_comfyui.py."""
import contextlib
import logging

from comfyui_pack import (
    HOST,
    KINDS,
    close,
    comfy,
    expect_error,
    levels_for,
    run_checks,
    sample,
    sampler,
    torch,
    toy,
    word,
)

LATENT = torch.zeros(2, 4, 8, 8)


def always(rule):
    return lambda: rule


def plain(cond, uncond, call):
    return uncond + call.scale * (cond - uncond)


def told(function, *args, **kwargs):
    """(what it returns, what it logs)."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger().addHandler(handler)
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.INFO)
    try:
        return function(*args, **kwargs), "\n".join(lines)
    finally:
        logging.getLogger().removeHandler(handler)
        logging.getLogger().setLevel(level)


def counted(network, function, *args, **kwargs):
    """(what it returns, rows the network was asked for)."""
    rows = []
    handle = network.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    try:
        return function(*args, **kwargs), sum(rows)
    finally:
        handle.remove()


def check_a_rule_sees_the_call():
    for prediction in KINDS:
        seen, model = [], toy(prediction)[0]
        sigmas = levels_for(prediction)

        def rule(cond, uncond, call, seen=seen):
            seen.append(call)
            again = call.predict("uncond", "cond")
            close(again[0], uncond, 1e-6, "the unconditional prediction again")
            close(call.predict("cond")[0], cond, 1e-6, "the conditional prediction again")
            assert not torch.equal(call.predict("cond", x=call.x * 0.5, sigma=call.sigma * 0.5)[0], cond)
            return plain(cond, uncond, call)

        patched = HOST.patch_guidance(model, always(rule))
        close(sample(patched, sampler(), sigmas, LATENT), sample(model, sampler(), sigmas, LATENT), 1e-6, prediction)
        assert [float(call.sigma[0]) for call in seen] == sigmas[:-1].tolist()
        assert all(call.scale == 3.0 and call.sigmas == sigmas.tolist() for call in seen)
        assert all(call.process is HOST.process_of(model) for call in seen)


def check_at_cfg_1_predictions_change_and_rules_rest():
    model, sigmas, seen = toy()[0], levels_for("eps"), []
    patched = HOST.patch_guidance(model, always(lambda cond, uncond, call: cond * float("nan")))
    close(sample(patched, sampler(), sigmas, LATENT, cfg=1.0), sample(model, sampler(), sigmas, LATENT, cfg=1.0), 0.0,
          "a rule at CFG 1")

    def change(denoised, call):
        seen.append(call.uncond)
        return denoised + 0.0 * call.predict("uncond")[0]

    changed = HOST.patch_prediction(model, always(change))
    close(sample(changed, sampler(), sigmas, LATENT, cfg=1.0), sample(model, sampler(), sigmas, LATENT, cfg=1.0), 0.0,
          "a change at CFG 1")
    assert seen == [None] * 6
    guider = comfy.samplers.CFGGuider(changed)
    guider.inner_set_conds({"positive": word(0.3)})
    expect_error("needs a negative prompt", guider.sample, LATENT, LATENT, sampler(), sigmas, seed=0, disable_pbar=True)


def leave_out(call):
    if float(call.sigma[0]) > 1.0:
        return call.predict("cond", "uncond")
    cond, = call.predict("cond")
    return cond, cond


def check_what_is_not_asked_for_is_not_evaluated():
    model, network = toy()
    sigmas = levels_for("eps")
    below = int((sigmas[:-1] <= 1.0).sum())
    patched = HOST.patch_evaluation(model, always(leave_out))
    (out, rows), log = told(counted, network, sample, patched, sampler(), sigmas, LATENT)
    assert rows == 2 * (2 * 6 - below)
    assert f"saved {below} of 12 model evaluations" in log, log
    nan_below = HOST.patch_guidance(patched, always(lambda cond, uncond, call: plain(cond, uncond, call)
                                                    * (1.0 if call.sigma[0] > 1.0 else float("nan"))))
    close(sample(nan_below, sampler(), sigmas, LATENT), out, 1e-6, "a rule where nothing was left out")
    both = HOST.patch_evaluation(model, always(lambda call: call.predict("cond", "uncond")))
    (same, rows), log = told(counted, network, sample, both, sampler(), sigmas, LATENT)
    assert "saved" not in log and rows == 24
    assert torch.equal(same, sample(model, sampler(), sigmas, LATENT)), "asking for both is not plain CFG"
    chained = HOST.patch_evaluation(patched, always(lambda call: call.predict("cond", "uncond")))
    assert torch.equal(sample(chained, sampler(), sigmas, LATENT), out), "an evaluation did not ask the one before"
    assert torch.equal(sample(patched, sampler(), sigmas, LATENT, cfg=1.0),
                       sample(model, sampler(), sigmas, LATENT, cfg=1.0))


def check_a_foreign_evaluation_is_asked_too_and_must_come_before():
    calls = []

    def foreign(args):
        calls.append(len(args["conds"]))
        return comfy.samplers.calc_cond_batch(args["model"], args["conds"], args["input"], args["sigma"],
                                              args["model_options"])

    model, sigmas = toy()[0], levels_for("eps")
    model.set_model_sampler_calc_cond_batch_function(foreign)
    sample(HOST.patch_evaluation(model, always(leave_out)), sampler(), sigmas, LATENT)
    assert calls == [2] * 6
    late = HOST.patch_evaluation(toy()[0], always(leave_out))
    late.set_model_sampler_calc_cond_batch_function(foreign)
    expect_error("put that node before Odeon's", sample, late, sampler(), sigmas, LATENT)


def check_cfg_pp_samplers_are_refused_with_evaluations():
    model = HOST.patch_evaluation(toy()[0], always(leave_out))
    expect_error("can't be combined with what reads it", sample, model, comfy.samplers.sampler_object("euler_cfg_pp"),
                 levels_for("eps"), LATENT)


def check_scales_change_the_cfg_of_everything():
    model, network = toy()
    sigmas, seen = levels_for("eps"), []
    low = HOST.patch_scale(model, always(lambda scale, sigma: scale if sigma > 1.0 else 1.0))
    left = HOST.patch_evaluation(model, always(leave_out))
    (out, rows), log = told(counted, network, sample, low, sampler(), sigmas, LATENT)
    below = int((sigmas[:-1] <= 1.0).sum())
    assert rows == 2 * (2 * 6 - below) and f"saved {below} of 12" in log
    close(out, sample(left, sampler(), sigmas, LATENT), 1e-6, "CFG 1 against leaving the negative out")
    doubled = HOST.patch_guidance(HOST.patch_scale(model, always(lambda scale, sigma: 2.0 * scale)), always(
        lambda cond, uncond, call: seen.append(call.scale) or plain(cond, uncond, call)))
    close(sample(doubled, sampler(), sigmas, LATENT, cfg=2.5), sample(model, sampler(), sigmas, LATENT, cfg=5.0), 1e-6,
          "a doubled CFG")
    assert seen == [5.0] * 6
    sample(doubled, sampler(), sigmas, LATENT, cfg=1.0)
    assert len(seen) == 6


def check_state_lives_and_dies_with_a_run():
    def start():
        count = [0]

        def rule(cond, uncond, call):
            count[0] += 1
            return uncond + count[0] * (cond - uncond)

        return rule

    def interrupt(step, *_):
        if step == 2:
            raise comfy.model_management.InterruptProcessingException()

    model, sigmas = HOST.patch_scale(HOST.patch_guidance(toy()[0], start), always(lambda scale, sigma: 4.0)), \
        levels_for("eps")
    first = sample(model, sampler(), sigmas, LATENT)
    with contextlib.suppress(comfy.model_management.InterruptProcessingException):
        sample(model, sampler(), sigmas, LATENT, callback=interrupt)
    assert torch.equal(sample(model, sampler(), sigmas, LATENT), first)


def check_another_model_beside():
    for prediction in KINDS:
        model, (other, network) = toy(prediction)[0], toy(prediction)
        patched, beside = HOST.with_model(model, other)
        rule = always(lambda denoised, call, beside=beside: call.predict("cond", model=beside)[0])
        patched = HOST.patch_prediction(patched, rule).clone()
        for _ in range(2):
            out, rows = counted(network, sample, patched, sampler(), levels_for(prediction), LATENT)
            assert rows == 2 * 6
            close(out, sample(model, sampler(), levels_for(prediction), LATENT, cfg=1.0), 1e-6, "the other model's")
        assert other.model.current_patcher is None
    expect_error("need one prediction type, got EPS and CONST", HOST.with_model, toy()[0], toy("flow")[0])
    expect_error("need one kind of latents", HOST.with_model, toy()[0], toy(channels=16)[0])
    model = toy()[0]
    HOST.with_model(model, model.clone())
    patched = model.clone()
    patched.add_patches({"diffusion_model.weight": (torch.ones(()),)})
    expect_error("load the checkpoint a second time", HOST.with_model, model, patched)


if __name__ == "__main__":
    run_checks(globals())
