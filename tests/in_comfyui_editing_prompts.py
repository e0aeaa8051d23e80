"""Editing by words inside ComfyUI, under its own Python; see in_comfyui.py."""
import functools
import importlib

from comfyui_pack import KINDS, NAME, NODES, close, comfy, expect_error, levels_for, run_checks, torch, toy, word

PICTURES = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
EDITORS = {"OdeonSamplerDDCM": {"eta": 1.0}, "OdeonSamplerFlowEdit": {"strength": 1.0, "average": 1, "finish": 0},
           "OdeonDeltaDenoise": {"rate": 0.3}}


def editor(name, source=None, source_cfg=1.0, **more):
    with torch.inference_mode():
        return NODES[name]().build(source=source or word(0.3), source_cfg=source_cfg, **{**EDITORS[name], **more})[0]


def edited(sampler, *, model=None, kind="eps", words=0.1, cfg=1.0, mask=None, latent=PICTURES, item=None, callback=None,
           steps=6):
    noise = comfy.sample.prepare_noise(PICTURES, 4)
    if item is not None:
        noise, latent = noise[item:item + 1], latent[item:item + 1]
    guider = comfy.samplers.CFGGuider(model or toy(kind)[0])
    with torch.inference_mode():
        guider.set_conds(word(words) if isinstance(words, float) else words, word(-0.2))
        guider.set_cfg(cfg)
        return guider.sample(noise, latent, sampler, levels_for(kind, steps), denoise_mask=mask, disable_pbar=True,
                             seed=4, callback=callback)


def check_same_words_give_the_picture_back():
    for name in EDITORS:
        for kind in KINDS:
            close(edited(editor(name), kind=kind, words=0.3), PICTURES, 1e-5, f"{name} on {kind}")
            both = editor(name, source_cfg=3.0, source_negative=word(-0.2))
            close(edited(both, kind=kind, words=0.3, cfg=3.0), PICTURES, 1e-5, f"{name} on {kind} at CFG 3")
            moved = (edited(editor(name), kind=kind) - PICTURES).abs().max()
            assert moved > 0.02, f"{name} on {kind} changed nothing"


def check_an_item_is_its_single_run_and_runs_repeat():
    for name in EDITORS:
        sampler = editor(name)
        whole = edited(sampler)
        assert torch.equal(edited(sampler), whole), name
        close(edited(sampler, item=1), whole[1:], 1e-5, name)


def check_masks_keep_what_they_cover():
    mask = torch.cat([torch.zeros(1, 1, 8, 4), torch.ones(1, 1, 8, 4)], 3)
    for name in EDITORS:
        for kind in ("eps", "flow"):
            out = edited(editor(name), kind=kind, mask=mask)
            close(out[..., :4], PICTURES[..., :4], 1e-5, f"{name} on {kind}")
            assert (out[..., 4:] - PICTURES[..., 4:]).abs().max() > 0.02, name


def check_progress_is_every_step():
    for name in EDITORS:
        seen = []
        edited(editor(name), callback=lambda step, denoised, x, total, seen=seen: seen.append((step, total)))
        assert seen == [(i, 6) for i in range(6)], (name, seen)


def check_refusals():
    for name in EDITORS:
        expect_error("no picture to edit", edited, editor(name), latent=torch.zeros_like(PICTURES))
        expect_error("needs a negative for its source", edited, editor(name, source_cfg=2.0))


@functools.cache
def checkpoint(kind):
    with torch.inference_mode():
        return NODES["OdeonShapesCheckpoint"]().load(kind)


def check_a_picture_is_edited_and_the_rest_stays():
    for kind, name in (("shapes-unet", "OdeonSamplerDDCM"), ("shapes-dit", "OdeonSamplerFlowEdit")):
        model, clip, vae = checkpoint(kind)
        with torch.inference_mode():
            pictures, captions = NODES["OdeonShapes"]().draw(1, 128, 5, 1)
            latent = vae.encode(pictures)
            before = clip.encode_from_tokens_scheduled(clip.tokenize(captions))
            shape = next(word for word in captions.split() if word in ("circle", "square", "triangle", "star", "ring",
                                                                       "cross"))
            after = clip.encode_from_tokens_scheduled(clip.tokenize(
                captions.replace(shape, "cross" if shape == "star" else "star")))
            guider = comfy.samplers.CFGGuider(model)
            guider.set_conds(after, clip.encode_from_tokens_scheduled(clip.tokenize("")))
            guider.set_cfg(2.0)
            sampler = NODES[name]().build(source=before, source_cfg=1.0, **EDITORS[name])[0]
            out = guider.sample(comfy.sample.prepare_noise(latent, 1), latent, sampler,
                                levels_for("flow" if kind == "shapes-dit" else "eps", 8), disable_pbar=True, seed=1)
            moved = (vae.decode(out) - vae.decode(latent)).abs().mean(-1)[0]
        assert moved.max() > 0.2 and moved.median() < 0.03, (kind, moved.max(), moved.median())


def check_plateau_draws_and_refines():
    for kind in ("eps", "flow"):
        for options in ({"start": "prediction"}, {"start": "latent"}):
            with torch.inference_mode():
                sampler = NODES["OdeonSamplerPlateauRefine"]().build(
                    **{"plateau": 0.5, "repeats": -1, "average": True, **options})[0]
            out = edited(sampler, kind=kind)
            assert torch.isfinite(out).all() and not torch.allclose(out, PICTURES, atol=0.01)


CONTROL = {"cross_replace": 0.7, "self_replace": 0.3, "blend": 0.6, "keep_words": "", "keep": 0.6}
RED, BLUE = "a large red star on the left on sand", "a large blue star on the left on sand"


def controlled(before, after, model=None, cfg=1.0, **options):
    """(InfEdit under attention control, its latent, rows the network was asked for)."""
    own, clip, vae = checkpoint("shapes-unet")
    rows = []
    with torch.inference_mode():
        patched, source, target = NODES["OdeonAttentionControl"]().patch(
            model=model or own, clip=clip, source_text=before, target_text=after, **{**CONTROL, **options})
        latent = vae.encode(NODES["OdeonShapes"]().draw(1, 128, 3, 1)[0])
        guider = comfy.samplers.CFGGuider(patched.clone())  # as a node after it would
        guider.set_conds(target, clip.encode_from_tokens_scheduled(clip.tokenize("")))
        guider.set_cfg(cfg)
        sampler = NODES["OdeonSamplerDDCM"]().build(source=source, source_cfg=1.0, eta=1.0)[0]
        handle = own.model.diffusion_model.register_forward_hook(lambda *args: rows.append(len(args[2])))
        try:
            out = guider.sample(comfy.sample.prepare_noise(latent, 1), latent, sampler, levels_for("eps", 4),
                                disable_pbar=True, seed=1)
        finally:
            handle.remove()
    return out, latent, sum(rows)


def check_attention_control_edits_and_gives_the_picture_back():
    same, latent, _ = controlled(RED, RED)
    close(same, latent, 1e-4, "the same words under control")
    for cfg, rows in ((1.0, 12), (2.0, 16)):
        out, latent, asked = controlled(RED, BLUE, cfg=cfg)
        plain, *_ = controlled(RED, BLUE, cfg=cfg, cross_replace=0.0, self_replace=0.0, blend=0.0, keep=0.0)
        assert asked == rows, asked
        assert (out - latent).abs().max() > 0.1 and (out - plain).abs().max() > 0.02


def check_attention_control_runs_around_other_replacements_and_leaves_other_samplers_alone():
    model = checkpoint("shapes-unet")[0].clone()
    calls = []

    def zeros(q, k, v, extra):
        calls.append(1)
        return q * 0.0

    model.set_model_attn1_replace(zeros, "middle", 0)
    out, *_ = controlled(RED, BLUE, model=model)
    assert len(calls) == 12 and not torch.allclose(out, controlled(RED, BLUE)[0], atol=1e-3)
    own, clip, _ = checkpoint("shapes-unet")
    with torch.inference_mode():
        words = clip.encode_from_tokens_scheduled(clip.tokenize(RED))
        patched = NODES["OdeonAttentionControl"]().patch(model=own, clip=clip, source_text=RED, target_text=BLUE,
                                                         **CONTROL)[0]
    euler = comfy.samplers.sampler_object("euler")
    latent = torch.zeros(2, 4, 16, 16)
    plain, under = (edited(euler, model=each, words=words, latent=latent[:, :, :8, :8], steps=3)
                    for each in (own, patched))
    close(under, plain, 1e-6, "another sampler")


def check_attention_control_refuses_transformers():
    model, clip, _ = checkpoint("shapes-dit")
    expect_error("attention control works on UNets", NODES["OdeonAttentionControl"]().patch, model=model, clip=clip,
                 source_text=RED, target_text=BLUE, **CONTROL)


def check_sd15_words_are_found_in_clip_s_tokens():
    import comfy.sd1_clip

    class Clip:
        def __init__(self):
            self.tokenize = comfy.sd1_clip.SD1Tokenizer().tokenize_with_weights

        def encode_from_tokens_scheduled(self, tokens):
            count = sum(map(len, tokens["l"]))
            return [[torch.eye(count)[None], {}]]

    compared = importlib.import_module(f"{NAME}.nodes.editing_attention")._compared
    words, kept = compared(Clip(), "a photo of a cat on grass", "a photo of a fluffy dog on grass", "grass")
    assert words.source.shape == kept.shape == (1, 77)
    source, shared, edited_words = (value[0].tolist() for value in words)
    spoken = [i for i, edited_word in enumerate(edited_words) if edited_word]
    assert source[1:5] == [1, 2, 3, 4] and all(shared)
    assert spoken[0] == 5 and spoken == list(range(5, 5 + len(spoken))) and 1 < len(spoken) < 5
    after = 5 + len(spoken)  # 'on grass' moves by the words put in
    assert source[after:after + 2] == [6, 7] and kept[0].nonzero().flatten().tolist() == [after + 1]


if __name__ == "__main__":
    run_checks(globals())
