"""Checks of steered editing inside ComfyUI, run as in_comfyui.py is: `in_comfyui_editing_control.py COMFYUI_ROOT`."""
import functools

from comfyui_pack import HOST, NODES, build, close, comfy, expect_error, run_checks, torch


def made(name, **changes):
    """The outputs of a node as it comes from the menu, with changes, run as the server does."""
    inputs = {key: spec[1]["default"] for group in NODES[name].INPUT_TYPES().values() for key, spec in group.items()
              if "default" in spec[1]}
    with torch.inference_mode():
        out = build(name, **{**inputs, **changes})
        return out["result"] if isinstance(out, dict) else out


@functools.cache
def checkpoint(kind="shapes-unet"):
    with torch.inference_mode():
        return NODES["OdeonShapesCheckpoint"]().load(kind)


def words(text, kind="shapes-unet"):
    clip = checkpoint(kind)[1]
    with torch.inference_mode():
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))


@functools.cache
def pictures(count=2):
    return made("OdeonShapes", count=count, size=64, data_seed=4)[0]


def odd(count):
    """Pictures of 61 x 58 px with transparency."""
    return torch.cat([pictures(count)[:, :58, :61], torch.rand(count, 58, 61, 1)], -1)


def encoded(count=2, kind="shapes-unet"):
    with torch.inference_mode():
        return {"samples": checkpoint(kind)[2].encode(pictures(count))}


def common(kind):
    return {"model": checkpoint(kind)[0], "positive": words("a red star", kind)}


def dragging(kind, **changes):
    return {**common(kind), "vae": checkpoint(kind)[2], "image": odd(1), "points": "20,30 -> 40,30",
            "steps": 4, "strength": 0.6, "n_pix_step": 2, "lr": 0.05, **changes}


def check_dragging_passes_gradients_and_gives_the_model_back():
    for kind in ("shapes-unet", "shapes-dit-small"):
        network = checkpoint(kind)[0].model.diffusion_model
        kept = {name: value.clone() for name, value in network.state_dict().items()}
        out, report = made("OdeonDrag", **dragging(kind))
        assert out.shape == (1, 58, 61, 3) and torch.isfinite(out).all() and "wanted 40,30" in report
        still, _ = made("OdeonDrag", **dragging(kind, points=""))
        assert (still - out).abs().max() > 1e-3, kind
        assert torch.equal(made("OdeonDrag", **dragging(kind))[0], out), kind
        assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())
        assert not any("forward" in vars(module) for module in network.modules())


def check_an_interrupted_drag_ends_with_the_best_so_far():
    stop, calls, last = comfy.model_management.InterruptProcessingException, [], []
    check = comfy.model_management.throw_exception_if_processing_interrupted

    def interrupt():
        calls.append(1)
        if [len(calls)] == last:
            raise stop()

    options = dragging("shapes-dit-small", n_pix_step=12)
    comfy.model_management.throw_exception_if_processing_interrupted = interrupt
    try:
        made("OdeonDrag", **{**options, "points": "20,30 -> 41,30"})
        last.append(len(calls) // 2)  # in the midst of dragging, however often a version asks
        calls.clear()
        made("OdeonDrag", **options)
        raise AssertionError("it was not interrupted")
    except stop:
        pass
    finally:
        comfy.model_management.throw_exception_if_processing_interrupted = check
    left = list((HOST.folder("partial")).glob("*.safetensors"))
    assert len(left) == 1, left
    made("OdeonDrag", **{**options, "n_pix_step": 1})
    assert not left[0].is_file()


def check_larger_pictures_and_tiles():
    for kind in ("shapes-unet", "shapes-dit-small"):
        options = {**common(kind), "negative": words("", kind), "vae": checkpoint(kind)[2], "image": odd(2),
                   "scales": "1.5", "cfg": 3.0, "steps": 6, "noising_steps": 2, "dwt_steps": 1}
        out, = made("OdeonDiffuseHigh", **options)
        assert out.shape == (2, 87, 92, 3) and torch.isfinite(out).all(), kind
        alone, = made("OdeonDiffuseHigh", **{**options, "image": options["image"][1:]})
        close(alone, out[1:], 5e-3, kind)
    large = pictures(1)[:, :32].repeat(1, 1, 9, 1)
    plain, tiled = (made("OdeonDiffuseHigh", **{**options, "image": large, "scales": "1.01", "noising_steps": 1,
                                                "tiled_vae": tiles})[0] for tiles in (False, True))
    assert plain.shape == (1, 32, 582, 3)
    close(tiled, plain, 0.2, "tiles")
    assert (tiled - plain).abs().mean() < 0.01
    mixed, = made("OdeonWaveletMix", low=pictures(), details=pictures())
    close(mixed, pictures(), 1e-5, "one picture with itself")


def check_rounds_of_pie():
    for kind in ("shapes-unet", "shapes-dit-small"):
        latent, mask = encoded(kind=kind), torch.zeros(1, 64, 64)
        mask[..., 32:] = 1.0
        options = {**common(kind), "negative": words("", kind), "n_steps": 2, "steps": 10, "strength": 0.4, "cfg": 3.0}
        out, = made("OdeonPIE", latent=latent, mask=mask, beta_1=0.0, **options)
        frames = out["samples"].unflatten(0, (3, 2))
        close(frames[..., :4], latent["samples"].expand(3, 2, 4, 8, 8)[..., :4], 1e-6, kind)
        assert (frames[1:, ..., 4:] - latent["samples"][..., 4:]).abs().max() > 0.05, kind


def check_boundaries():
    for kind, level in (("shapes-unet", 1.5), ("shapes-dit-small", 0.5)):
        options = {"model": checkpoint(kind)[0], "conditioning": words("", kind)}
        latents = encoded(6, kind)["samples"]
        boundary, report = made("OdeonBoundarySearch", latents_positive={"samples": latents[:3]}, steps=4,
                                latents_negative={"samples": latents[3:]}, sigma_mix=level, **options)
        assert "apart" in report
        outs = [made("OdeonBoundaryEdit", latent={"samples": latents[3:]}, boundary=boundary, eta=0.0,
                     distance=boundary.z.gap, space=space, **options)[0]["samples"] for space in ("z", "h", "both")]
        assert all(torch.isfinite(out).all() for out in outs)
        assert (outs[0] - outs[1]).abs().max() > 0.01 and (outs[0] - outs[2]).abs().max() > 1e-4, kind


def check_bad_input_of_control_is_named():
    expect_error("lies outside the picture of 61 x 58 px", lambda: made("OdeonDrag", **dragging(
        "shapes-dit-small", points="1,1 -> 61,1")))
    expect_error("scales must be rising factors", lambda: made(
        "OdeonDiffuseHigh", **common("shapes-dit-small"), negative=words(""), vae=checkpoint()[2], image=pictures(1),
        scales="2, 1"))


if __name__ == "__main__":
    run_checks(globals())
