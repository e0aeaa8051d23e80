"""Checks of guidance inside the network, run as in_comfyui.py is: `python in_comfyui_attention.py COMFYUI_ROOT`."""
import contextlib
import functools
import importlib

from comfyui_pack import HOST, NAME, NODES, close, comfy, defaults, expect_error, run_checks, sampler, sd3, torch

KINDS = ("shapes-unet", "shapes-dit", "sd3")


@functools.cache
def kind_of(name):
    """(MODEL, positive, negative, levels of three steps): a Shapes model, or ComfyUI's SD3 with random weights."""
    if name != "sd3":
        model, clip, _ = NODES["OdeonShapesCheckpoint"]().load(name)
        positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a red star", ""))
        levels = [1.0, 0.8, 0.5, 0.0] if name == "shapes-dit" else [14.6, 3.0, 0.8, 0.0]
        return model, positive, negative, torch.tensor(levels)
    return sd3()


def drawn(name, patch=lambda model: model, *, items=(5,), cfg=3.0, mask=None, solver=None, negative=True,
          callback=None):
    """A run of a kind of model; patch: a MODEL made of it, or what makes one; items: a seed for each picture."""
    model, positive, empty, sigmas = kind_of(name)
    guider = comfy.samplers.CFGGuider(patch(model) if callable(patch) else patch)
    guider.inner_set_conds({"positive": positive, "negative": empty} if negative else {"positive": positive})
    guider.set_cfg(cfg)
    latent = torch.full((len(items), 4, 12, 8), 0.3)
    noise = torch.cat([comfy.sample.prepare_noise(latent[:1], seed) for seed in items])
    with torch.inference_mode():
        return guider.sample(noise, latent * (mask is not None), solver or sampler(), sigmas, denoise_mask=mask,
                             callback=callback, disable_pbar=True, seed=5)


def node(name, **inputs):
    """model -> the model patched by a node as it comes from the menu, with changes."""
    return lambda model: defaults(name, model=model, **inputs)


def names_of(name):
    return "middle.0, output.1" if name == "shapes-unet" else "double.0, single.1-2" if "dit" in name else "double"


def strayed(model):
    """With a patch of somebody else's after guidance, and one in the network."""
    changed = model.clone()
    changed.set_model_sampler_post_cfg_function(lambda args: args["denoised"] + 0.1)
    changed.set_model_attn2_patch(lambda q, k, v, extra: (q, k, v * 0.9))
    return changed


PERTURBED = [("OdeonPAG", {}), ("OdeonSEG", {}), ("OdeonSEG", {"blur": 1.0})]


def check_pag_and_seg_change_the_picture_and_twice_the_same():
    for name in KINDS:
        plain = drawn(name)
        for each, inputs in PERTURBED:
            patch = node(each, layers=names_of(name), **inputs)
            out = drawn(name, patch)
            assert torch.isfinite(out).all()
            assert (out - plain).square().mean().sqrt() > 0.01 * plain.std(), (name, each, "changed nothing")
            assert torch.equal(out, drawn(name, patch)), (name, each, "a second run differs")
            alone = drawn(name, patch, cfg=1.0, negative=False)
            assert not torch.allclose(alone, drawn(name, cfg=1.0, negative=False), atol=1e-3), (name, each, "CFG 1")


def check_neutral_values_change_nothing_with_strays():
    for name in KINDS:
        nodes = [("OdeonPAG", {"scale": 0.0}), ("OdeonSEG", {"blur": 0.0}), ("OdeonSEG", {"scale": 0.0}),
                 ("OdeonCADS", {"tau1": 1.0, "tau2": 1.0}),
                 ("OdeonCADS", {"tau1": 1.0, "tau2": 1.0, "dynamic_cfg": True}),
                 ("OdeonParticleRepulsion", {"coeff": 0.0}), ("OdeonPAG", {"sigma_start": 0.0})]
        if name == "shapes-unet":
            nodes.append(("OdeonSkipTuning", {"rho_bottom": 1.0}))
        plain = drawn(name, strayed, items=(5, 6))
        for each, inputs in nodes:
            patched = node(each, **inputs)(strayed(kind_of(name)[0]))
            out = drawn(name, patched, items=(5, 6))
            close(out, plain, 1e-6, f"{each} at {inputs} on {name}")


def every(name):
    """Nodes in which each picture stands alone."""
    nodes = [*PERTURBED, ("OdeonCADS", {}), ("OdeonCADS", {"target": "both", "apply_to": "both", "stats": "token"})]
    return nodes + [("OdeonSkipTuning", {"time_schedule": "linear"})] * (name == "shapes-unet")


def check_a_batch_is_its_singles_under_masks_too():
    mask = torch.zeros(1, 1, 12, 8)
    mask[..., 4:10, 2:6] = 1.0
    for name in KINDS:
        for each, inputs in every(name):
            patch = node(each, **inputs)
            for kept, places in ((None, (1,)), (mask, (0, 1))):
                whole = drawn(name, patch, items=(5, 6), mask=kept)
                for i in places:
                    alone = drawn(name, patch, items=((5, 6)[i],), mask=kept)
                    rms = (alone - whole[i:i + 1]).square().mean().sqrt()  # float32, pushed 3 times CFG 3
                    assert rms < 1e-3 * whole.std(), f"{each} on {name}, picture {i}: {rms:.2g} rms off"
                if kept is not None:
                    assert torch.equal(whole[..., :4, :], torch.full_like(whole[..., :4, :], 0.3)), "the kept part"


def check_interrupted_runs_leave_no_trace_and_multi_stage_samplers_work():
    def interrupt(step, *_):
        if step == 1:
            raise comfy.model_management.InterruptProcessingException()

    for name in KINDS:
        heun, churned = comfy.samplers.ksampler("heun"), defaults("OdeonSamplerEDMHeun", s_churn=5.0)
        for each, inputs in every(name):
            model = node(each, **inputs)(kind_of(name)[0])
            clean = drawn(name, model)
            with contextlib.suppress(comfy.model_management.InterruptProcessingException):
                drawn(name, model, callback=interrupt)
            assert torch.equal(drawn(name, model), clean), (name, each)
            for solver in (heun, churned):
                out = drawn(name, model, solver=solver)
                assert torch.isfinite(out).all()
                assert torch.equal(out, drawn(name, model, solver=solver)), (name, each)


def check_wrong_layers_are_named_with_those_there_are():
    for name, there in zip(KINDS, ("input.1, input.3, middle.0, output.0-3", "double.0-1, single.0-3", "double.0-1")):
        for wrong in ("double.9", "middle.1", "input.2", "up.1", "single.4"):
            expect_error(f"no self-attention layer '{wrong}'; it has {there}", node("OdeonSEG", layers=wrong),
                         kind_of(name)[0])
    expect_error("no skip connections", node("OdeonSkipTuning"), kind_of("sd3")[0])
    assert HOST.attention_layers(kind_of("sd3")[0], " ") == (("double", 1, 0),)


def predicted(model, name, x, sigma, attention):
    """The prediction of a further evaluation with changed attention, as a rule sees it."""
    found = []

    def change(denoised, call):
        found.append(call.predict("cond", x=x, sigma=x.new_full((len(x),), sigma), attention=attention)[0])
        return denoised

    drawn(name, HOST.patch_prediction(model, lambda: change), items=range(len(x)))
    return found[0]


def check_both_hosts_replace_the_same_attention():
    rules = importlib.import_module(f"{NAME}.guidance.attention")
    embedded, weights = (importlib.import_module(f"{NAME}.{path}") for path in ("host.embedded", "models.weights"))
    x = torch.randn(2, 4, 16, 12, generator=torch.Generator().manual_seed(3))
    for name in KINDS[:2]:
        trained = weights.shapes_network(name)
        ours = embedded.make_network(trained.config, trained.weights, prediction=trained.prediction,
                                     levels=trained.levels, rgb_factors=None, rgb_bias=None)
        model, positive, _, _ = kind_of(name)
        sigma = 0.7 if name == "shapes-dit" else 2.0
        chosen = HOST.attention_layers(model, names_of(name))
        assert chosen == embedded.attention_layers(ours, names_of(name))
        guider = embedded.Guider(ours, positive, None, 1.0)
        for rule in (rules.identity_attention, functools.partial(rules.smoothed_attention, blur=0.8)):
            run = importlib.import_module(f"{NAME}.host.embedded.rules").Rules(guider, torch.tensor([1.0, 0.0]), x)
            with torch.inference_mode():
                expected, = run._predict(x, x.new_full((2,), sigma), "cond", attention=(chosen, rule))
                plain, = run._predict(x, x.new_full((2,), sigma), "cond")
            found = predicted(model, name, x, sigma, (chosen, rule))
            close(found, expected, 5e-4, f"{name} in both hosts")
            assert (found - plain).abs().max() > 0.01


def check_words_and_picture_are_told_apart():
    """With every map the identity, a place of the picture sees itself alone; so one place's change stays in place."""
    rules = importlib.import_module(f"{NAME}.guidance.attention")
    for name in KINDS[1:]:
        model = kind_of(name)[0]
        chosen = HOST.attention_layers(model, "double, single" if name == "shapes-dit" else "double")
        x = torch.randn(1, 4, 12, 8, generator=torch.Generator().manual_seed(4))
        other = x.clone()
        other[..., 4:6, 2:4] += 1.0
        one, two = (predicted(model, name, each, 0.7, (chosen, rules.identity_attention)) for each in (x, other))
        moved = (one - two).abs().amax(1)[0]
        assert moved[4:6, 2:4].min() > 1e-3
        moved[4:6, 2:4] = 0.0
        assert moved.max() < 1e-6, f"{name}: a place saw another one"


def check_what_others_replaced_is_asked():
    """Replacements by other packs still run, inside ours."""
    rules = importlib.import_module(f"{NAME}.guidance.attention")
    blur = functools.partial(rules.smoothed_attention, blur=0.5)
    calls = []

    def attention(q, k, v, extra):
        calls.append("replaced")
        return v

    def block(args, more):
        calls.append("replaced")
        return more["original_block"](args)

    def override(function, *args, **kwargs):
        calls.append("override")
        return function(*args, **kwargs)

    for name in KINDS:
        model = kind_of(name)[0].clone()
        if name == "shapes-unet":
            model.set_model_attn1_replace(attention, "middle", 0)
        else:
            model.set_model_patch_replace(block, "dit", "double_block", 1)
        model.model_options["transformer_options"]["optimized_attention_override"] = override
        chosen, x = HOST.attention_layers(model, ""), torch.randn(1, 4, 12, 8)
        drawn(name, model)
        plain = calls.copy()
        calls.clear()
        predicted(model, name, x, 0.7, (chosen, blur))
        for kind in ("replaced", "override"):  # a call for both prompts in each step, and one for the changed attention
            assert calls.count(kind) == 2 * plain.count(kind), (name, kind)
        calls.clear()


def check_pag_is_core_s_on_unets_and_core_s_does_nothing_on_dits():
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    def core(model):
        return PerturbedAttentionGuidance.execute(model, 2.0).args[0]

    close(drawn("shapes-unet", node("OdeonPAG", scale=2.0)), drawn("shapes-unet", core), 2e-5, "PAG against core's")
    for name in KINDS[1:]:
        close(drawn(name, core), drawn(name), 1e-4, "core's PAG on a transformer")
        assert not torch.allclose(drawn(name, node("OdeonPAG", scale=2.0)), drawn(name), atol=1e-3)


def check_the_same_node_twice_pushes_twice():
    once = node("OdeonPAG", scale=1.5)
    for name in KINDS:
        close(drawn(name, lambda model: once(once(model))), drawn(name, node("OdeonPAG", scale=3.0)), 2e-4, name)
    both = drawn("shapes-unet", lambda model: node("OdeonSEG")(node("OdeonPAG")(model)))
    other = drawn("shapes-unet", lambda model: node("OdeonPAG")(node("OdeonSEG")(model)))
    close(both, other, 2e-4, "PAG and SEG in either order")
    rho = node("OdeonSkipTuning", rho_bottom=0.8, rho_top=0.8)
    squared = node("OdeonSkipTuning", rho_bottom=0.64, rho_top=0.64)
    close(drawn("shapes-unet", lambda model: rho(rho(model))), drawn("shapes-unet", squared), 2e-4, "skips twice")


def check_a_range_saves_the_evaluations_outside_it():
    model = kind_of("shapes-unet")[0]
    counted = []

    def count(executor, x, *args, **kwargs):
        counted.append(len(x))
        return executor(x, *args, **kwargs)

    for inputs, extra in (({}, 3), ({"sigma_end": 1.0}, 2), ({"sigma_start": 1.0}, 1), ({"scale": 0.0}, 0),
                          ({"adaptive": 1.0}, 1)):
        patched = node("OdeonPAG", **inputs)(model)
        patched.add_wrapper(comfy.patcher_extension.WrappersMP.APPLY_MODEL, count)
        counted.clear()
        drawn("shapes-unet", patched)
        assert sum(counted) == 2 * 3 + extra, (inputs, counted)


def check_half_precision_pushes_the_same():
    from comfy.cli_args import args

    rms = {}
    for name in KINDS[:2]:
        patch = node("OdeonPAG", layers=names_of(name))
        full = drawn(name, patch)
        for option in ("bf16_unet", "fp16_unet"):
            setattr(args, option, True)
            kind_of.cache_clear()
            try:
                half = drawn(name, patch)
                blurred = drawn(name, node("OdeonSEG", layers=names_of(name)))
            finally:
                setattr(args, option, False)
                kind_of.cache_clear()
            assert torch.isfinite(blurred).all()
            rms[name, option] = ((half - full).square().mean().sqrt() / full.std()).item()
    assert max(rms.values()) < 0.15, rms


def check_patches_that_change_the_places_are_named():
    model = kind_of("shapes-unet")[0].clone()
    model.set_model_attn1_patch(lambda n, context, value, extra: (
        n, torch.cat([context, context], dim=1), torch.cat([value, value], dim=1)))
    expect_error("another patch joins, splits or adds places", drawn, "shapes-unet",
                 lambda _: node("OdeonSEG", layers="input.1")(model))


if __name__ == "__main__":
    run_checks(globals())
