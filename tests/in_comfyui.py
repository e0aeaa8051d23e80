"""Checks that run inside ComfyUI, under its own Python: `python in_comfyui.py COMFYUI_ROOT` prints a JSON object
{check: "" or what went wrong}. test_comfyui.py starts it and reports each check as a test."""
import sys

from comfyui_pack import (
    BEFORE,
    KINDS,
    LOAD_SECONDS,
    NAME,
    NODES,
    PACK,
    build,
    close,
    comfy,
    expect_error,
    levels_for,
    run_checks,
    sample,
    sampler,
    tables,
    torch,
    toy,
    word,
)

import latent_preview  # isort: skip


def check_loads_fast_and_changes_no_table():
    after = tables()
    for key, value in BEFORE.items():
        assert after[key] == value, f"loading the pack changed ComfyUI's {key}"
    assert LOAD_SECONDS < 0.5, f"took {LOAD_SECONDS:.2f} s"
    assert set(NODES) == set(PACK.NODE_DISPLAY_NAME_MAPPINGS)


def check_seeds_and_second_runs():
    model, _ = toy()
    solver = sampler(2, eta=1.0)
    first = sample(model, solver, levels_for("eps"), torch.zeros(1, 4, 8, 8), seed=3)
    assert torch.equal(first, sample(model, solver, levels_for("eps"), torch.zeros(1, 4, 8, 8), seed=3))
    assert not torch.allclose(first, sample(model, solver, levels_for("eps"), torch.zeros(1, 4, 8, 8), seed=4))
    noise = comfy.sample.prepare_noise(torch.zeros(1, 4, 8, 8), 3)
    fixed = {"noise": noise}
    assert not torch.allclose(sample(model, solver, levels_for("eps"), torch.zeros(1, 4, 8, 8), seed=3, **fixed),
                              sample(model, solver, levels_for("eps"), torch.zeros(1, 4, 8, 8), seed=4, **fixed))


def check_split_equals_single_run():
    for prediction in KINDS:
        model, _ = toy(prediction)
        sigmas, latent = levels_for(prediction), torch.zeros(1, 4, 8, 8)
        whole = sample(model, sampler(1), sigmas, latent)
        half = sample(model, sampler(1), sigmas[:4], latent)
        close(sample(model, sampler(1), sigmas[3:], half, noise=torch.zeros_like(latent)), whole, 1e-5, prediction)


def check_bad_input_is_named():
    model, network = toy()
    latent = torch.zeros(1, 4, 8, 8)
    expect_error("must strictly decrease", sample, model, sampler(), torch.tensor([1.0, 2.0, 0.0]), latent)
    expect_error("at least 2 sigmas", sample, model, sampler(), torch.tensor([5.0]), latent)
    expect_error("NaN or infinite values: item 0 of 1", sample, model, sampler(), levels_for("eps"),
                 latent * float("nan"))
    network.calls, network.fail_at = 0, 3
    expect_error("at step 3 of 6 (sigma", sample, model, sampler(), levels_for("eps"), latent, cfg=1.0)
    expect_error("above the model's highest level 14.6", sample, model, sampler(), torch.tensor([80.0, 1.0, 0.0]),
                 latent)
    flow, _ = toy("flow")
    expect_error("flow sigmas must lie in [0, 1]", sample, flow, sampler(), levels_for("eps"), latent)
    assert torch.equal(sample(model, sampler(), torch.zeros(0), latent + 1.0), latent + 1.0)  # ComfyUI's own shortcut


def check_interrupt_stays_comfyui_s_own_and_leaves_no_trace():
    model = build("OdeonAPG", model=toy()[0], **APG)[0]
    fresh = sample(model, sampler(), levels_for("eps"), torch.zeros(1, 4, 8, 8))

    def interrupt(step, *_):
        if step == 2:
            raise comfy.model_management.InterruptProcessingException()

    try:
        sample(model, sampler(), levels_for("eps"), torch.zeros(1, 4, 8, 8), callback=interrupt)
    except comfy.model_management.InterruptProcessingException:
        pass
    else:
        raise AssertionError("the interrupt was swallowed")
    assert torch.equal(sample(model, sampler(), levels_for("eps"), torch.zeros(1, 4, 8, 8)), fresh)


APG = {"eta": 0.0, "norm_threshold": 2.0, "momentum": -0.5, "threshold_unit": "norm", "axes": "sample"}
NEUTRAL = {**APG, "eta": 1.0, "norm_threshold": 0.0, "momentum": 0.0}


def brighter(amount):
    return lambda args: args["denoised"] + amount


def check_apg_neutral_is_cfg_with_other_patches_applied():
    for prediction in KINDS:
        model, _ = toy(prediction)
        model.set_model_sampler_post_cfg_function(brighter(0.1))
        latent, sigmas = torch.zeros(1, 4, 8, 8), levels_for(prediction)
        plain = sample(model, sampler(), sigmas, latent, cfg=7.0)
        for patched in (build("OdeonAPG", model=model, **NEUTRAL)[0],
                        build("OdeonAPG", model=build("OdeonAPG", model=model, **NEUTRAL)[0], **NEUTRAL)[0]):
            close(sample(patched, sampler(), sigmas, latent, cfg=7.0), plain, 1e-5, f"neutral APG on {prediction}")


def check_apg_is_its_formula_and_composes():
    rule = sys.modules[f"{NAME}.guidance.projected"].projected_guidance
    model, _ = toy()
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)) * 5.0

    def predictions(model, scale):
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(word(0.3), word(-0.2))
        guider.set_cfg(scale)
        seen = []
        spy = comfy.samplers.KSAMPLER(lambda m, x0, sigmas, extra_args=None, **_: seen.append(
            m(x, x.new_full((2,), 5.0), **extra_args)) or x0)
        guider.sample(torch.zeros_like(x), torch.zeros_like(x), spy, torch.tensor([5.0, 0.0]), seed=0,
                      disable_pbar=True)
        return seen[0]

    cond = predictions(model, 1.0)
    uncond = (predictions(model, 3.0) - 3.0 * cond) / -2.0
    expected, _ = rule(cond, uncond, scale=7.0, **APG)
    close(predictions(build("OdeonAPG", model=model, **APG)[0], 7.0), expected, 1e-4, "APG in ComfyUI")
    after = build("OdeonAPG", model=build_post(model), **APG)[0]
    close(predictions(after, 7.0), expected + 0.1, 1e-4, "APG after another patch")
    before = build("OdeonAPG", model=model, **APG)[0]
    before.set_model_sampler_post_cfg_function(brighter(0.1))
    close(predictions(before, 7.0), expected + 0.1, 1e-4, "APG before another patch")
    at_one = predictions(build("OdeonAPG", model=model, **APG)[0], 1.0)
    assert torch.equal(at_one, cond), "APG at scale 1 changed the prediction"


def build_post(model):
    changed = model.clone()
    changed.set_model_sampler_post_cfg_function(brighter(0.1))
    return changed


def check_core_apg_is_cfg_at_one_more():
    import comfy_extras.nodes_apg as core

    model, _ = toy()
    latent, sigmas = torch.zeros(1, 4, 8, 8), levels_for("eps")
    neutral = core.APG.execute(model, eta=1.0, norm_threshold=0.0, momentum=0.0).args[0]
    close(sample(neutral, sampler(), sigmas, latent, cfg=4.0), sample(model, sampler(), sigmas, latent, cfg=5.0), 1e-5,
          "ComfyUI's APG at neutral values against CFG one higher")


def check_unknown_guider_keywords_do_no_harm():
    class Newer(comfy.samplers.CFGGuider):
        def outer_sample(self, *args, something_new=None, **kwargs):
            return super().outer_sample(*args, **kwargs)

    model = build("OdeonAPG", model=toy()[0], **APG)[0]
    guider = Newer(model)
    guider.set_conds(word(0.3), word(-0.2))
    guider.set_cfg(5.0)
    latent = torch.zeros(1, 4, 8, 8)
    out = guider.sample(comfy.sample.prepare_noise(latent, 5), latent, sampler(), levels_for("eps"), seed=5,
                        disable_pbar=True)
    assert torch.equal(out, sample(model, sampler(), levels_for("eps"), latent, cfg=5.0))


def closed_form(prediction="eps", **options):
    inputs = {"prediction": prediction, "smoothing": 0.0, "noises": 4, "neighbours": 0, "extra": 8, "smoothing_seed": 0}
    return build("OdeonClosedFormModel", **{**inputs, **options})


def check_closed_form_is_a_checkpoint_to_core_nodes():
    import nodes

    for prediction in KINDS:
        model, clip, vae = closed_form(prediction)
        with torch.inference_mode():
            positive = nodes.CLIPTextEncode().encode(clip, "a red star")[0]
            negative = nodes.CLIPTextEncode().encode(clip, "")[0]
            latent = nodes.EmptyLatentImage().generate(64, 64, 2)[0]
            out = nodes.KSampler().sample(model, 1, 8, 2.0, "euler", "simple", positive, negative, latent)[0]
            picture = nodes.VAEDecode().decode(vae, out)[0]
            assert picture.shape == (2, 64, 64, 3)
            again = nodes.VAEEncode().encode(vae, picture)[0]["samples"]
            close(nodes.VAEDecode().decode(vae, {"samples": again})[0], picture, 1e-6, "VAE there and back")
            close(vae.decode_tiled(out["samples"], tile_x=4, tile_y=4, overlap=1), picture, 1e-5, "tiled decoding")
            masked = {"samples": again,
                      "noise_mask": torch.cat([torch.zeros(1, 1, 64, 32), torch.ones(1, 1, 64, 32)], 3)}
            kept = nodes.KSampler().sample(model, 2, 8, 1.0, "dpmpp_2m", "simple", negative, negative,
                                           masked)[0]["samples"]
            close(kept[..., :3], again[..., :3], 1e-5, "masked-out half")
            clip.clone().tokenize("star")
            nodes.CLIPSetLastLayer().set_last_layer(clip, -2)


def check_closed_form_previews():
    model, _, vae = closed_form()
    with torch.inference_mode():
        pictures = build("OdeonShapes", count=2, size=64, data_seed=0, objects=1)[0]
        latent = vae.encode(pictures)
        comfy.cli_args.args.preview_method = latent_preview.LatentPreviewMethod.Latent2RGB
        previewer = latent_preview.get_previewer(torch.device("cpu"), model.get_model_object("latent_format"))
        image = previewer.decode_latent_to_preview(latent)
    import numpy as np

    shown = torch.from_numpy(np.asarray(image).astype("float32") / 255.0)
    blocks = pictures[0].reshape(8, 8, 8, 8, 3).mean((1, 3))
    close(shown, blocks, 0.02, "the preview against the mean colour of each 8 x 8 block")


def check_closed_form_batch_index():
    import nodes

    model, clip, _ = closed_form()
    with torch.inference_mode():
        empty = nodes.CLIPTextEncode().encode(clip, "")[0]
        whole = {"samples": torch.zeros(3, 192, 8, 8)}
        single = nodes.LatentFromBatch().frombatch(whole, 2, 1)[0]
        outs = []
        for latent in (whole, single):
            noise = comfy.sample.prepare_noise(latent["samples"], 5, latent.get("batch_index", [0, 1, 2]))
            guider = comfy.samplers.CFGGuider(model)
            guider.set_conds(empty, empty)
            outs.append(guider.sample(noise, latent["samples"], sampler(2, eta=1.0), levels_for("eps"), seed=5,
                                      disable_pbar=True))
    close(outs[0][2:], outs[1], 1e-4, "item 2 of a stochastic batch against LatentFromBatch")


def check_wrong_latent_is_named():
    model, clip, _ = closed_form()
    empty = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(empty, empty)
    expect_error("made from 64 x 64 px pictures, got a latent of 128 x 128 px", guider.sample,
                 torch.zeros(1, 192, 16, 16), torch.zeros(1, 192, 16, 16), sampler(), levels_for("eps"), seed=0,
                 disable_pbar=True)


def check_latents_made_under_inference_mode():
    with torch.inference_mode():
        model, _ = toy()
        latent = torch.zeros(1, 4, 8, 8)
    out = sample(model, sampler(2, eta=0.5), levels_for("eps"), latent)
    assert out.dtype == torch.float32 and torch.isfinite(out).all()


if __name__ == "__main__":
    run_checks(globals())
