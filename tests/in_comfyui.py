"""Checks that run inside ComfyUI, under its own Python: `python in_comfyui.py COMFYUI_ROOT` prints a JSON object
{check: "" or what went wrong}. test_comfyui.py starts it and reports each check as a test."""
import importlib.util
import json
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, sys.argv[1])
sys.argv = ["main.py", "--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
import comfy.model_management  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.samplers  # noqa: E402
import comfy.utils  # noqa: E402
import latent_preview  # noqa: E402
import torch  # noqa: E402

KINDS = ("eps", "v", "flow")


def tables():
    """What other packs and the menus read of ComfyUI."""
    import comfy.k_diffusion.sampling as sampling

    import nodes

    return {"samplers": list(comfy.samplers.SAMPLER_NAMES), "schedulers": list(comfy.samplers.SCHEDULER_NAMES),
            "handlers": dict(comfy.samplers.SCHEDULER_HANDLERS), "nodes": dict(nodes.NODE_CLASS_MAPPINGS),
            "functions": {name: getattr(sampling, name) for name in dir(sampling)},
            "samplers_module": {name: getattr(comfy.samplers, name) for name in dir(comfy.samplers)}}


def load_pack():
    """Loads the pack as ComfyUI does: under a name that is its path."""
    name = str(ROOT).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module, sys.modules[f"{name}.host"], name


BEFORE = tables()
STARTED = time.perf_counter()
PACK, HOST, NAME = load_pack()
LOAD_SECONDS = time.perf_counter() - STARTED
NODES = PACK.NODE_CLASS_MAPPINGS


class Toy(torch.nn.Module):
    """A network for latents of any shape whose denoised prediction is tanh(x + word), on every prediction type."""

    def __init__(self, prediction, levels):
        super().__init__()
        self.prediction, self.levels = prediction, levels
        self.weight = torch.nn.Parameter(torch.ones(()), requires_grad=False)
        self.dtype, self.calls, self.fail_at = torch.float32, 0, None

    def forward(self, x, timesteps, context=None, **_):
        self.calls += 1
        if self.calls == self.fail_at:
            return x * float("nan")
        wide = [-1] + [1] * (x.ndim - 1)
        if self.prediction == "flow":
            sigma = (timesteps / 1000.0).reshape(wide)
        else:
            sigma = self.levels.sigma(timesteps).reshape(wide)
            x = x * (sigma.square() + 1.0).sqrt()
        denoised = torch.tanh(x * 0.5 + context.mean((1, 2)).reshape(wide))
        if self.prediction == "v":
            return (x / (sigma.square() + 1.0) - denoised) * (sigma.square() + 1.0).sqrt() / sigma
        return (x - denoised) / sigma


def toy(prediction="eps", channels=4):
    levels_module = sys.modules[f"{NAME}.models.levels"]
    levels = levels_module.FlowLevels() if prediction == "flow" else levels_module.DiscreteLevels()
    network = Toy(prediction, levels)
    model = HOST.make_model(network, prediction=prediction, levels=levels, channels=channels,
                            rgb_factors=[[0.1, 0.1, 0.1]] * channels)
    return model, network


def word(value):
    return [[torch.full((1, 2, 3), value), {}]]


def build(node, **inputs):
    cls = NODES[node]
    return getattr(cls(), cls.FUNCTION)(**inputs)


def sampler(order=2, eta=0.0):
    return build("OdeonSamplerExponentialAdams", order=order, eta=eta, s_noise=1.0)[0]


def defaults(name, **changes):
    """A SAMPLER of a node as it comes from the menu, with changes."""
    inputs = {key: spec[1]["default"] for group in NODES[name].INPUT_TYPES().values() for key, spec in group.items()}
    return build(name, **{**inputs, **changes})[0]


def solvers(prediction):
    """Every solver node as it comes, and what else takes another way through the loop."""
    refused = {"OdeonSamplerAcceleratedDDIM", "OdeonSamplerLambdaDDIM"} if prediction == "flow" else set()
    for name in NODES:
        if hasattr(NODES[name], "PLAN") and name not in refused:
            yield defaults(name)
    yield sampler(2, eta=1.0)
    yield defaults("OdeonSamplerDDIM", eta=1.0)
    yield defaults("OdeonSamplerEDMHeun", s_churn=2.0)
    yield defaults("OdeonSamplerDPMSolverPP", method="fast", order=3)
    yield defaults("OdeonSamplerPNDM", variant="F-PNDM")
    yield build("OdeonWrapUniC", sampler=defaults("OdeonSamplerDEIS", variant="rhoAB"), order=2, variant="bh2",
                uncorrected=0)[0]


def levels_for(prediction, steps=6):
    if prediction == "flow":
        return torch.linspace(1.0, 0.0, steps + 1)
    return build("OdeonSigmasPower", steps=steps, sigma_max=14.614642, sigma_min=0.0291675, rho=7.0)[0]


def sample(model, solver, sigmas, latent, *, noise=None, cfg=3.0, mask=None, callback=None, seed=5):
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(word(0.3), word(-0.2))
    guider.set_cfg(cfg)
    if noise is None:
        noise = comfy.sample.prepare_noise(latent, seed)
    with torch.inference_mode():
        return guider.sample(noise, latent, solver, sigmas, denoise_mask=mask, callback=callback, disable_pbar=True,
                             seed=seed)


def close(a, b, tolerance, what):
    difference = (a - b).abs().max().item()
    assert difference <= tolerance, f"{what}: differs by {difference:.3g}, allowed {tolerance:g}"


def check_loads_fast_and_changes_no_table():
    after = tables()
    for key, value in BEFORE.items():
        assert after[key] == value, f"loading the pack changed ComfyUI's {key}"
    assert LOAD_SECONDS < 0.5, f"took {LOAD_SECONDS:.2f} s"
    assert set(NODES) == set(PACK.NODE_DISPLAY_NAME_MAPPINGS)


def check_every_shape_prediction_and_scale():
    for shape in ((2, 4, 24), (2, 4, 8, 8), (1, 4, 3, 8, 8)):
        for prediction in KINDS:
            model, _ = toy(prediction)
            for solver in solvers(prediction):
                for cfg in (1.0, 3.0):
                    out = sample(model, solver, levels_for(prediction), torch.zeros(shape), cfg=cfg)
                    assert out.shape == shape and torch.isfinite(out).all()


def check_euler_is_order_one():
    for prediction in KINDS:
        model, _ = toy(prediction)
        ours = sample(model, sampler(1), levels_for(prediction), torch.zeros(1, 4, 8, 8))
        core = sample(model, comfy.samplers.sampler_object("euler"), levels_for(prediction), torch.zeros(1, 4, 8, 8))
        close(ours, core, 2e-5, f"order 1 against euler on {prediction}")


def check_core_namesakes():
    options = {"order": 2, "lower_order_below": 0, "third_order_term": "exact"}
    for name, solver_type in (("dpmpp_2m", "midpoint"), ("res_multistep", "taylor")):
        for prediction in ("eps", "v"):
            model, _ = toy(prediction)
            ours = sample(model, build("OdeonSamplerDPMSolverPP", solver_type=solver_type, **options)[0],
                          levels_for(prediction, 12), torch.zeros(1, 4, 8, 8))
            core = sample(model, comfy.samplers.sampler_object(name), levels_for(prediction, 12),
                          torch.zeros(1, 4, 8, 8))
            close(ours, core, 2e-5, f"{solver_type} against {name} on {prediction}")
    for name, ours in (("euler", defaults("OdeonSamplerDDIM")), ("heun", defaults("OdeonSamplerEDMHeun")),
                       ("ipndm", defaults("OdeonSamplerPNDM")),
                       ("gradient_estimation", defaults("OdeonSamplerGradientEstimation"))):
        for prediction in KINDS:
            model, _ = toy(prediction)
            out, core = (sample(model, solver, levels_for(prediction, 12), torch.zeros(1, 4, 8, 8))
                         for solver in (ours, comfy.samplers.sampler_object(name)))
            close(out, core, 5e-5, f"{name} on {prediction}")


def check_methods_for_noise_prediction_say_so_on_flow_models():
    model, _ = toy("flow")
    for name in ("OdeonSamplerAcceleratedDDIM", "OdeonSamplerLambdaDDIM"):
        expect_error("flow models", sample, model, defaults(name), levels_for("flow"), torch.zeros(1, 4, 8, 8))


def check_samplers_with_steps_of_their_own():
    latent = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 1, 8, 8)
    mask[..., :4] = 0.0
    for prediction in KINDS:
        model, _ = toy(prediction)
        fine = sample(model, sampler(3), levels_for(prediction, 300), torch.zeros(2, 4, 8, 8))
        for name, options in (("OdeonSamplerPFODE", {"rtol": 1e-4, "atol": 1e-4}),
                              ("OdeonSamplerDPMSolverAdaptive", {"rtol": 1e-3, "atol": 1e-3})):
            seen = []
            out = sample(model, defaults(name, **options), levels_for(prediction, 100), torch.zeros(2, 4, 8, 8),
                         callback=lambda step, denoised, x, total, seen=seen: seen.append((step, total)))
            close(out, fine, 0.02, f"{name} on {prediction}")
            assert seen == sorted(seen) and seen[-1][0] >= 98 and seen[-1][1] == 100, seen
            out = sample(model, defaults(name, **options), levels_for(prediction), latent.clone(), mask=mask)
            close(out[..., :4], latent[..., :4], 1e-6, f"kept half of {name} on {prediction}")


def check_models_own_time_reaches_the_plan():
    """DEIS in the time of the model at hand is not DEIS in the published one, and both are near a fine run."""
    model, _ = toy("eps")
    fine = sample(model, sampler(3), levels_for("eps", 200), torch.zeros(1, 4, 8, 8))
    coarse = sample(model, defaults("OdeonSamplerDDIM"), levels_for("eps", 12), torch.zeros(1, 4, 8, 8))
    both = [sample(model, defaults("OdeonSamplerDEIS", time_map=time_map), levels_for("eps", 12),
                   torch.zeros(1, 4, 8, 8)) for time_map in ("model", "linear_vp")]
    assert not torch.allclose(*both, atol=1e-5)
    for out in both:
        assert (out - fine).norm() < 0.5 * (coarse - fine).norm()


def check_masked_out_part_is_kept():
    latent = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 1, 8, 8)
    mask[..., :4] = 0.0
    for prediction in KINDS:
        model, _ = toy(prediction)
        for solver in solvers(prediction):
            out = sample(model, solver, levels_for(prediction), latent.clone(), mask=mask)
            close(out[..., :4], latent[..., :4], 1e-6, f"kept half on {prediction}")
            assert (out[..., 4:] - latent[..., 4:]).abs().max() > 0.1


def check_item_of_a_batch_is_its_single_run():
    latent = torch.zeros(3, 4, 8, 8)
    noise = comfy.sample.prepare_noise(latent, 9)
    for prediction in KINDS:
        model, _ = toy(prediction)
        for solver in solvers(prediction):
            batch = sample(model, solver, levels_for(prediction), latent, noise=noise)
            for i in range(3):
                alone = sample(model, solver, levels_for(prediction), latent[:1], noise=noise[i:i + 1])
                close(batch[i:i + 1], alone, 1e-5, f"item {i} on {prediction}")


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


def check_inputs_are_left_alone():
    model, _ = toy()
    options = json.dumps(model.model_options, default=str)
    latent, sigmas = torch.ones(1, 4, 8, 8), levels_for("eps")
    kept = latent.clone(), sigmas.clone()
    for solver in solvers("eps"):
        sample(model, solver, sigmas, latent)
    assert torch.equal(sigmas, kept[1]) and torch.equal(latent, kept[0])
    assert json.dumps(model.model_options, default=str) == options


def check_callback_every_step_and_last_prediction():
    model, _ = toy()
    for solver in solvers("eps"):
        seen = []
        out = sample(model, solver, levels_for("eps"), torch.zeros(1, 4, 8, 8),
                     callback=lambda step, denoised, x, total, seen=seen: seen.append((step, total, denoised)))
        steps = [step for step, _, _ in seen]
        whole = solver.sampler_function.plan_and_options[1].get("method") != "fast"
        assert (steps == list(range(6)) if whole else steps == sorted(set(steps)) and steps[-1] == 5), steps
        assert all(total == 6 for _, total, _ in seen)
        close(out, seen[-1][2], 1e-6, "the result against the last prediction")


def check_split_equals_single_run():
    for prediction in KINDS:
        model, _ = toy(prediction)
        sigmas, latent = levels_for(prediction), torch.zeros(1, 4, 8, 8)
        whole = sample(model, sampler(1), sigmas, latent)
        half = sample(model, sampler(1), sigmas[:4], latent)
        close(sample(model, sampler(1), sigmas[3:], half, noise=torch.zeros_like(latent)), whole, 1e-5, prediction)


def expect_error(text, function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except ValueError as error:
        assert text in str(error), f"said {error}"
    else:
        raise AssertionError(f"no error; expected one with {text!r}")


def check_bad_input_is_named():
    model, network = toy()
    latent = torch.zeros(1, 4, 8, 8)
    expect_error("must strictly decrease", sample, model, sampler(), torch.tensor([1.0, 2.0, 0.0]), latent)
    expect_error("at least 2 sigmas", sample, model, sampler(), torch.tensor([5.0]), latent)
    expect_error("NaN or infinite values: item 0 of 1", sample, model, sampler(), levels_for("eps"),
                 latent * float("nan"))
    network.calls, network.fail_at = 0, 3
    expect_error("at step 3 of 6 (sigma", sample, model, sampler(), levels_for("eps"), latent, cfg=1.0)
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


def run_checks(found):
    """Runs every check_ function and prints {name: "" or what went wrong}."""
    results = {}
    for name, function in list(found.items()):
        if name.startswith("check_"):
            try:
                function()
                results[name] = ""
            except Exception:
                results[name] = traceback.format_exc(limit=-4)
    sys.__stdout__.write("\n" + json.dumps(results) + "\n")


if __name__ == "__main__":
    run_checks(globals())
