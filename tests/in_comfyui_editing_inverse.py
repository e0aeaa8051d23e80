"""Checks of nodes that keep a known part or restore a picture inside ComfyUI, run as in_comfyui.py is:
`in_comfyui_editing_inverse.py COMFYUI_ROOT`."""
import functools
import importlib
import logging

from comfyui_pack import NAME, NODES, build, close, comfy, expect_error, levels_for, run_checks, sample, torch, toy

LATENT = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
FEW = torch.tensor([14.6, 3.0, 1.0, 0.3, 0.0])


def made(name, **changes):
    """The outputs of a node as it comes from the menu, with changes, run as the server does."""
    inputs = {key: spec[1]["default"] for group in NODES[name].INPUT_TYPES().values() for key, spec in group.items()
              if "default" in spec[1]}
    with torch.inference_mode():
        return build(name, **{**inputs, **changes})


def right_half(size):
    mask = torch.zeros(1, size, size)
    mask[..., size // 2:] = 1.0
    return mask


@functools.cache
def checkpoint(kind="shapes-unet"):
    with torch.inference_mode():
        return NODES["OdeonShapesCheckpoint"]().load(kind)


def words(text, kind="shapes-unet"):
    clip = checkpoint(kind)[1]
    with torch.inference_mode():
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def draw(sampler, *, model=None, kind="shapes-unet", steps=3, latent=None, positive=None, callback=None, cfg=2.0,
         mask=None, levels=None):
    guider = comfy.samplers.CFGGuider(checkpoint(kind)[0] if model is None else model)
    with torch.inference_mode():
        positive = words("a large green star in the middle on sand", kind) if positive is None else positive
        guider.set_conds(positive, words("", kind) if model is None else positive)
        guider.set_cfg(cfg)
        latent = torch.zeros(1, 4, 8, 8) if latent is None else latent
        return guider.sample(comfy.sample.prepare_noise(latent, 5), latent, sampler,
                             levels_for("flow" if "dit" in kind else "eps", steps) if levels is None else levels,
                             disable_pbar=True, seed=5, callback=callback, denoise_mask=mask)


def check_kept_parts_are_exact_and_masks_are_the_latent_s_too():
    for prediction in ("eps", "v", "flow"):
        for node, options in (("OdeonSamplerRePaint", {"jump_length": 2, "resamples": 2}), ("OdeonSamplerImpute", {})):
            own, plain = (made(node, **options, **more)[0] for more in ({"mask": right_half(8)}, {}))
            out = sample(toy(prediction)[0], own, levels_for(prediction), LATENT)
            close(out[..., :4], LATENT[..., :4], 1e-5, (node, prediction))
            assert (out[..., 4:] - LATENT[..., 4:]).abs().mean() > 0.1, (node, prediction)
            of_run = sample(toy(prediction)[0], plain, levels_for(prediction), LATENT,
                            mask=right_half(8).expand(2, 8, 8))
            close(of_run, out, 1e-5, (node, prediction))
            expect_error("two masks", sample, toy(prediction)[0], own, levels_for(prediction), LATENT,
                         mask=right_half(8))
            single = sample(toy(prediction)[0], own, levels_for(prediction), LATENT[:1],
                            noise=comfy.sample.prepare_noise(LATENT, 5)[:1])
            close(single, out[:1], 1e-4, "a batch")


def check_a_latent_of_another_scale_is_kept_as_it_is():
    """SD1.5's latents are multiplied on their way into a run; `known` is, too."""
    import comfy.latent_formats

    model = toy("eps")[0].clone()
    model.model.latent_format = comfy.latent_formats.SD15()
    for node in ("OdeonSamplerRePaint", "OdeonSamplerImpute"):
        one, other = (made(node, mask=right_half(8), **more)[0] for more in ({}, {"known": {"samples": LATENT}}))
        out = sample(model, one, levels_for("eps"), LATENT)
        close(out[..., :4], LATENT[..., :4], 1e-4, node)
        # the start differs, the noise of the kept half does not
        close(sample(model, other, levels_for("eps"), torch.zeros_like(LATENT))[..., :4], out[..., :4], 1e-4, node)


def check_colours_of_pixels_come_back_and_latents_are_refused():
    images, captions = made("OdeonShapes", count=24, size=64, data_seed=3)
    model, clip, vae = made("OdeonClosedFormModel", images=images, captions=captions)
    with torch.inference_mode():
        everything = clip.encode_from_tokens_scheduled(clip.tokenize(""))
        latent = vae.encode(made("OdeonOperator", image=images[:8], kind="grey")[1])
        out = vae.decode(draw(made("OdeonColorize", corrections=3)[0], model=model, latent=latent, positive=everything,
                              levels=torch.cat([torch.logspace(1.16, -1.5, 30), torch.zeros(1)]), cfg=1.0))
    right = (out.cpu() - images[:8]).square().mean((1, 2, 3)).sqrt() < 0.01
    assert right.sum() >= 4, right  # the others get the colours of a drawing with a similar grey
    expect_error("OdeonSamplerInverseProblem", draw, made("OdeonColorize")[0], latent=LATENT[:1])


def check_the_embedded_runner_s_mask_nodes_are_comfyui_s():
    from comfy_extras.nodes_mask import MaskComposite, SolidMask

    masks = importlib.import_module(f"{NAME}.host.embedded.core_masks")
    ours, theirs = (call(masks.SolidMask, "solid", 0.6, 10, 8), call(SolidMask, "solid", 0.6, 10, 8))
    assert torch.equal(ours, theirs)
    for operation in ("multiply", "add", "subtract", "and", "or", "xor"):
        for x, y in ((0, 0), (3, 2), (7, 6)):
            both = [call(node, "combine", ours, torch.full((2, 5, 6), 0.8)[:1], x, y, operation)
                    for node in (masks.MaskComposite, MaskComposite)]
            assert torch.equal(*both), (operation, x, y)


def call(node, name, *inputs):
    """The first output of a node of either form."""
    found = getattr(node, "execute", None) or getattr(node(), name)
    return found(*inputs)[0]


def restoring(kind, what="downscale", **changes):
    images, _ = made("OdeonShapes", count=2, size=64, data_seed=3)
    operator, measurement = made("OdeonOperator", image=images[:1], kind=what, mask=right_half(64))
    return made("OdeonSamplerInverseProblem", operator=operator, vae=checkpoint(kind)[2],
                **{"measurement": measurement, **changes})[0]


def check_sizes_that_the_vae_can_t_divide_lose_nothing_measured():
    images, _ = made("OdeonShapes", count=1, size=128, data_seed=3)
    picture = torch.cat([images[:, :62, :66], torch.rand(1, 62, 66, 1)], -1)
    operator, measurement = made("OdeonOperator", image=picture, kind="jpeg")
    sampler = made("OdeonSamplerInverseProblem", operator=operator, measurement=measurement,
                   vae=checkpoint("shapes-dit")[2])[0]
    out = draw(sampler, kind="shapes-dit", latent=torch.zeros(1, 4, 8, 9))
    record = sampler.sampler_function.options["record"]
    assert out.shape == (1, 4, 8, 9) and torch.isfinite(out).all() and record[-1][1][0] < record[0][1][0], record


def told(function):
    """The log lines of a call."""
    lines, root = [], logging.getLogger()

    class Keep(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())

    handler, level = Keep(), root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        function()
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    return lines


def check_restoring_passes_every_network_and_says_its_memory_once():
    for kind in ("shapes-unet", "shapes-dit"):
        kept = {name: value.clone() for name, value in checkpoint(kind)[0].model.diffusion_model.state_dict().items()}
        for what, method in (("downscale", "psld"), ("inpaint", "stsl")):
            sampler = restoring(kind, what, method=method, inner=2)
            lines = told(functools.partial(draw, sampler, kind=kind, positive=words("", kind), steps=4,
                                           levels=None if "dit" in kind else FEW))
            for part in ("network", "decoder", "encoder"):
                assert sum(f"a gradient through the {part} takes about" in line for line in lines) == 1, (part, lines)
            assert any("rms residual" in line for line in lines), lines
            record = sampler.sampler_function.options["record"]
            assert record[-1][1][0] < 0.9 * record[0][1][0], (kind, what, record)
            report, _ = made("OdeonResidualCurve", sampler=sampler, latent={})["result"]
            assert f"{record[-1][1][0]:.4f} at the end" in report
        network = checkpoint(kind)[0].model.diffusion_model
        assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())
        assert not any("forward" in vars(module) for module in network.modules())


def check_without_pull_it_is_ddim_and_the_embedded_runner_s():
    plain = draw(made("OdeonSamplerDDIM")[0])
    assert torch.equal(draw(restoring("shapes-unet", zeta=0.0)), plain)


def check_a_stop_gives_the_best_so_far():
    def stop(step, denoised, *_):
        seen.append(denoised)
        if step == 1:
            raise comfy.model_management.InterruptProcessingException

    sampler, seen = restoring("shapes-unet"), []
    whole = draw(sampler)
    out = draw(sampler, callback=stop)
    kept = [value for _, (value,) in sampler.sampler_function.options["record"]]
    close(out, seen[kept.index(min(kept))], 1e-6, "the best")
    assert torch.equal(draw(sampler), whole)


def check_masked_runs_keep_their_part():
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    out = draw(restoring("shapes-unet", zeta=0.3), latent=latent, mask=right_half(8))
    close(out[..., :4], latent[..., :4], 1e-5, "what is kept")
    assert torch.isfinite(out).all()


if __name__ == "__main__":
    run_checks(globals())
