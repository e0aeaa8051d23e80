"""The embedded runner's models, guidance, masks and core nodes."""
import pytest
import torch

from odeon import NODE_CLASS_MAPPINGS, host
from odeon.host.embedded import core_nodes
from odeon.host.embedded.context import Context, running
from odeon.host.embedded.sampling import Guider, Noise
from odeon.samplers.process import FLOW, VE

KINDS = ("eps", "v", "flow")
CORE = core_nodes.CORE_NODES


def call(node, **inputs):
    cls = {**CORE, **NODE_CLASS_MAPPINGS}[node]
    return getattr(cls(), cls.FUNCTION)(**inputs)


def closed_form(prediction="eps", **options):
    return call("OdeonClosedFormModel", **{"prediction": prediction, "smoothing": 0.0, "noises": 4, "neighbours": 0,
                                           "extra": 8, "smoothing_seed": 0, **options})


def adams(order=2, eta=0.0):
    return call("OdeonSamplerExponentialAdams", order=order, eta=eta, s_noise=1.0)[0]


def encode(clip, text):
    return call("CLIPTextEncode", clip=clip, text=text)[0]


def simple(model, steps=8, **options):
    return call("BasicScheduler", model=model, scheduler="simple", steps=steps, denoise=1.0, **options)[0]


def run(model, clip, *, text="a star", sampler=None, latent=None, cfg=1.5, seed=3, sigmas=None):
    guider = call("CFGGuider", model=model, positive=encode(clip, text), negative=encode(clip, ""), cfg=cfg)[0]
    latent = latent or call("EmptyLatentImage", width=64, height=64, batch_size=2)[0]
    return call("SamplerCustomAdvanced", noise=Noise(seed), guider=guider, sampler=sampler or adams(),
                sigmas=simple(model) if sigmas is None else sigmas, latent_image=latent)


@pytest.mark.parametrize("prediction", KINDS)
def test_the_prompt_decides_what_is_drawn(prediction):
    pictures, captions = call("OdeonShapes", count=48, size=64, data_seed=0, objects=1)
    model, clip, vae = closed_form(prediction)
    for text in ("red star", "blue ring"):
        out = run(model, clip, text=text, cfg=1.0)[0]["samples"]
        drawn = call("VAEDecode", samples={"samples": out}, vae=vae)[0]
        wanted = next(i for i, caption in enumerate(captions.splitlines()) if text in caption)
        assert (drawn - pictures[wanted]).abs().max() < 0.02


def test_processes():
    assert [host.process_of(closed_form(kind)[0]) for kind in KINDS] == [VE, VE, FLOW]


@pytest.mark.parametrize("prediction", KINDS)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_item_of_a_batch_is_its_single_run(prediction, eta):
    model, clip, _ = closed_form(prediction)
    whole = {"samples": torch.zeros(3, 192, 8, 8), "batch_index": [0, 1, 2]}
    batch = run(model, clip, sampler=adams(2, eta), latent=whole)[0]["samples"]
    for i in range(3):
        alone = run(model, clip, sampler=adams(2, eta),
                    latent={"samples": torch.zeros(1, 192, 8, 8), "batch_index": [i]})
        assert torch.allclose(batch[i:i + 1], alone[0]["samples"], atol=1e-4)


@pytest.mark.parametrize("prediction", KINDS)
@pytest.mark.parametrize("name", ["euler", "ddim", "dpmpp_2m", "res_multistep", None])
def test_masks_keep_what_they_cover(prediction, name):
    model, clip, vae = closed_form(prediction)
    pictures, _ = call("OdeonShapes", count=2, size=64, data_seed=1, objects=1)
    latent = call("VAEEncode", pixels=pictures, vae=vae)[0]
    mask = torch.ones(1, 64, 64)
    mask[..., :32] = 0.0
    masked = call("SetLatentNoiseMask", samples=latent, mask=mask)[0]
    sampler = adams(2, 1.0) if name is None else call("KSamplerSelect", sampler_name=name)[0]
    out, denoised = run(model, clip, latent=masked, sampler=sampler)
    assert torch.allclose(out["samples"][..., :3], latent["samples"][..., :3], atol=1e-5)
    assert (out["samples"][..., 4:] - latent["samples"][..., 4:]).abs().max() > 0.05
    assert torch.allclose(out["samples"], denoised["samples"], atol=1e-5)
    assert out["noise_mask"] is masked["noise_mask"]


def test_nothing_that_comes_in_is_changed():
    model, clip, _ = closed_form()
    latent, sigmas = {"samples": torch.ones(1, 192, 8, 8)}, simple(model)
    kept = latent["samples"].clone(), sigmas.clone()
    call("FlipSigmas", sigmas=sigmas)
    call("SplitSigmas", sigmas=sigmas, step=2)
    first = run(model, clip, latent=latent, sigmas=sigmas)[0]["samples"]
    assert torch.equal(latent["samples"], kept[0]) and torch.equal(sigmas, kept[1])
    assert torch.equal(run(model, clip, latent=latent, sigmas=sigmas)[0]["samples"], first)


def test_split_run_is_the_whole_run():
    for prediction in KINDS:
        model, clip, _ = closed_form(prediction)
        high, low = call("SplitSigmas", sigmas=simple(model), step=3)
        whole = run(model, clip, sampler=adams(1))[0]["samples"]
        guider = Guider(model, encode(clip, "a star"), encode(clip, ""), 1.5)
        half = run(model, clip, sampler=adams(1), sigmas=high)[0]
        rest = call("SamplerCustomAdvanced", noise=call("DisableNoise")[0], guider=guider, sampler=adams(1), sigmas=low,
                    latent_image=half)[0]["samples"]
        assert torch.allclose(rest, whole, atol=1e-4)


def test_ksampler_and_its_parts_agree():
    model, clip, _ = closed_form()
    positive, negative = encode(clip, "ring"), encode(clip, "")
    latent = call("EmptyLatentImage", width=64, height=64, batch_size=1)[0]
    common = {"model": model, "steps": 8, "cfg": 2.0, "sampler_name": "dpmpp_2m", "scheduler": "karras",
              "positive": positive, "negative": negative}
    whole = call("KSampler", seed=5, latent_image=latent, denoise=1.0, **common)[0]["samples"]
    sigmas = call("BasicScheduler", model=model, scheduler="karras", steps=8, denoise=1.0)[0]
    custom = call("SamplerCustom", model=model, add_noise=True, noise_seed=5, cfg=2.0, positive=positive,
                  negative=negative, sampler=call("KSamplerSelect", sampler_name="dpmpp_2m")[0], sigmas=sigmas,
                  latent_image=latent)[0]["samples"]
    assert torch.equal(whole, custom)
    advanced = {"noise_seed": 5, "start_at_step": 0, "end_at_step": 10000, "return_with_leftover_noise": "disable",
                "add_noise": "enable"}
    assert torch.equal(call("KSamplerAdvanced", latent_image=latent, **advanced, **common)[0]["samples"], whole)
    first = call("KSamplerAdvanced", latent_image=latent,
                 **{**advanced, "end_at_step": 4, "return_with_leftover_noise": "enable"},
                 **{**common, "sampler_name": "euler"})[0]
    second = call("KSamplerAdvanced", latent_image=first, **{**advanced, "start_at_step": 4, "add_noise": "disable"},
                  **{**common, "sampler_name": "euler"})[0]["samples"]
    euler = call("KSampler", seed=5, latent_image=latent, denoise=1.0,
                 **{**common, "sampler_name": "euler"})[0]["samples"]
    assert torch.allclose(second, euler, atol=1e-4)


def test_guidance_state_is_born_and_dies_with_a_run():
    model, clip, _ = closed_form()
    births, calls = [], []

    def start():
        births.append(len(calls))
        return lambda cond, uncond, call: calls.append(call.sigma) or uncond + call.scale * (cond - uncond)

    patched = host.patch_guidance(model, start)
    plain = run(model, clip, cfg=3.0)[0]["samples"]
    assert torch.equal(run(patched, clip, cfg=3.0)[0]["samples"], plain)
    run(patched, clip, cfg=3.0)
    assert births == [0, 8] and len(calls) == 16
    run(patched, clip, cfg=1.0)
    assert len(calls) == 16, "a rule ran at scale 1"
    assert model.rules == []


def test_rules_follow_one_another():
    model, clip, _ = closed_form()
    neutral = {"eta": 1.0, "norm_threshold": 0.0, "momentum": 0.0, "threshold_unit": "norm", "axes": "sample"}
    strong = dict(neutral, eta=0.0, norm_threshold=1.0)
    once = call("OdeonAPG", model=model, **strong)[0]
    with_neutral = call("OdeonAPG", model=once, **neutral)[0]
    before = call("OdeonAPG", model=call("OdeonAPG", model=model, **neutral)[0], **strong)[0]
    wanted = run(once, clip, cfg=6.0)[0]["samples"]
    assert not torch.allclose(wanted, run(model, clip, cfg=6.0)[0]["samples"], atol=1e-2)
    for other in (with_neutral, before):
        assert torch.allclose(run(other, clip, cfg=6.0)[0]["samples"], wanted, atol=1e-4)


def test_empty_latents_take_the_model_s_channels():
    model, _, _ = closed_form()
    assert model.fix_empty_latent_channels(torch.zeros(2, 4, 8, 8)).shape == (2, 192, 8, 8)
    kept = torch.ones(2, 4, 8, 8)
    assert model.fix_empty_latent_channels(kept) is kept


def test_noise_is_comfyui_s():
    torch.manual_seed(11)
    expected = torch.randn(2, 4, 8, 8)
    assert torch.equal(Noise(11).generate_noise({"samples": torch.zeros(2, 4, 8, 8)}), expected)
    picked = Noise(11).generate_noise({"samples": torch.zeros(2, 4, 8, 8), "batch_index": [1, 1]})
    assert torch.equal(picked[0], picked[1])
    assert torch.equal(picked[0], Noise(11).generate_noise({"samples": torch.zeros(1, 4, 8, 8), "batch_index": [1]})[0])
    assert Noise(None).generate_noise({"samples": torch.ones(1, 4, 8, 8)}).abs().max() == 0.0


def test_latent_upscale():
    latent = {"samples": torch.arange(32.0).reshape(1, 1, 4, 8), "kept": 1}
    up = call("LatentUpscale", samples=latent, upscale_method="nearest-exact", width=128, height=64, crop="disabled")[0]
    assert up["samples"].shape == (1, 1, 8, 16) and up["kept"] == 1
    cropped = call("LatentUpscale", samples=latent, upscale_method="nearest-exact", width=64, height=64,
                   crop="center")[0]
    assert torch.equal(cropped["samples"][0, 0, ::2, ::2], latent["samples"][0, 0, :, 2:6])
    assert call("LatentUpscale", samples=latent, upscale_method="bilinear", width=0, height=0,
                crop="disabled")[0] is latent
    kept = call("LatentUpscale", samples=latent, upscale_method="area", width=256, height=0, crop="disabled")[0]
    assert kept["samples"].shape == (1, 1, 16, 32)


def test_slerp_node_keeps_extras_and_leaves_inputs_alone():
    a = {"samples": torch.ones(1, 4, 2, 2), "noise_mask": 1, "batch_index": [0]}
    b = {"samples": -torch.ones(1, 4, 2, 2)}
    strip = call("OdeonLatentSlerp", latent_a=a, latent_b=b, t=0.5, count=3, mode="slerp_per_item")[0]
    assert strip["samples"].shape == (3, 4, 2, 2)
    assert strip["noise_mask"] == 1 and "batch_index" not in strip
    one = call("OdeonLatentSlerp", latent_a=a, latent_b=b, t=0.0, count=1, mode="lerp_renormalized")[0]
    assert torch.allclose(one["samples"], a["samples"]) and one["batch_index"] == [0]
    assert set(a) == {"samples", "noise_mask", "batch_index"}


@pytest.mark.parametrize(("change", "message"), [
    ({"sigmas": torch.zeros(0)}, r"SIGMAS needs at least 2 values \(1 step\), got 0"),
    ({"sigmas": torch.tensor([3.0])}, r"SIGMAS needs at least 2 values \(1 step\), got 1"),
    ({"sigmas": torch.tensor([1.0, 3.0, 0.0])}, "must strictly decrease"),
    ({"latent": {"samples": torch.full((2, 192, 8, 8), float("nan"))}}, "NaN or infinite values: items 0, 1 of 2"),
    ({"latent": {"samples": torch.zeros(1, 192, 16, 16)}},
     "made from 64 x 64 px pictures, got a latent of 128 x 128 px"),
    ({"latent": {"samples": torch.ones(1, 4, 8, 8)}}, "takes latents of 192 channels, got 4"),
])
def test_bad_input_is_named(change, message):
    model, clip, _ = closed_form()
    with pytest.raises(ValueError, match=message):
        run(model, clip, **change)


def test_a_model_that_breaks_down_names_the_step():
    model, clip, _ = closed_form()
    model.apply_model = lambda x, sigma, *_: x * float("nan") if sigma[0] < 1.0 else x
    with pytest.raises(ValueError,
                       match=r"NaN or infinite values at step 7 of 8 \(sigma 0\.\d+\) under exponential_adams"):
        run(model, clip, cfg=1.0)


def test_captions_and_pictures_must_match():
    pictures = torch.rand(3, 64, 64, 3)
    with pytest.raises(ValueError, match="need one caption line for each of the 3 pictures, got 2"):
        closed_form(images=pictures, captions="one\ntwo")
    with pytest.raises(ValueError, match="multiples of 8, got 60 x 64"):
        closed_form(images=torch.rand(1, 64, 60, 3))
    with pytest.raises(ValueError, match="got 1 captions but no images"):
        closed_form(captions="alone")
    model, clip, vae = closed_form(images=pictures, captions="")
    out = run(model, clip, text="whatever", cfg=1.0)[0]["samples"]
    drawn = call("VAEDecode", samples={"samples": out}, vae=vae)[0]
    assert all((pictures - picture).abs().amax((1, 2, 3)).min() < 0.02 for picture in drawn)


def test_plan_of_a_sampler():
    plan_fn, options = host.plan_of(adams(3, 0.5))
    assert plan_fn.__name__ == "plan_exponential_adams"
    assert options == {"order": 3, "eta": 0.5, "s_noise": 1.0}
    with pytest.raises(ValueError, match="needs a SAMPLER with a plan"):
        host.plan_of(object())


def test_load_image_reads_colour_and_alpha(tmp_path):
    from PIL import Image

    Image.new("RGB", (16, 8), (255, 0, 0)).save(tmp_path / "red.png")
    Image.new("RGBA", (16, 8), (0, 255, 0, 64)).save(tmp_path / "glass.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    with running(Context(tmp_path, [tmp_path])):
        picture, mask = call("LoadImage", image="red.png")
        assert picture.shape == (1, 8, 16, 3) and picture[0, 0, 0].tolist() == [1.0, 0.0, 0.0]
        assert mask.shape == (1, 64, 64) and mask.max() == 0.0
        picture, mask = call("LoadImage", image="glass.png [input]")
        assert mask.shape == (1, 8, 16) and mask[0, 0, 0].item() == pytest.approx(1 - 64 / 255)
        with pytest.raises(ValueError, match="no picture that Pillow can read"):
            call("LoadImage", image="broken.png")
        with pytest.raises(ValueError, match="image file 'none.png' was not found in"):
            call("LoadImage", image="none.png")


def test_primitives_and_reroute():
    for name, value in (("PrimitiveInt", 3), ("PrimitiveFloat", 0.5), ("PrimitiveString", "x"),
                        ("PrimitiveBoolean", True)):
        assert call(name, value=value) == (value,)
    assert call("Reroute", value="anything") == ("anything",)


def test_patches_stay_on_their_copy_of_a_model():
    from odeon.host.embedded import make_network
    from odeon.models.weights import shapes_network

    for name, place in (("shapes-unet", ("attn2", "middle", 0)), ("shapes-dit", ("dit", "single_block", 1))):
        trained = shapes_network(name)
        model = make_network(trained.config, trained.weights, prediction=trained.prediction, levels=trained.levels,
                             rgb_factors=[], rgb_bias=[])
        calls = []

        def patch(*args, calls=calls):
            calls.append(args)
            return args[1]["original_block"](args[0]) if len(args) == 2 else torch.zeros_like(args[0])

        patched = model.clone()
        patched.set_model_patch_replace(patch, *place)
        patched.clone().set_model_patch_replace(patch, place[0], place[1], 5)
        inputs = (torch.randn(2, 4, 16, 16), torch.full((2,), 0.7), torch.randn(1, 16, 64), {}, torch.randn(1, 64))
        plain, out = model.apply_model(*inputs), patched.apply_model(*inputs)
        assert len(calls) == 1 and plain.shape == out.shape == (2, 4, 16, 16)
        assert torch.equal(plain, out) == (place[0] == "dit")  # there the block was called, here its output zeroed
        assert torch.equal(model.apply_model(*inputs), plain) and len(calls) == 1
        assert len(patched.model_options["transformer_options"]["patches_replace"][place[0]]) == 1
