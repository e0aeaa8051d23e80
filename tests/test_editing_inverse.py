"""Nodes that keep a known part, and that restore, on the embedded runner."""
import pytest
import torch
from guided import SIGMAS, WORD, model_of

from odeon import NODE_CLASS_MAPPINGS
from odeon.editing.impute import GREYS, grey_part, one_colour_each
from odeon.host.embedded.sampling import Guider, Noise

LEVELS = {"eps": SIGMAS, "flow": torch.tensor([1.0, 0.8, 0.5, 0.2, 0.0])}
LATENT = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))


def made(node, /, **changes):
    """The outputs of a node as it comes from the menu, with changes, in inference mode as nodes run."""
    cls = NODE_CLASS_MAPPINGS[node]
    inputs = {key: spec[1]["default"] for group in cls.INPUT_TYPES().values() for key, spec in group.items()
              if "default" in spec[1]}
    with torch.inference_mode():
        return getattr(cls(), cls.FUNCTION)(**{**inputs, **changes})


def run(model, sampler, sigmas, *, latent=LATENT, mask=None, seed=5, callback=None, positive=None):
    noise = Noise(seed).generate_noise({"samples": latent})
    with torch.inference_mode():
        return Guider(model, positive or WORD["cond"], positive or WORD["uncond"], 3.0).sample(
            noise, latent, sampler, sigmas, denoise_mask=mask, seed=seed, callback=callback)


def right_half(size):
    mask = torch.zeros(1, size, size)
    mask[..., size // 2:] = 1.0
    return mask


@pytest.mark.parametrize("prediction", LEVELS)
@pytest.mark.parametrize("node", ["OdeonSamplerRePaint", "OdeonSamplerImpute"])
def test_masks_of_the_node_of_the_latent_and_of_any_size_mean_the_same(node, prediction):
    options = {"jump_length": 2, "resamples": 2} if "RePaint" in node else {}
    model, levels = model_of(prediction), LEVELS[prediction]
    of_node = run(model, made(node, mask=right_half(8), **options)[0], levels)
    assert torch.allclose(of_node[..., :4], LATENT[..., :4], atol=1e-6)
    assert (of_node[..., 4:] - LATENT[..., 4:]).abs().mean() > 0.1
    assert torch.equal(run(model, made(node, **options)[0], levels, mask=right_half(8)), of_node)
    larger = run(model, made(node, mask=right_half(64), **options)[0], levels)
    assert torch.allclose(larger[..., :3], LATENT[..., :3], atol=1e-6)
    elsewhere = made(node, mask=right_half(8), known={"samples": LATENT}, **options)[0]
    assert torch.equal(run(model, elsewhere, levels, latent=torch.zeros_like(LATENT))[..., :4], of_node[..., :4])
    with pytest.raises(ValueError, match="two masks"):
        run(model, made(node, mask=right_half(8), **options)[0], levels, mask=right_half(8))
    with pytest.raises(ValueError, match="there is no mask"):
        run(model, made(node, **options)[0], levels)
    with pytest.raises(ValueError, match="no picture to keep"):
        run(model, made(node, mask=right_half(8), **options)[0], levels, latent=torch.zeros_like(LATENT))


def test_progress_of_repaint_counts_model_calls():
    places = []
    run(model_of(), made("OdeonSamplerRePaint", mask=right_half(8), jump_length=2, resamples=3)[0], SIGMAS,
        callback=lambda step, *_: places.append(step))
    assert len(places) == 4 + 2 * 2 and places == sorted(places) and places[-1] == 3


@pytest.fixture(scope="module")
def pixels():
    images, captions = made("OdeonShapes", count=24, size=64, data_seed=3)
    model, clip, vae = made("OdeonClosedFormModel", images=images, captions=captions)
    return model, clip.encode_from_tokens_scheduled(clip.tokenize("")), vae, images


def test_colours_come_back_to_grey_pictures(pixels):
    """To 5 of 8; the others get those of a drawing with a similar grey."""
    model, words, vae, images = pixels
    latent = vae.encode(made("OdeonOperator", image=images[:8], kind="grey")[1])
    levels = torch.cat([torch.logspace(1.16, -1.5, 30), torch.zeros(1)])
    out = run(model, made("OdeonColorize", corrections=3)[0], levels, latent=latent, positive=words)
    assert grey_part(out - latent, GREYS["luma"]).abs().max() < 1e-5
    assert ((vae.decode(out) - images[:8]).square().mean((1, 2, 3)).sqrt() < 0.01).sum() >= 4


def test_colorize_is_for_pixels():
    assert one_colour_each([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    assert not one_colour_each([[1.0, 0.0, 0.0], [0.0, 0.0, 2.0], [0.0, 1.0, 0.0]])
    assert not one_colour_each(None) and not one_colour_each([[1.0, 1.0, 1.0]] * 3)
    model = made("OdeonShapesCheckpoint")[0]
    with pytest.raises(ValueError, match="OdeonSamplerInverseProblem"):
        run(model, made("OdeonColorize")[0], torch.tensor([14.0, 1.0, 0.0]))


@pytest.fixture(scope="module")
def shapes():
    model, clip, vae = made("OdeonShapesCheckpoint")
    images, _ = made("OdeonShapes", count=2, size=64, data_seed=3)
    return model, clip.encode_from_tokens_scheduled(clip.tokenize("")), vae, images


FEW = torch.tensor([14.6, 3.0, 1.0, 0.3, 0.0])
EMPTY = torch.zeros(1, 4, 8, 8)


def restored(shapes, kind, *, latent=EMPTY, callback=None, **changes):
    """(the result of a run without a prompt, its SAMPLER)."""
    model, words, vae, images = shapes
    operator, measurement = made("OdeonOperator", image=images[1:], kind=kind, mask=right_half(64), size=1.5,
                                 kernel=torch.ones(1, 3, 3, 3))
    sampler = made("OdeonSamplerInverseProblem", operator=operator, vae=vae,
                   **{"measurement": measurement, **changes})[0]
    return run(model, sampler, FEW, latent=latent, positive=words, callback=callback), sampler


def residuals(sampler):
    return [value for _, (value,) in sampler.sampler_function.options["record"]]


@pytest.mark.parametrize("kind", ["inpaint", "jpeg", "kernel"])
def test_the_pull_brings_pictures_nearer_to_the_measurement(shapes, kind):
    kept = residuals(restored(shapes, kind)[1])
    assert kept[-1] < 0.75 * kept[0] and len(kept) == 5, kept


def test_every_method_runs_the_same_twice_and_its_curve_is_told(shapes):
    found = {}
    for method in ("dps", "psld", "stsl"):
        found[method], sampler = restored(shapes, "downscale", method=method, inner=2)
        kept = residuals(sampler)
        assert len(kept) == (8 if method == "stsl" else 4) + 1 and kept[-1] < 0.75 * kept[0]
    assert torch.equal(restored(shapes, "downscale", method="stsl", inner=2)[0], found["stsl"])
    assert not torch.allclose(found["dps"], found["psld"], atol=1e-3)
    report, plot = made("OdeonResidualCurve", sampler=sampler, latent={})["result"]
    assert report == (f"picture 1: rms residual {kept[0]:.4f} at first, {kept[-1]:.4f} at the end, {min(kept):.4f} at "
                      "best\n8 gradients; 1 is from black to white")
    assert plot.shape[-1] == 3


def test_it_is_stopped_with_the_best_so_far_and_leaves_no_trace(shapes):
    def stop(step, denoised, x, total):
        seen.append(denoised)
        if step == 2:
            raise KeyboardInterrupt

    seen, whole = [], restored(shapes, "downscale")[0]
    out, sampler = restored(shapes, "downscale", callback=stop)
    kept = residuals(sampler)
    assert len(kept) == 3 and torch.equal(out, seen[kept.index(min(kept))])
    assert torch.equal(restored(shapes, "downscale")[0], whole)


@pytest.mark.parametrize("kind", ["jpeg", "downscale"])
def test_sizes_that_the_vae_can_t_divide_lose_nothing_measured(shapes, kind):
    """RGBA of 62 x 66 px in a run of 64 x 72: what is more is free, and a plain run of 64 x 72 is still one."""
    images = torch.nn.functional.interpolate(shapes[3][1:].movedim(-1, 1), size=(62, 66)).movedim(1, -1)
    images = torch.cat([images, torch.rand(1, 62, 66, 1)], -1)
    operator, measurement = made("OdeonOperator", image=images, kind=kind)
    assert measurement.shape == ((1, 62, 66, 3) if kind == "jpeg" else (1, 15, 16, 3))
    larger, y = torch.rand(1, 3, 64, 72), measurement.movedim(-1, 1)
    own = operator.of_larger(y, 10)
    assert torch.equal(own(larger), operator(larger[..., :62, :66])) and own(torch.rand(1, 3, 80, 80)).shape[-1] > 16
    outside = own.adjoint(y, larger)[..., 62 if kind == "jpeg" else 60:, :]
    assert not outside.any() and not own.adjoint(y, larger)[..., 66 if kind == "jpeg" else 64:].any()
    out, sampler = restored(shapes, kind, measurement=measurement, latent=torch.zeros(1, 4, 8, 9), method="psld")
    assert out.shape == (1, 4, 8, 9) and residuals(sampler)[-1] < 0.75 * residuals(sampler)[0]
    with pytest.raises(ValueError, match="the measurement has the size"):
        restored(shapes, kind, measurement=measurement, latent=torch.zeros(1, 4, 9, 10))


def test_bad_input_is_named(shapes):
    with pytest.raises(ValueError, match="the measurement has the size"):
        restored(shapes, "downscale", measurement=torch.zeros(1, 64, 64, 3))
    with pytest.raises(ValueError, match="the measurement has the size"):
        restored(shapes, "downscale", latent=torch.zeros(1, 4, 16, 8))
    with pytest.raises(ValueError, match="has kept no residuals"):
        made("OdeonResidualCurve", sampler=made("OdeonSamplerDDIM")[0], latent={})
    with pytest.raises(ValueError, match="needs a mask"):
        made("OdeonOperator", image=torch.zeros(1, 8, 8, 3), kind="inpaint")
