"""Checks of guidance by gradients inside ComfyUI, run as in_comfyui.py is: `in_comfyui_gradient.py COMFYUI_ROOT`."""
import functools
import importlib
import logging

from comfyui_pack import HOST, NAME, NODES, build, close, comfy, expect_error, levels_for, run_checks, torch

PRECISIONS = {"fp32": None, "bf16": "bf16_unet", "fp16": "fp16_unet"}


def made(name, /, **changes):
    """The first output of a node as it comes from the menu, with changes, run as the server does."""
    inputs = {key: spec[1]["default"] for group in NODES[name].INPUT_TYPES().values() for key, spec in group.items()
              if "default" in spec[1]}
    with torch.inference_mode():
        return build(name, **{**inputs, **changes})[0]


@functools.cache
def checkpoint(kind="shapes-unet", precision="fp32"):
    from comfy.cli_args import args

    if PRECISIONS[precision]:
        setattr(args, PRECISIONS[precision], True)
    try:
        with torch.inference_mode():
            return NODES["OdeonShapesCheckpoint"]().load(kind)
    finally:
        if PRECISIONS[precision]:
            setattr(args, PRECISIONS[precision], False)


def words(text, kind="shapes-unet"):
    clip = checkpoint(kind)[1]
    with torch.inference_mode():
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def draw(model, *, kind="shapes-unet", sampler=None, cfg=3.0, noise=None, mask=None, steps=3, negative="",
         callback=None):
    guider = comfy.samplers.CFGGuider(model)
    with torch.inference_mode():
        guider.set_conds(words("a large green star in the middle on sand", kind),
                         [] if negative is None else words(negative, kind))
        guider.set_cfg(cfg)
        noise = comfy.sample.prepare_noise(torch.zeros(1, 4, 8, 8), 5) if noise is None else noise
        sampler = made("OdeonSamplerExponentialAdams", order=1) if sampler is None else sampler
        return guider.sample(noise, torch.zeros_like(noise), sampler, levels_for("flow" if "dit" in kind else "eps",
                                                                                 steps),
                             denoise_mask=mask, disable_pbar=True, seed=5, callback=callback)


def dark(vae=None):
    return made("OdeonLossColour", measure="brightness", red=0.2, green=0.2, blue=0.2)


def red():
    return made("OdeonShapesClassifier", about="colour")


def nodes_on(kind="shapes-unet", precision="fp32", neutral=False, model=None):
    """MODELs under each gradient node."""
    own, _, vae = checkpoint(kind, precision)
    model = own if model is None else model
    scale = (lambda value: 0.0) if neutral else (lambda value: value)
    loss = {"model": model, "loss": dark(), "vae": vae}
    pushed = {"model": model, "classifier": red(), "target": "red", "vae": vae}
    found = {
        "network": made("OdeonLossGuidance", **loss, scale=scale(0.1)),
        "positive": made("OdeonLossGuidance", **loss, scale=scale(3.0), grad_through="positive", step_size="dps"),
        "x0 only": made("OdeonLossGuidance", **loss, scale=scale(0.2), grad_through="x0 only",
                        backward_steps=0 if neutral else 1),
        "denoised": made("OdeonClassifierGuidance", **pushed, scale=scale(10.0)),
        "textbook": made("OdeonClassifierGuidance", **pushed, scale=scale(5.0), form="textbook", grad_norm=False),
        "self-guided": made("OdeonMinoritySelfGuided", model=model, scale=scale(2.0), every=2)}
    if kind == "shapes-unet":
        rare = made("OdeonLoadClassifier", name="shapes-unet-minority", sees="noisy latent", labels="4")
        found["minority"] = made("OdeonMinorityGuidance", model=model, classifier=rare, scale=scale(20.0))
    return found


def stray(model):
    """What another node does to a MODEL."""
    patched = model.clone()
    patched.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * 0.98)
    patched.set_model_attn2_patch(lambda q, k, v, options: (q, k, v * 0.9))
    return patched


def check_gradients_pass_every_network_and_precision():
    names = ("network", "textbook", "self-guided")
    for kind in ("shapes-unet", "shapes-dit"):
        moved = {}
        for precision in PRECISIONS:
            plain, own = draw(checkpoint(kind, precision)[0], kind=kind), nodes_on(kind, precision)
            for name in names:
                moved[name, precision] = draw(own[name], kind=kind) - plain
                off = moved[name, precision] - moved[name, "fp32"]
                size = moved[name, precision].square().mean()
                assert torch.isfinite(size) and size > 1e-5, (kind, precision, name)
                assert off.square().mean() < 0.2 * size + 1e-4, (kind, precision, name)


def check_comfyui_s_own_gradient_is_the_embedded_network_s():
    """The same direction drawn back through ComfyUI's network in inference mode, and through ours by plain autograd."""
    shapes = importlib.import_module(f"{NAME}.models.weights")
    unet, dit = (importlib.import_module(f"{NAME}.models.{name}") for name in ("unet", "dit"))
    gradient = importlib.import_module(f"{NAME}.guidance.gradient")
    for kind in ("shapes-unet", "shapes-dit"):
        trained, found = shapes.shapes_network(kind), []
        ours = unet.ShapesUNet() if kind == "shapes-unet" else dit.ShapesDiT(trained.config)
        ours.load_state_dict(trained.weights)
        sampling = checkpoint(kind)[0].get_model_object("model_sampling")
        v = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))

        def keep(denoised, call, found=found, v=v):
            found.append((call.x.clone(), call.sigma.clone(), gradient.pull_back(
                lambda x: call.predict("cond", x=x, gradients=True)[0], call.x, v)))
            return denoised

        draw(HOST.patch_prediction(checkpoint(kind)[0], lambda: keep), kind=kind, steps=2)
        with torch.inference_mode(False), torch.enable_grad():
            context = words("a large green star in the middle on sand", kind)
            at, sigma, theirs = (value.clone() for value in found[1])
            at.requires_grad_()
            wide = sigma[:, None, None, None]
            scaled = at if "dit" in kind else at / (wide.square() + 1.0).sqrt()
            out = ours(scaled, sampling.timestep(sigma).float().clone(), context=context[0][0].clone(),
                       y=context[0][1]["pooled_output"].clone() if "dit" in kind else None)
            own, = torch.autograd.grad(at - wide * out, at, v)
        close(theirs / own.abs().max(), own / own.abs().max(), 2e-4, kind)


def check_neutral_values_change_nothing():
    for base in (checkpoint()[0], stray(checkpoint()[0])):
        plain = draw(base)
        for name, patched in nodes_on(neutral=True, model=base).items():
            close(draw(patched), plain, 1e-6, name)
    moved = draw(nodes_on(model=stray(checkpoint()[0]))["network"])
    assert not torch.allclose(moved, draw(nodes_on()["network"]), atol=1e-3), "the stray patch was lost"


def check_models_are_given_back_as_they_were():
    model, _, vae = checkpoint()
    network = model.model.diffusion_model
    plain, kept = draw(model), {name: value.clone() for name, value in network.state_dict().items()}
    decoded = vae.decode(plain)
    for patched in nodes_on().values():
        draw(patched)
    assert torch.equal(draw(model), plain) and torch.equal(vae.decode(plain), decoded)
    assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())
    assert all(value.grad is None and not value.requires_grad for value in network.parameters())
    assert not any("forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks
                   for root in (network, vae.first_stage_model) for module in root.modules())


class Stop(Exception):
    """An interruption."""


def check_runs_in_a_row_and_after_an_interruption_are_equal():
    def stop(step, *_):
        if step == 2:
            raise Stop

    for name, patched in nodes_on().items():
        first = draw(patched)
        assert torch.equal(draw(patched), first), name
        try:
            draw(patched, callback=stop)
        except Stop:
            assert torch.equal(draw(patched), first), name


def check_a_batch_is_its_single_runs():
    noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    for name, patched in nodes_on().items():
        whole = draw(patched, noise=noise)
        close(whole[1:2], draw(patched, noise=noise[1:2]), 2e-3, name)


def check_masks_cfg_1_no_negative_and_other_samplers():
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1.0
    ways = [{"cfg": 1.0, "negative": None}, {"sampler": comfy.samplers.sampler_object("heun")},
            {"sampler": comfy.samplers.sampler_object("euler_ancestral"), "mask": mask}]
    plain = [draw(checkpoint()[0], **options) for options in ways]
    for name, patched in nodes_on().items():
        for options, without in zip(ways, plain):
            out = draw(patched, **options)
            assert torch.isfinite(out).all(), (name, options)
            assert not torch.allclose(out, without, atol=1e-4), (name, options)
        assert out[..., :4].abs().max() < 1e-5, name
        if name == "self-guided":
            assert torch.equal(draw(patched, **ways[1]), draw(patched, **ways[1])), "heun"


def check_twice_in_a_chain_pushes_twice():
    model, _, vae = checkpoint()
    once, twice, at_once = model, model, model
    options = {"loss": dark(), "vae": vae, "grad_through": "x0 only"}
    once = made("OdeonLossGuidance", model=model, scale=0.01, **options)
    twice = made("OdeonLossGuidance", model=once, scale=0.01, **options)
    at_once = made("OdeonLossGuidance", model=model, scale=0.02, **options)
    plain = draw(model)
    close(draw(twice) - plain, draw(at_once) - plain, 0.1 * (draw(at_once) - plain).abs().max().item(), "twice")


def check_memory_is_stated_before_the_way_back():
    lines = []

    class Keep(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())

    handler = Keep()
    logging.getLogger().addHandler(handler)
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.INFO)
    try:
        draw(nodes_on()["network"])
    finally:
        logging.getLogger().removeHandler(handler)
        logging.getLogger().setLevel(level)
    for what in ("network", "decoder"):
        assert sum(f"a gradient through the {what} takes about" in line for line in lines) == 1, lines


def check_bad_input_of_gradients_is_named():
    model, _, vae = checkpoint()
    expect_error("connect a vae", lambda: made("OdeonLossGuidance", model=model, loss=dark()))
    expect_error("connect a vae", lambda: made("OdeonClassifierGuidance", model=model, classifier=red(), target="red"))
    expect_error("target must be a class", lambda: made("OdeonClassifierGuidance", model=model, classifier=red(),
                                                        target="mauve", vae=vae))
    expect_error("sees a noisy latent", lambda: made("OdeonMinorityGuidance", model=model, classifier=red()))
    wrong = red()._replace(labels=("a", "b"))
    patched = made("OdeonClassifierGuidance", model=model, classifier=wrong, target="a", vae=vae)
    expect_error("should give 2 numbers", lambda: draw(patched))
    small = red()._replace(size=64)
    patched = made("OdeonClassifierGuidance", model=model, classifier=small, target="red", vae=vae)
    expect_error("can't read a picture", lambda: draw(patched))
    patched = made("OdeonLossGuidance", model=model, loss=dark(), vae=vae, step_size="freedom")
    expect_error("raise CFG", lambda: draw(patched, cfg=1.0))


def check_selection_recurrence_and_reflection():
    model, _, vae = checkpoint()
    ddim = made("OdeonSamplerDDIM", eta=1.0)
    plain = draw(model, sampler=ddim)
    options = {"sampler": ddim, "loss": dark(), "vae": vae, "start_step": 1}
    close(draw(model, sampler=made("OdeonStepwiseSelect", **options, k=1)), plain, 1e-6, "one draw")
    best = made("OdeonStepwiseSelect", **options, k=4)
    found = draw(model, sampler=best)
    assert torch.equal(draw(model, sampler=best), found) and not torch.allclose(found, plain, atol=1e-3)
    assert vae.decode(found).mean() < vae.decode(plain).mean()
    noise = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    for sampler in (best, made("OdeonStepwiseSelect", **options, k=3, select="softmax")):
        whole = draw(model, sampler=sampler, noise=noise)
        close(whole[1:2], draw(model, sampler=sampler, noise=noise[1:2]), 2e-3, "a batch")
    close(draw(model, sampler=made("OdeonWrapRecurrence", sampler=ddim, recurrence=1)), plain, 1e-6, "one time")
    again = draw(model, sampler=made("OdeonWrapRecurrence", sampler=ddim, recurrence=2))
    assert torch.isfinite(again).all() and not torch.allclose(again, plain, atol=1e-3)
    close(draw(model, sampler=made("OdeonReflect", sampler=ddim, bound=1000.0)), plain, 1e-6, "a box out of reach")
    kept = draw(model, sampler=made("OdeonReflect", sampler=ddim, bound=0.5, sigmas_out=0.0))
    assert kept.abs().max() <= 0.5 + 1e-6
    both = made("OdeonWrapRecurrence", sampler=made("OdeonReflect", sampler=ddim, bound=0.5, sigmas_out=0.0))
    assert draw(model, sampler=both).abs().max() <= 0.5 + 1e-6


def check_scores_and_calibration_are_measured():
    model, _, vae = checkpoint()
    with torch.inference_mode():
        images, captions = NODES["OdeonShapes"]().draw(6, 128, 1, 1)
        latent = {"samples": vae.encode(images)}
        scores, mean = build("OdeonMinorityScore", model=model, positive=words(""), negative=words(""), latent=latent,
                             cfg=1.0, t=0.6, repeats=2, metric="l2", start_seed=0, batch=4)
        report, plot = build("OdeonClassifierCalibration", model=model, positive=words(""), negative=words(""),
                             sigmas=torch.tensor([5.0, 0.5, 0.0]), latent=latent, labels=captions, cfg=1.0,
                             classifier=made("OdeonShapesClassifier", about="ground"), start_seed=0, batch=4, vae=vae)
    lines = scores.splitlines()
    assert len(lines) == 6 and abs(sum(float(line.split()[0]) for line in lines) / 6 - mean) < 1e-3 * mean
    rows = [line.split("  ") for line in report.splitlines()[1:3]]
    assert float(rows[1][2].split()[0]) == 100.0, report  # at sigma 0.5 the ground is plain to see
    assert plot.shape[-1] == 3


if __name__ == "__main__":
    run_checks(globals())
