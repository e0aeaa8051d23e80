"""Guidance nodes inside ComfyUI, under its own Python; see in_comfyui.py."""
import contextlib
import sys

from comfyui_pack import (
    KINDS,
    NAME,
    build,
    close,
    comfy,
    defaults,
    expect_error,
    levels_for,
    run_checks,
    sample,
    sampler,
    torch,
    toy,
    word,
)

APG = {"eta": 0.0, "norm_threshold": 2.0, "momentum": -0.5, "threshold_unit": "norm", "axes": "sample"}
RESCALE = {"phi": 0.7, "space": "auto", "per_channel": False, "mask_stats": True}
MIMIC = {"mimic_scale": 1.5, "percentile": 0.95, "mimic_mode": "Linear Up", "mimic_min": 0.5, "cfg_mode": "Cosine Down",
         "cfg_min": 1.0, "sched_val": 1.0, "separate_channels": True, "startpoint": "MEAN", "variability": "AD",
         "phi": 0.8}
INTERVAL = {"sigma_hi": 4.0, "sigma_lo": 0.3, "outside_scale": 1.0, "curve": "constant", "table": ""}
FDG = {"w_high": 9.0, "w_low": 2.0, "levels": 2, "parallel_high": 0.5, "parallel_low": 1.0}
AUTO = {"weight": 2.0, "sigma_hi": -1.0, "sigma_lo": 0.0}
STRONG = {"OdeonAPG": APG, "OdeonCFGRescale": RESCALE, "OdeonMimicScale": MIMIC, "OdeonFDG": FDG,
          "OdeonGuidanceInterval": INTERVAL, "OdeonCFGZeroStar": {"zero_init_steps": 1},
          "OdeonScaleSchedule": {"table": "5: 2, 1: 0.5", "unit": "factor"},
          "OdeonMomentumGuidance": {"strength": 0.5, "decay": 0.6},
          "OdeonAdaptiveGuidance": {"gamma": 0.5, "space": "x0", "min_steps": 1}, "OdeonAutoGuidance": AUTO}
NEUTRAL = {"OdeonAPG": {**APG, "eta": 1.0, "norm_threshold": 0.0, "momentum": 0.0},
           "OdeonCFGRescale": {**RESCALE, "phi": 0.0},
           "OdeonMimicScale": {**MIMIC, "cfg_mode": "Constant", "phi": 0.0},
           "OdeonFDG": {**FDG, "w_high": 0.0, "w_low": 0.0, "parallel_high": 1.0},
           "OdeonGuidanceInterval": {**INTERVAL, "sigma_hi": -1.0, "sigma_lo": 0.0},
           "OdeonScaleSchedule": {"table": "1: 1", "unit": "factor"},
           "OdeonMomentumGuidance": {"strength": 0.0, "decay": 0.6},
           "OdeonAdaptiveGuidance": {"gamma": 1.01, "space": "x0", "min_steps": 1},
           "OdeonAutoGuidance": {**AUTO, "weight": 1.0},
           "OdeonDynamicThreshold": {"ratio": 0.995, "max_val": 1.0, "channelwise": False, "scale": 1000.0}}
LATENT = torch.zeros(3, 4, 8, 8)


def guided(name, model, prediction="eps", **changes):
    options = {**STRONG.get(name, {}), **changes}
    if name == "OdeonAutoGuidance":
        options["bad_model"] = toy(prediction)[0]
        options["bad_positive"] = word(-0.6)  # of a network that is the same, so as to be worse
    return build(name, model=model, **options)[0]


def strayed(model):
    """With a patch of somebody else's in every place that ComfyUI has for one."""
    def batch(args):
        return [1.03 * out for out in comfy.samplers.calc_cond_batch(*(args[key] for key in (
            "model", "conds", "input", "sigma", "model_options")))]

    patched = model.clone()
    patched.set_model_sampler_calc_cond_batch_function(batch)
    patched.set_model_sampler_pre_cfg_function(lambda args: [1.01 * args["conds_out"][0], *args["conds_out"][1:]])
    patched.set_model_sampler_cfg_function(
        lambda args: args["uncond"] + 0.9 * args["cond_scale"] * (args["cond"] - args["uncond"]))
    patched.set_model_sampler_post_cfg_function(lambda args: args["denoised"] + 0.1)
    patched.set_model_unet_function_wrapper(
        lambda apply, args: 1.02 * apply(args["input"], args["timestep"], **args["c"]))
    patched.add_wrapper(comfy.patcher_extension.WrappersMP.APPLY_MODEL,
                        lambda executor, *args, **options: 0.98 * executor(*args, **options))
    return patched


def restart(model, x, sigmas, extra_args=None, **_):
    """Euler, gone through twice from the second level to the last but one."""
    def euler(x, sigmas):
        for sigma, sigma_next in zip(sigmas[:-1], sigmas[1:]):
            x = x + (x - model(x, sigma.expand(len(x)), **extra_args)) / sigma * (sigma_next - sigma)
        return x

    x = euler(x, sigmas[:-1])
    return euler(x + x.sign() * (sigmas[1] ** 2 - sigmas[-2] ** 2).sqrt(), sigmas[1:])


def check_neutral_values_are_cfg_with_other_patches_on():
    for prediction in KINDS:
        sigmas = levels_for(prediction)
        model = strayed(toy(prediction)[0])
        plain = sample(model, sampler(), sigmas, LATENT)
        assert not torch.allclose(plain, sample(toy(prediction)[0], sampler(), sigmas, LATENT), atol=0.05)
        for name, options in NEUTRAL.items():
            once = guided(name, model, prediction, **options)
            close(sample(once, sampler(), sigmas, LATENT), plain, 1e-6 * plain.abs().max().item(), name)
            twice = guided(name, once, prediction, **options)
            close(sample(twice, sampler(), sigmas, LATENT), plain, 1e-5, f"{name} twice on {prediction}")


def check_each_changes_the_picture_and_leaves_no_trace():
    def interrupt(step, *_):
        if step == 2:
            raise comfy.model_management.InterruptProcessingException()

    for prediction in ("eps", "flow"):
        sigmas = levels_for(prediction)
        plain = sample(toy(prediction)[0], sampler(), sigmas, LATENT)
        for name in STRONG:
            model = guided(name, toy(prediction)[0], prediction)
            first = sample(model, sampler(), sigmas, LATENT)
            assert not torch.allclose(first, plain, atol=1e-3), f"{name} does nothing on {prediction}"
            with contextlib.suppress(comfy.model_management.InterruptProcessingException):
                sample(model, sampler(), sigmas, LATENT, callback=interrupt)
            assert torch.equal(sample(model, sampler(), sigmas, LATENT), first), f"{name} leaves a trace"


def check_items_of_a_batch_are_single_runs():
    noise = comfy.sample.prepare_noise(LATENT, 5)
    for method in (sampler(), comfy.samplers.sampler_object("heun"), comfy.samplers.KSAMPLER(restart)):
        for name in STRONG:
            model = guided(name, guided(name, toy()[0]))  # twice in a chain
            whole = sample(model, method, levels_for("eps"), LATENT, noise=noise)
            assert torch.isfinite(whole).all()
            for i in range(3):
                alone = sample(model, method, levels_for("eps"), LATENT[:1], noise=noise[i:i + 1])
                close(whole[i:i + 1], alone, 1e-4, f"item {i} of a batch under {name}")


def check_masks_and_low_precision():
    mask = torch.cat([torch.zeros(1, 1, 8, 4), torch.ones(1, 1, 8, 4)], 3)
    kept = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    for name in STRONG:
        out = sample(guided(name, toy()[0]), sampler(), levels_for("eps"), kept, mask=mask)
        close(out[..., :4], kept[..., :4], 1e-5, f"what the mask covers under {name}")
        for dtype in (torch.float16, torch.bfloat16):
            model, network = toy()
            network.dtype = dtype
            rough = sample(guided(name, model), sampler(), levels_for("eps"), LATENT, cfg=12.0)
            assert rough.dtype == torch.float32 and torch.isfinite(rough).all(), f"{name} in {dtype}"


def check_cfg_1_and_no_negative():
    for name in STRONG:
        model = guided(name, toy()[0])
        at_one = sample(model, sampler(), levels_for("eps"), LATENT, cfg=1.0)
        guider = comfy.samplers.CFGGuider(model)
        guider.inner_set_conds({"positive": word(0.3)})
        alone = guider.sample(comfy.sample.prepare_noise(LATENT, 5), LATENT, sampler(), levels_for("eps"), seed=5,
                              disable_pbar=True)
        assert torch.equal(at_one, alone)
        if name not in ("OdeonMomentumGuidance", "OdeonAutoGuidance"):
            plain = sample(toy()[0], sampler(), levels_for("eps"), LATENT, cfg=1.0)
            assert torch.equal(at_one, plain), f"{name} acts at CFG 1"


def check_core_rescale_is_ours_in_v_and_on_flows_another_space():
    import comfy_extras.nodes_model_advanced as core

    def theirs(model):
        node = core.RescaleCFG
        return node.execute(model, 0.7).args[0] if hasattr(node, "execute") else node().patch(model, 0.7)[0]

    differences = {}
    for prediction in KINDS:
        model, sigmas = toy(prediction)[0], levels_for(prediction)
        ours = sample(guided("OdeonCFGRescale", model), sampler(), sigmas, LATENT[:1], cfg=6.0)
        differences[prediction] = (ours - sample(theirs(model), sampler(), sigmas, LATENT[:1], cfg=6.0)).abs().max()
    assert differences["eps"] < 1e-4 and differences["v"] < 1e-4, differences
    assert differences["flow"] > 0.03, differences


def predictions(model, scale, x, sigma):
    guider, seen = comfy.samplers.CFGGuider(model), []
    guider.set_conds(word(0.3), word(-0.2))
    guider.set_cfg(scale)
    spy = comfy.samplers.KSAMPLER(lambda m, x0, sigmas, extra_args=None, **_: seen.append(
        m(x, x.new_full((len(x),), sigma), **extra_args)) or x0)
    guider.sample(torch.zeros_like(x), torch.zeros_like(x), spy, torch.tensor([sigma, 0.0]), seed=0, disable_pbar=True)
    return seen[0]


def check_core_cfg_zero_star_misses_a_term():
    import comfy_extras.nodes_cfg as core

    rule = sys.modules[f"{NAME}.guidance.zero_star"].zero_star_guidance
    model = toy("flow")[0]
    x, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)), 0.6
    theirs = predictions(core.CFGZeroStar.execute(model).args[0], 5.0, x, t)
    ours = predictions(guided("OdeonCFGZeroStar", model, zero_init_steps=0), 5.0, x, t)
    cond = predictions(model, 1.0, x, t)
    uncond = (predictions(model, 5.0, x, t) - 5.0 * cond) / -4.0
    sigma = torch.full((2,), t)
    close(ours, rule(cond, uncond, x, sigma, scale=5.0), 1e-4, "CFG-Zero* in ComfyUI")
    v_cond, v_uncond = (x - cond) / t, (x - uncond) / t
    fitted = (v_cond * v_uncond).sum((1, 2, 3), keepdim=True) / v_uncond.square().sum((1, 2, 3), keepdim=True)
    close(theirs - ours, (1.0 - 5.0) * (fitted - 1.0) * x, 1e-3, "the term that ComfyUI's CFG-Zero* misses")
    assert (theirs - ours).abs().max() > 0.1


def check_core_apg_at_cfg_1_doubles_the_prediction():
    import comfy_extras.nodes_apg as core

    model, x = toy()[0], torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)) * 5.0
    theirs = core.APG.execute(model, eta=1.0, norm_threshold=0.0, momentum=0.0).args[0]
    cond = predictions(model, 1.0, x, 5.0)
    close(predictions(theirs, 1.0, x, 5.0), 2.0 * cond, 1e-5, "ComfyUI's APG at CFG 1")
    assert torch.equal(predictions(build("OdeonAPG", model=model, **APG)[0], 1.0, x, 5.0), cond)


def check_linear_ag_is_fitted_kept_and_applied():
    for prediction in ("eps", "flow"):
        model, _ = toy(prediction)
        with torch.inference_mode():
            coefs, _ = build("OdeonFitLinearAG", model=model, positive=word(0.3), negative=word(-0.2), cfg=3.0,
                             sigmas=levels_for(prediction), latent={"samples": LATENT}, start_seed=1, samples=4,
                             ridge=1e-6, policy="paper", tolerance=0.05, name=f"of {prediction}")["result"]
        kept = build("OdeonLinearAG", model=model, coefs=f"of {prediction}")[0]
        linear, sigmas = build("OdeonLinearAG", model=model, coefs=coefs)[0], levels_for(prediction)
        out = sample(linear, sampler(1), sigmas, LATENT)
        assert torch.isfinite(out).all() and torch.equal(out, sample(kept, sampler(1), sigmas, LATENT))
        assert coefs.policy == ("both", "estimate", "both", "cond", "cond", "cond")
        stray = strayed(model)
        idle = build("OdeonLinearAG", model=stray, coefs=coefs._replace(policy=("both",) * 6))[0]
        plain = sample(stray, sampler(1), sigmas, LATENT)
        close(sample(idle, sampler(1), sigmas, LATENT), plain, 1e-6 * plain.abs().max().item(), "LinearAG that saves 0")
        expect_error("no weights for sigma", sample, linear, sampler(1), levels_for(prediction, 5), LATENT)


def check_evaluations_are_saved():
    inside = sum(0.3 < sigma <= 4.0 for sigma in levels_for("eps").tolist())
    for name, rows in (("OdeonGuidanceInterval", [6 + inside]), ("OdeonAdaptiveGuidance", range(7, 12))):
        model, network = toy()
        seen = []
        handle = network.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(len(output)))
        sample(guided(name, model), sampler(), levels_for("eps"), LATENT[:1])
        handle.remove()
        assert sum(seen) in rows, (name, seen)


def check_dynamic_thresholding_joins_in():
    model = defaults("OdeonDynamicThreshold", model=guided("OdeonAPG", toy()[0]))
    out = sample(model, sampler(), levels_for("eps"), LATENT, cfg=8.0)
    assert out.abs().max() <= 1.0 + 1e-5 and torch.equal(out, sample(model, sampler(), levels_for("eps"), LATENT,
                                                                     cfg=8.0))


if __name__ == "__main__":
    run_checks(globals())
