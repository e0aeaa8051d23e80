"""Checks of conditions, batches, CFG++, adapters and SDXL's layers inside ComfyUI, run as in_comfyui.py is."""
import importlib

from comfyui_pack import (
    HOST,
    NAME,
    NODES,
    build,
    close,
    comfy,
    defaults,
    expect_error,
    run_checks,
    sampler,
    torch,
    toy,
    word,
)

LEVELS = torch.tensor([14.6, 5.0, 2.0, 0.8, 0.0])
FLOW = torch.tensor([0.98, 0.8, 0.6, 0.3, 0.0])


def drawn(model, solver=None, *, cfg=3.0, count=1, seed=5, sigmas=LEVELS, mask=None, negative=True, positive=None):
    """A run on a toy or other model: conditions are word(0.3) and word(-0.2) unless told."""
    guider = comfy.samplers.CFGGuider(model)
    conds = {"positive": positive or word(0.3), "negative": word(-0.2)}
    guider.inner_set_conds(conds if negative else {"positive": conds["positive"]})
    guider.set_cfg(cfg)
    latent = torch.full((count, 4, 8, 8), 0.2) * (mask is not None)
    with torch.inference_mode():
        return guider.sample(comfy.sample.prepare_noise(torch.zeros(count, 4, 8, 8), seed), latent,
                             solver or sampler(), sigmas, denoise_mask=mask, disable_pbar=True, seed=seed)


def wrapped(inner, **options):
    return build("OdeonWrapCFGPP", sampler=inner, **{"history": "guided", **options})[0]


def check_cfg_pp_is_core_s_on_our_plans():
    """ComfyUI's euler_cfg_pp and dpmpp_2m_cfg_pp, at CFG 0 to 1 and beyond, under guidance patches."""
    ddim = sampler(1)
    multi = defaults("OdeonSamplerDPMSolverPP", lower_order_below=0)
    for prediction, sigmas in (("eps", LEVELS), ("flow", FLOW)):
        model = toy(prediction)[0]
        model.set_model_sampler_post_cfg_function(lambda args: args["denoised"] + 0.05)
        for cfg in (0.0, 0.6, 1.0, 1.5):
            theirs = drawn(model, comfy.samplers.ksampler("euler_cfg_pp"), cfg=cfg, sigmas=sigmas)
            close(drawn(model, wrapped(ddim), cfg=cfg, sigmas=sigmas), theirs, 2e-5, f"euler, {prediction}, {cfg}")
            if prediction == "eps":
                theirs = drawn(model, comfy.samplers.ksampler("dpmpp_2m_cfg_pp"), cfg=cfg)
                close(drawn(model, wrapped(multi, history="uncond"), cfg=cfg), theirs, 2e-5, f"2M, {cfg}")


def check_cfg_pp_under_masks_batches_and_twice():
    model, solver = toy()[0], wrapped(sampler(2))
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:6] = 1.0
    whole = drawn(model, solver, cfg=0.7, count=3)
    assert torch.equal(whole, drawn(model, solver, cfg=0.7, count=3))
    close(drawn(model, solver, cfg=0.7, count=1), whole[:1], 1e-5, "a batch's first picture")
    masked = drawn(model, solver, cfg=0.7, mask=mask)
    assert torch.equal(masked[..., :2], torch.full_like(masked[..., :2], 0.2))
    stopped = drawn(model, solver, cfg=0.7, mask=mask, sigmas=LEVELS[:-1])
    plain = drawn(model, sampler(2), cfg=0.7, mask=mask, sigmas=LEVELS[:-1])
    close(stopped[..., :2], plain[..., :2], 1e-5, "the kept part of a run that stops early")
    both = build("OdeonWrapUniC", sampler=wrapped(sampler(2)), order=2, variant="bh2", uncorrected=0)[0]
    assert not torch.allclose(drawn(model, both, cfg=0.7), drawn(model, solver, cfg=0.7), atol=1e-5)


def check_cfg_pp_names_what_it_lacks():
    model = toy()[0]
    expect_error("needs a negative prompt", drawn, model, wrapped(sampler(1)), cfg=0.7, negative=False)
    saving = HOST.patch_evaluation(model, lambda: lambda call: call.predict("cond", "uncond"))
    expect_error("CFG++ sampler", drawn, saving, wrapped(sampler(1)), cfg=0.7)
    expect_error("choose 'guided'", drawn, model, wrapped(defaults("OdeonSamplerUniPC", prediction="noise"),
                                                          history="uncond"), cfg=0.7)


def seen_conditions(model, inputs, *, count=2, cfg=3.0):
    """[(kinds, context, y)] of every call of the network in a run."""
    seen = []

    def look(executor, x, t, c_concat, c_crossattn, control, options, **others):
        seen.append((options["cond_or_uncond"], c_crossattn.clone(), others.get("y")))
        return executor(x, t, c_concat, c_crossattn, control, options, **others)

    patched = defaults("OdeonCADS", model=model, **inputs)
    patched.add_wrapper(comfy.patcher_extension.WrappersMP.APPLY_MODEL, look)
    words = torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(2))
    drawn(patched, count=count, cfg=cfg, positive=[[words, {}]])
    return words, seen


def check_cads_changes_the_positive_of_each_picture_in_its_own_way():
    words, seen = seen_conditions(toy()[0], {})
    for step, (kinds, context, _) in enumerate(seen):
        pieces = dict(zip(kinds, context.chunk(len(kinds))))
        assert torch.equal(pieces[1], torch.full_like(pieces[1], -0.2)), "the negative changed"
        one, two = pieces[0]
        whole = step >= 2  # sigma 2 is at time 0.63, 0.8 below 0.6
        if step == 0:
            assert not torch.allclose(one, two, atol=0.05) and not torch.allclose(one, words[0], atol=0.05)
            close(one.mean(), words.mean(), 1e-5, "the mean")
            close(one.std(), words.std(), 1e-5, "the spread")
        elif whole and step == 3:
            assert torch.equal(one, words[0]) and torch.equal(two, words[0])
    assert not torch.equal(seen[0][1], seen[1][1])
    _, both = seen_conditions(toy()[0], {"apply_to": "both"})
    kinds, context, _ = both[0]
    pieces = dict(zip(kinds, context.chunk(len(kinds))))
    assert torch.isfinite(context).all() and torch.equal(pieces[0], dict(zip(
        seen[0][0], seen[0][1].chunk(2)))[0]), "the positive's noise depends on the negative's"


def start_of_cads(model):
    """What the CADS node gives the host."""
    found, kept = [], HOST.patch_conditions
    HOST.patch_conditions = lambda model, start: found.append(start) or kept(model, start)
    try:
        defaults("OdeonCADS", model=model, target="both", seed=3)
    finally:
        HOST.patch_conditions = kept
    return found[0]


def check_cads_in_both_hosts_draws_the_same():
    embedded = importlib.import_module(f"{NAME}.host.embedded")
    for name, sigmas in (("shapes-unet", LEVELS), ("shapes-dit", FLOW)):
        trained = importlib.import_module(f"{NAME}.models.weights").shapes_network(name)
        ours = embedded.make_network(trained.config, trained.weights, prediction=trained.prediction,
                                     levels=trained.levels, rgb_factors=None, rgb_bias=None)
        model, clip, _ = NODES["OdeonShapesCheckpoint"]().load(name)
        words = clip.encode_from_tokens_scheduled(clip.tokenize("a red star on sand"))
        patched = defaults("OdeonCADS", model=model, target="both", seed=3)
        found = drawn(patched, sampler(1), cfg=1.0, count=2, sigmas=sigmas, positive=words, negative=False)
        rules = embedded.patch_conditions(ours, start_of_cads(model))
        noise = comfy.sample.prepare_noise(torch.zeros(2, 4, 8, 8), 5)
        solver = embedded.solver(sampler(1).sampler_function.plan_and_options[0], order=1, eta=0.0, s_noise=1.0)
        with torch.inference_mode():
            other = embedded.Guider(rules, words, None, 1.0).sample(noise, torch.zeros_like(noise), solver, sigmas)
        assert (found - other).square().mean().sqrt() < 5e-3 * other.std(), name


def check_sdxl_s_names():
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    layers = importlib.import_module(f"{NAME}.host.attention")
    network = UNetModel(image_size=32, in_channels=4, out_channels=4, model_channels=32, num_res_blocks=[2, 2, 2],
                        channel_mult=(1, 2, 4), transformer_depth=[0, 0, 2, 2, 10, 10], transformer_depth_middle=10,
                        transformer_depth_output=[0, 0, 0, 2, 2, 2, 10, 10, 10], context_dim=32, num_head_channels=32,
                        use_spatial_transformer=True, use_linear_in_transformer=True, dtype=torch.float32,
                        operations=comfy.ops.disable_weight_init)
    found = layers.layers_of(network)
    assert layers.listed(found) == ("input.4-5.0-1, input.7-8.0-9, middle.0.0-9, output.0-2.0-9, output.3-5.0-1")
    assert len(found) == 70
    assert layers.named_layers(network, "middle.0.3-5, input.7.0") == (
        ("input", 7, 0), ("middle", 0, 3), ("middle", 0, 4), ("middle", 0, 5))
    assert len(layers.named_layers(network, "")) == 10
    assert layers.skip_levels(network) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def check_dynamic_cfg_fades_in():
    """At time 0.9 and above the CFG is 1: the negative is not evaluated there."""
    patched = defaults("OdeonCADS", model=toy()[0], dynamic_cfg=True)
    kinds = []

    def look(executor, x, t, c_concat, c_crossattn, control, options, **others):
        kinds.append(sorted(options["cond_or_uncond"]))
        return executor(x, t, c_concat, c_crossattn, control, options, **others)

    patched.add_wrapper(comfy.patcher_extension.WrappersMP.APPLY_MODEL, look)
    drawn(patched)
    assert kinds[0] == [0] and kinds[-1] == [0, 1], kinds


def check_repulsion_pushes_a_batch_apart_and_leaves_one_alone():
    for prediction, sigmas in (("eps", LEVELS), ("flow", FLOW)):
        model = toy(prediction)[0]
        for kernel in ("latent", "x0"):
            patched = defaults("OdeonParticleRepulsion", model=model, coeff=30.0, kernel=kernel, sigma_break=0.5)
            close(drawn(patched, sigmas=sigmas), drawn(model, sigmas=sigmas), 0.0, "a single picture")
            plain, pushed = (drawn(each, count=3, sigmas=sigmas) for each in (model, patched))
            assert torch.equal(pushed, drawn(patched, count=3, sigmas=sigmas))
            apart = [torch.pdist(out.flatten(1)).mean() for out in (plain, pushed)]
            assert apart[1] > apart[0] * 1.0005, (prediction, kernel, apart)


def trained_adapter(model, recorded, name):
    """From AGD: train and its file."""
    found = build("OdeonAGDTrain", model=model, trajectories=recorded, name=name, hidden=16, iterations=4, picks=2,
                  rate=0.003, start_seed=0)["result"][0]
    loaded, = build("OdeonAGDApply", model=model, scale=3.0, name=name)
    assert loaded.model is model.model
    return found


def check_adapters_train_and_apply():
    for name, sigmas in (("shapes-unet", LEVELS[2:]), ("shapes-dit-small", FLOW[2:])):
        model, clip, _ = NODES["OdeonShapesCheckpoint"]().load(name)
        positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a red star", ""))
        latent = {"samples": torch.zeros(2, 4, 8, 8)}
        asked = {"cfg": 1.0, "count": 2, "sigmas": sigmas, "positive": positive, "negative": False}
        plain = drawn(model, **asked)
        with torch.inference_mode():
            recorded, = build("OdeonAGDRecord", model=model, positive=positive, negative=negative, sigmas=sigmas,
                              latent=latent, cfg_min=2.0, cfg_max=4.0, runs=1, start_seed=0)
            adapter = trained_adapter(model, recorded, name)
            patched, = build("OdeonAGDApply", model=model, scale=3.0, name="connected", adapter=adapter)
        out = drawn(patched, **asked)
        assert torch.isfinite(out).all() and not torch.allclose(out, plain, atol=1e-4), name
        broken = model.model.diffusion_model.register_forward_hook(lambda module, inputs, out: out * float("nan"))
        expect_error("the model returned NaN or infinite values", drawn, patched, **asked)
        broken.remove()
        assert torch.equal(out, drawn(patched, **asked))
        close(drawn(patched, **{**asked, "count": 1}), out[:1], 1e-3, "a batch's first picture")
        close(drawn(model, **asked), plain, 0.0, "the model itself")
        weights = {key: value * (".to_out." not in key) for key, value in adapter["weights"].items()}
        zero = {**adapter, "weights": weights}
        idle, = build("OdeonAGDApply", model=model, scale=3.0, name="connected", adapter=zero)
        assert torch.equal(drawn(idle, **asked), plain), "adapters of 0"


if __name__ == "__main__":
    run_checks(globals())
