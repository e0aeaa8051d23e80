"""Checks of LD3, TimeTuner and plans inside ComfyUI, run as in_comfyui.py is: `python in_comfyui_learned.py ROOT`."""
import functools
import importlib
import os
import re
from pathlib import Path

from comfyui_pack import HOST, NAME, NODES, build, comfy, defaults, expect_error, run_checks, sampler, torch

PRECISIONS = {"fp32": None, "bf16": "bf16_unet", "fp16": "fp16_unet"}
EVEN = torch.tensor([14.6146, 11.0, 7.5, 4.0, 0.0])  # a poor schedule: there is something to gain
FEW = {"samples": 4, "batch": 2, "teacher_steps": 8, "cfg": 2.0, "start_seed": 1, "several_prompts": "combined"}
LD3 = {"mode": "lambda", "rounds_v1": 2, "rounds_v2": 1, "rate": 0.03, "init": "given", "loss": "latent_l2",
       "minibatch": 2, "told_rate": 0.0, "soft_radius": 0.0, "most_iterations": 0, "decouple": "off"}
TUNER = {"order": "parallel", "iterations": 4, "rate": 0.03, "minibatch": 2}
PLAN = {"free": "coefficients", "minutes": 10.0, "iterations": 2, "minibatch": 3, "history": 0, "samples": 6}
COARSER = torch.tensor([14.6146, 2.0, 0.0])
COARSE = torch.tensor([14.6146, 1.0, 0.0291675])  # one step to tune


@functools.cache
def words(text):
    clip = NODES["OdeonShapesCheckpoint"]().load("shapes-unet")[1]
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def shapes_unet(precision="fp32"):
    """The MODEL of the checkpoint, with weights of that precision, loaded as the server does it."""
    from comfy.cli_args import args

    with torch.inference_mode():
        if PRECISIONS[precision]:
            setattr(args, PRECISIONS[precision], True)
        try:
            model = NODES["OdeonShapesCheckpoint"]().load("shapes-unet")[0]
        finally:
            if PRECISIONS[precision]:
                setattr(args, PRECISIONS[precision], False)
    wanted = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert model.model.diffusion_model.dtype == wanted
    return model


def learn(name, model, **changes):
    options = {"OdeonOptimizeLD3": LD3, "OdeonOptimizePlan": {**FEW, **PLAN}}.get(name, TUNER)
    more = {} if options is TUNER else {"sampler": defaults("OdeonSamplerUniPC")}
    with torch.inference_mode():
        return build(name, **{**FEW, **options, **more, "model": model, "positive": words("a red star on sand"),
                              "negative": words(""), "sigmas": EVEN, "latent": {"samples": torch.zeros(1, 4, 8, 8)},
                              **changes})["result"]


def kept_tensors(path):
    return importlib.import_module(f"{NAME}.measure.kept").read_tensors(path)[0]


def picture(model):
    guider = comfy.samplers.CFGGuider(model)
    with torch.inference_mode():
        guider.set_conds(words("a red star on sand"), words(""))
        guider.set_cfg(3.0)
        latent = torch.zeros(1, 4, 8, 8)
        return guider.sample(comfy.sample.prepare_noise(latent, 5), latent, sampler(), EVEN, seed=5, disable_pbar=True)


def distances(report, what):
    """(median, mean) of a line of the report."""
    return [float(value) for value in re.search(rf"{what}: median ([\d.e+-]+), mean ([\d.e+-]+)", report).groups()]


def unchanged(model, run):
    """What run() gives, after which the model draws the same picture to the bit and is made of the same."""
    before, sampling = picture(model), model.get_model_object("model_sampling")
    kept = {name: value.clone() for name, value in model.model.diffusion_model.state_dict().items()}
    found = run()
    assert torch.equal(picture(model), before), "the model draws another picture than before"
    assert model.get_model_object("model_sampling") is sampling and model.model.model_sampling is sampling
    assert not model.object_patches and not model.object_patches_backup
    after = model.model.diffusion_model.state_dict()
    assert after.keys() == kept.keys() and all(torch.equal(after[name], value) for name, value in kept.items())
    assert all(value.grad is None for value in model.model.diffusion_model.parameters())
    return found


def check_ld3_learns_in_full_and_half_precision():
    for precision in ("fp32", "fp16"):
        model = shapes_unet(precision)
        sigmas, report, plot, about, cond = unchanged(model, lambda model=model: learn("OdeonOptimizeLD3", model))
        assert torch.isfinite(sigmas).all() and torch.equal(sigmas, cond) and (sigmas.diff() < 0.0).all()
        assert sigmas[0] == EVEN[0] and sigmas[-1] == 0.0 and not torch.allclose(sigmas, EVEN)
        assert torch.isfinite(plot).all() and about["steps"] == 4
        given, learned = distances(report, "as given"), distances(report, "learned")
        assert learned[0] < 0.9 * given[0], (precision, report)


def check_ld3_learns_what_the_network_is_told():
    prompts = [*words("a red star on sand"), *words("a blue ring on night")]
    for how in ("label_only", "whole_denoiser"):
        model = shapes_unet()
        sigmas, report, _, _, cond = unchanged(model, lambda model=model, how=how: learn(
            "OdeonOptimizeLD3", model, decouple=how, rounds_v1=0, rounds_v2=1, minibatch=2,
            several_prompts="each", positive=prompts))
        assert torch.isfinite(cond).all() and cond[0] == sigmas[0] and cond[-1] == sigmas[-1] == 0.0
        assert not torch.equal(cond, sigmas), (sigmas, cond)
        assert len(distances(report, "learned, without the told levels")) == 2
        deployed = build("OdeonConditioningSigmas", model=model, sigmas=sigmas, cond_sigmas=cond, mode=how)[0]
        assert not torch.equal(picture(deployed), picture(model))


def check_time_tuner_tunes_in_full_and_half_precision():
    """This network is best told its own levels: what is found gives way, or is better for the held-back noises too."""
    for precision in ("fp32", "bf16"):
        model = shapes_unet(precision)
        sigmas, report, plot, _, cond = unchanged(model, lambda model=model: learn(
            "OdeonOptimizeTimeTuner", model, sigmas=COARSE))
        assert torch.equal(sigmas, COARSE) and torch.isfinite(plot).all()
        assert torch.isfinite(cond).all() and torch.equal(cond[1:], COARSE[1:]), (precision, report)
        given, learned = distances(report, "as given"), distances(report, "learned")
        assert torch.equal(cond, sigmas) or learned[0] < given[0] or learned[1] < given[1], (precision, report)


def check_time_tuner_takes_pictures_of_ones_own():
    """In the LATENT's scale, not the model's, and of the latent's size."""
    model, losses = shapes_unet(), []
    drawn = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    for scale in (1.0, 0.5):
        model.model.latent_format.scale_factor = scale
        learn("OdeonOptimizeTimeTuner", model, sigmas=COARSE, data={"samples": drawn / scale}, iterations=2)
        kept = max((Path(os.environ["ODEON_FOLDER"]) / "cache").glob("*"), key=lambda path: path.stat().st_mtime)
        losses.append(kept_tensors(kept)["losses"])
    assert torch.allclose(*losses, rtol=1e-4), losses
    expect_error("data must have the latent's size", learn, "OdeonOptimizeTimeTuner", model,
                 data={"samples": torch.ones(1, 4, 4, 4)})


def check_plans_are_learned_in_every_precision_and_need_no_gradients():
    rounded = shapes_unet().clone()
    rounded.set_model_unet_function_wrapper(
        lambda apply, given: torch.round(256.0 * apply(given["input"], given["timestep"], **given["c"])) / 256.0)
    for model in (shapes_unet("bf16"), shapes_unet("fp16"), rounded):
        report = unchanged(model, lambda model=model: learn("OdeonOptimizePlan", model, sigmas=COARSER))[2]
        assert "Returned: the learned plan" in report, report
    sampler, sigmas, report, *_, same = unchanged(
        shapes_unet(), lambda: learn("OdeonOptimizePlan", shapes_unet(), free="all", sigmas=COARSER))
    assert "Returned: the learned plan" in report and torch.equal(sigmas, same) and len(sigmas) == len(COARSER)
    x = HOST.plan_of(sampler)[1]["learned"].table.x
    assert (x[1:-1] - sigmas[1:-1].double() / sigmas[0]).abs().min() > 1e-4 and x[-1] != 0.0  # no first law


def check_a_plan_with_guidance_draws_what_it_learned_with():
    """The plan in the guider is the table it is, on D and D - D_u as the guider's own hooks see them."""
    model = shapes_unet()
    sampler, sigmas, report, *_ = unchanged(
        model, lambda: learn("OdeonOptimizePlan", model, free="levels+coefficients+guidance", sigmas=COARSER))
    assert "Returned: the learned plan" in report, report
    _, options = HOST.plan_of(sampler)
    table = options["learned"].table
    assert table.d.shape == (3, 4) and (table.d[:, 1::2] != 0.0).any()
    expect_error("at CFG 1 there is no guidance", learn, "OdeonOptimizePlan", model, cfg=1.0,
                 free="levels+coefficients+guidance")
    latent, seen = torch.zeros(2, 4, 8, 8), []
    watched = model.clone()
    watched.set_model_sampler_post_cfg_function(
        lambda args: [seen.append((args["input"], args["denoised"], args["denoised"] - args["uncond_denoised"])),
                      args["denoised"]][1])
    with torch.inference_mode():
        guider = comfy.samplers.CFGGuider(watched)
        guider.set_conds(words("a red star on sand"), words(""))
        guider.set_cfg(2.0)
        noise = comfy.sample.prepare_noise(latent, 5)
        end = guider.sample(noise, latent, sampler, sigmas, seed=5, disable_pbar=True)
        start, (_, *first), (_, *second) = seen[0][0], *seen
        expected = table.x[2] * start + sum(float(coef) * value for coef, value in zip(table.d[2], [*first, *second]))
        assert torch.allclose(start, noise * sigmas[0], rtol=0.01), "noise of a lower first level"
        assert len(seen) == 2 and torch.allclose(model.model.process_latent_in(end), expected.float(), atol=1e-4)
        alone = comfy.samplers.CFGGuider(model)
        alone.inner_set_conds({"positive": words("a red star on sand")})
        expect_error("needs a negative prompt", alone.sample, noise, latent, sampler, sigmas, disable_pbar=True)
    expect_error("whole as it is", lambda: HOST.plan_for(model, build(
        "OdeonWrapCFGPP", sampler=sampler, history="guided")[0])(sigmas.tolist()))


def check_distances_of_a_plan_are_of_decoded_pictures_where_a_vae_shows_them():
    model, _, vae = NODES["OdeonShapesCheckpoint"]().load("shapes-unet")
    seen = [unchanged(model, lambda more=more: learn("OdeonOptimizePlan", model, sigmas=COARSER, **more))[2]
            for more in ({}, {"vae": vae})]
    assert all("Returned: the learned plan" in report for report in seen)
    assert distances(seen[1], "learned") != distances(seen[0], "learned")
    decoded = vae.decode(torch.zeros(1, 4, 8, 8))
    assert decoded.shape == (1, 64, 64, 3) and not decoded.requires_grad


def check_an_interruption_leaves_the_model_clean_and_goes_on():
    partial = Path(os.environ["ODEON_FOLDER"]) / "partial"
    for name, stop, fewer in (("OdeonOptimizeLD3", 60, {"rounds_v1": 1, "soft_radius": 0.001}),
                              ("OdeonOptimizeTimeTuner", 50, {"iterations": 2}),
                              ("OdeonOptimizePlan", 120, {"sigmas": COARSER})):
        model, seed = shapes_unet(), {"start_seed": 77, **fewer}
        network, calls = model.model.diffusion_model, []
        forward = network.forward

        def interrupted(*args, forward=forward, calls=calls, stop=stop, **kwargs):
            calls.append(1)
            if len(calls) == stop:
                comfy.model_management.interrupt_current_processing()
            return forward(*args, **kwargs)

        def run(name=name, model=model, seed=seed, network=network, interrupted=interrupted):
            network.forward = interrupted
            try:
                learn(name, model, **seed)
                raise AssertionError("was not interrupted")
            except comfy.model_management.InterruptProcessingException:
                pass
            finally:
                del network.forward

        unchanged(model, run)
        assert len(calls) <= stop + 2, f"{len(calls)} calls, {stop} at the interruption"
        found = [path.name for path in partial.glob("*")]
        assert len(found) == 1, (name, len(calls), found)
        resumed = learn(name, model, **seed)
        assert not list(partial.glob("*"))
        for kept in (Path(os.environ["ODEON_FOLDER"]) / "cache").glob("*.safetensors"):
            kept.unlink()
        whole = learn(name, model, **seed)
        for a, b in zip(resumed, whole):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b or not isinstance(a, str)


def check_models_without_gradients_are_refused():
    for change in (lambda denoised: denoised.detach(), lambda denoised: torch.round(64.0 * denoised) / 64.0):
        model = shapes_unet().clone()
        model.set_model_unet_function_wrapper(
            lambda apply, given, change=change: change(apply(given["input"], given["timestep"], **given["c"])))
        for name in ("OdeonOptimizeLD3", "OdeonOptimizeTimeTuner"):
            expect_error("take an optimizer that needs no gradients", learn, name, model, start_seed=3)


def check_what_was_learned_is_kept():
    model = shapes_unet()
    first = learn("OdeonOptimizeLD3", model)
    forward = model.model.diffusion_model.forward
    model.model.diffusion_model.forward = None
    try:
        again = learn("OdeonOptimizeLD3", model)
    finally:
        model.model.diffusion_model.forward = forward
    assert torch.equal(first[0], again[0]) and first[1] == again[1]
    assert HOST.plan_of(defaults("OdeonSamplerUniPC"))[0].__name__ == "plan_unipc"


if __name__ == "__main__":
    run_checks(globals())
