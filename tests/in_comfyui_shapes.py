"""Checks of the Shapes networks inside ComfyUI, run as in_comfyui.py is: `python in_comfyui_shapes.py COMFYUI_ROOT`."""
import importlib

from comfyui_pack import HOST, NAME, NODES, close, comfy, levels_for, run_checks, sampler, torch

import latent_preview  # isort: skip


def random_network(kind):
    """Our network of a kind with random weights everywhere, its MODEL in ComfyUI, and a CLIP of the text encoder."""
    unet, dit, text, levels = (importlib.import_module(f"{NAME}.models.{name}")
                               for name in ("unet", "dit", "text", "levels"))
    torch.manual_seed(0)
    config = unet.CONFIG if kind == "unet" else dit.CONFIGS["shapes-dit"]
    network = (unet.ShapesUNet() if kind == "unet" else dit.ShapesDiT(config)).eval()
    for value in network.parameters():
        if not value.any():
            torch.nn.init.normal_(value, std=0.05)
    table = levels.DiscreteLevels(rounded=True) if kind == "unet" else levels.FlowLevels(2.0, count=10000, top=1.0)
    model = HOST.make_network(config, network.state_dict(), prediction="eps" if kind == "unet" else "flow",
                              levels=table, rgb_factors=[[0.1, 0.1, 0.1]] * 4, rgb_bias=[0.0, 0.0, 0.0])
    return network, model, HOST.make_clip(text.ShapesTokenizer(), text.ShapesTextEncoder().eval())


def network_run(model, clip, text="a red star on sand", cfg=3.0):
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(words)) for words in (text, ""))
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    latent = torch.zeros(1, 4, 16, 16)
    levels = levels_for("flow" if model.get_model_object("model_sampling").sigma_max <= 1.0 else "eps")
    with torch.inference_mode():
        return guider.sample(comfy.sample.prepare_noise(latent, 5), latent, sampler(), levels, seed=5,
                             disable_pbar=True)


def unet_patches(add, replace, calls):
    """Patches at every place that our network has; each notes where it was called and changes something."""
    def note(name, options):
        size = options["activations_shape"][-2:] if name.startswith("att") else None
        calls.append((name, options["block"], size))

    def heads(value, options):
        return value.unflatten(-1, (options["n_heads"], options["dim_head"])).transpose(1, 2)

    def attention(q, k, v, options):
        note("attention", options)
        q, k, v = (heads(value, options) for value in (q, k, v))
        return ((q @ k.transpose(-1, -2)).softmax(-1) @ v).transpose(1, 2).flatten(-2)

    for name in ("attn1", "attn2"):
        add(lambda q, k, v, o, name=name: (note(name, o), (q * 0.9, k, v * 1.1))[1], f"{name}_patch")
        add(lambda out, o, name=name: (note(f"{name} out", o), out * 0.8)[1], f"{name}_output_patch")
    add(lambda x, o: (note("between", o), x + 0.01)[1], "middle_patch")
    add(lambda h, o: (note("input", o), h * 1.05)[1], "input_block_patch")
    add(lambda h, o: (note("after skip", o), h * 0.95)[1], "input_block_patch_after_skip")
    add(lambda h, skip, o: (note("output", o), (h * 1.02, skip * 0.97))[1], "output_block_patch")
    replace(attention, "attn1", "input", 3)
    replace(attention, "attn2", "output", 2, 0)
    replace(attention, "attn1", "middle", 0)


def dit_patches(add, replace, calls):
    def block(args, more):
        calls.append(sorted(args.keys() - {"transformer_options", "attn_mask"}))
        out = more["original_block"](args)
        return {name: 0.9 * value for name, value in out.items()}

    replace(block, "dit", "double_block", 1)
    replace(block, "dit", "single_block", 2)


def same_with_patches(model, network, patches, inputs):
    """The same patches set on a MODEL of ComfyUI and on ours give the same answer, called with the same things."""
    answers, seen = [], []
    embedded = importlib.import_module(f"{NAME}.host.embedded.model")
    ours = embedded.Model(network, prediction="eps", levels=None, channels=4)
    for patched in (model.clone(), ours):
        calls = []
        patches(patched.set_model_patch, patched.set_model_patch_replace, calls)
        options = patched.model_options["transformer_options"]
        inner = model.model.diffusion_model if patched is not ours else network
        with torch.no_grad():
            answers.append(inner(inputs[0], inputs[1], inputs[2], transformer_options=dict(options)))
        seen.append(calls)
    assert seen[0] and seen[0] == seen[1], (seen[0], seen[1])
    close(answers[0], answers[1], 2e-5, "ComfyUI's network against ours, both patched")
    with torch.no_grad():
        assert not torch.allclose(answers[1], network(*inputs[:3]), atol=1e-3), "the patches did nothing"


def check_shapes_dit_is_comfyui_s_own_network():
    from comfy.ldm.flux.model import Flux

    network, model, clip = random_network("dit")
    inner = model.model.diffusion_model
    assert isinstance(inner, Flux)
    x, sigmas, words, y = (torch.randn(2, 4, 17, 24), torch.tensor([0.01, 1.0]), torch.randn(2, 16, 64),
                           torch.randn(2, 64))
    with torch.no_grad():
        close(inner(x, sigmas, words, y=y), network(x, sigmas, words, y), 2e-5, "ComfyUI's Flux against ours")
    same_with_patches(model, network, dit_patches, (x, sigmas, words))
    plain = network_run(model, clip)
    assert torch.isfinite(plain).all() and torch.equal(plain, network_run(model, clip))
    assert not torch.allclose(plain, network_run(model, clip, "a blue ring on night"), atol=1e-3)
    sampling = model.get_model_object("model_sampling")
    table = importlib.import_module(f"{NAME}.models.levels").FlowLevels(2.0, count=10000, top=1.0)
    close(sampling.sigmas, table.sigmas, 1e-6, "levels")
    close(sampling.timestep(sampling.sigmas), table.timestep(table.sigmas), 1e-6, "timesteps")


def check_shapes_unet_is_comfyui_s_own_network():
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    network, model, clip = random_network("unet")
    inner = model.model.diffusion_model
    assert isinstance(inner, UNetModel)
    x, times, words = torch.randn(2, 4, 17, 24), torch.tensor([3.0, 900.0]), torch.randn(2, 16, 64)
    with torch.no_grad():
        close(inner(x, times, context=words), network(x, times, words), 2e-5, "ComfyUI's UNetModel against ours")
    same_with_patches(model, network, unet_patches, (x, times, words))
    plain = network_run(model, clip)
    assert torch.isfinite(plain).all() and torch.equal(plain, network_run(model, clip))
    assert not torch.allclose(plain, network_run(model, clip, "a blue ring on night"), atol=1e-3)

    seen = []
    patched = model.clone()
    patched.set_model_attn2_patch(lambda q, k, v, options: seen.append(options["block"]) or (q, k, v * 0.5))
    assert not torch.allclose(network_run(patched, clip), plain, atol=1e-3)
    assert {block[0] for block in seen} == {"input", "middle", "output"}

    key = "diffusion_model.out.2.weight"
    changed = model.clone()
    changed.add_patches({key: (torch.full_like(model.model_state_dict()[key], 0.01),)}, 1.0)
    assert not torch.allclose(network_run(changed, clip), plain, atol=1e-3), "a weight patch did nothing"
    close(network_run(model, clip), plain, 1e-5, "the run after a weight patch")


def check_levels_with_a_pure_noise_end_are_comfyui_s():
    sampling = comfy.model_sampling.ModelSamplingDiscrete(zsnr=True)
    table = importlib.import_module(f"{NAME}.models.levels").DiscreteLevels(rounded=True, zero_terminal=True)
    assert float(table.sigma_max) > 4000.0
    # float32 in theirs: near pure noise 1 - abar cancels, so sigma is held to its 999 table places
    close(table.sigmas.log(), sampling.sigmas.log(), 2e-3, "levels")
    assert torch.equal(sampling.timestep(sampling.sigmas), table.timestep(table.sigmas).to(torch.int64))


def check_every_shipped_model_is_a_checkpoint_to_core_nodes():
    weights = importlib.import_module(f"{NAME}.models.weights")
    for name in weights.NETWORKS:
        model, clip, vae = NODES["OdeonShapesCheckpoint"]().load(name)
        out = network_run(model, clip)
        assert torch.isfinite(out).all() and out.std() > 0.1
        picture = vae.decode(out)
        assert picture.shape == (1, 128, 128, 3) and picture.std() > 0.02
        assert vae.encode(picture).shape == (1, 4, 16, 16)
        previewer = latent_preview.Latent2RGBPreviewer(model.model.latent_format.latent_rgb_factors,
                                                       model.model.latent_format.latent_rgb_factors_bias)
        shown = previewer.decode_latent_to_preview(out)
        small = picture[0].movedim(-1, 0)[None]
        small = torch.nn.functional.interpolate(small, size=(16, 16), mode="area")[0]
        pixels = torch.tensor(list(shown.getdata())).reshape(16, 16, 3).movedim(-1, 0) / 255.0
        assert (pixels - small).abs().mean() < 0.12, "the preview does not look like the picture"


def check_half_precision_draws_the_same():
    """What ComfyUI's --bf16-unet and --fp16-unet do: weights in half precision, the same picture to the eye."""
    from comfy.cli_args import args

    load = NODES["OdeonShapesCheckpoint"]().load
    for name in importlib.import_module(f"{NAME}.models.weights").NETWORKS:
        model, clip, _ = load(name)
        full = network_run(model, clip)
        for option, dtype in (("bf16_unet", torch.bfloat16), ("fp16_unet", torch.float16)):
            setattr(args, option, True)
            try:
                half, clip, _ = load(name)
            finally:
                setattr(args, option, False)
            assert half.model.diffusion_model.dtype == dtype
            out = network_run(half, clip)
            assert (out - full).square().mean().sqrt() < 0.1 * full.std(), (name, dtype)


if __name__ == "__main__":
    run_checks(globals())
