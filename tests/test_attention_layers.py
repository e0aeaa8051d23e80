import pytest
import torch

from odeon import NODE_CLASS_MAPPINGS, host
from odeon.host.embedded.sampling import Guider, Noise

LEVELS = {"shapes-unet": [14.6, 3.0, 0.8, 0.0], "shapes-dit": [1.0, 0.8, 0.5, 0.0]}
LISTS = {"shapes-unet": "input.1, input.3, middle.0, output.0-3", "shapes-dit": "double.0-1, single.0-3"}


@pytest.fixture(scope="module", params=LEVELS)
def shapes(request):
    model, clip, _ = NODE_CLASS_MAPPINGS["OdeonShapesCheckpoint"]().load(request.param)
    words = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a red star on sand", "")]
    return request.param, model, *words


def patched(which, model, **inputs):
    cls = NODE_CLASS_MAPPINGS[which]
    values = {key: spec[1]["default"] for key, spec in cls.INPUT_TYPES()["required"].items() if "default" in spec[1]}
    return getattr(cls(), cls.FUNCTION)(model=model, **{**values, **inputs})[0]


def drawn(shapes, model, *, items=2, cfg=3.0, callback=None, mask=None):
    name, _, positive, negative = shapes
    latent = {"samples": torch.zeros(items, 4, 8, 12)}
    noise = Noise(3).generate_noise(latent)
    solver = host.solver(NODE_CLASS_MAPPINGS["OdeonSamplerDDIM"].PLAN, eta=0.0, s_noise=1.0)
    with torch.inference_mode():
        return Guider(model, positive, negative, cfg).sample(
            noise, latent["samples"], solver, torch.tensor(LEVELS[name]), seed=3, callback=callback, denoise_mask=mask)


@pytest.mark.parametrize(("which", "inputs"), [("OdeonPAG", {}), ("OdeonSEG", {}), ("OdeonSEG", {"blur": 1.0}),
                                               ("OdeonCADS", {}), ("OdeonParticleRepulsion", {"coeff": 100.0})])
def test_it_changes_the_picture_and_leaves_no_trace(shapes, which, inputs):
    model = patched(which, shapes[1], **inputs)
    clean = drawn(shapes, model)
    assert (clean - drawn(shapes, shapes[1])).abs().max() > 1e-3

    def stop(step, *_):
        if step == 1:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        drawn(shapes, model, callback=stop)
    assert torch.equal(drawn(shapes, model), clean)
    mask = torch.zeros(1, 1, 8, 12)
    mask[..., 3:9] = 1.0
    assert not drawn(shapes, model, mask=mask)[..., :3].any()


@pytest.mark.parametrize("which", ["OdeonPAG", "OdeonSEG"])
def test_layers_are_named_and_wrong_ones_listed(shapes, which):
    for wrong in ("middle.7", "double.9", "up.1", "single.2-9", "input.1.1"):
        with pytest.raises(ValueError, match=f"no self-attention layer {wrong!r}; it has {LISTS[shapes[0]]}"):
            patched(which, shapes[1], layers=wrong)
    one, other = (drawn(shapes, patched(which, shapes[1], layers=names))
                  for names in (("input.1", "output.3") if "unet" in shapes[0] else ("double.0", "single.3")))
    assert not torch.allclose(one, other, atol=1e-4)
    every = drawn(shapes, patched(which, shapes[1], layers=LISTS[shapes[0]]))
    kinds = "input, middle, output" if "unet" in shapes[0] else "double, single"
    assert torch.equal(every, drawn(shapes, patched(which, shapes[1], layers=kinds)))


def test_networks_of_other_kinds_are_named(shapes):
    model, *_ = NODE_CLASS_MAPPINGS["OdeonClosedFormModel"]().build("eps", 0.0, 8, 0, 64, 0)
    with pytest.raises(ValueError, match="self-attention of this model .ClosedFormNetwork. can't be reached"):
        patched("OdeonPAG", model)
    with pytest.raises(ValueError, match="no skip connections"):
        patched("OdeonSkipTuning", model)


def test_skips_are_scaled_in_place_of_nobody(shapes):
    if "dit" in shapes[0]:
        with pytest.raises(ValueError, match="no skip connections"):
            patched("OdeonSkipTuning", shapes[1])
        return
    plain = drawn(shapes, shapes[1])
    assert torch.equal(drawn(shapes, patched("OdeonSkipTuning", shapes[1], rho_bottom=1.0)), plain)
    by_block, by_resolution = (drawn(shapes, patched("OdeonSkipTuning", shapes[1], levels=levels))
                               for levels in ("block", "resolution"))
    assert not torch.allclose(by_block, by_resolution, atol=1e-5) and not torch.allclose(by_block, plain, atol=1e-4)
    assert torch.equal(drawn(shapes, shapes[1]), plain)


def test_cfg_pp_needs_a_negative_and_evaluates_it_at_cfg_1(shapes):
    name, model, positive, negative = shapes
    wrap = NODE_CLASS_MAPPINGS["OdeonWrapCFGPP"]()
    solver, = wrap.build(host.solver(NODE_CLASS_MAPPINGS["OdeonSamplerDDIM"].PLAN, eta=0.0, s_noise=1.0),
                         history="guided")
    latent = torch.zeros(1, 4, 8, 12)
    noise, sigmas = Noise(3).generate_noise({"samples": latent}), torch.tensor(LEVELS[name])
    with torch.inference_mode():
        out = Guider(model, positive, negative, 1.0).sample(noise, latent, solver, sigmas)
        plain = Guider(model, positive, negative, 0.0).sample(noise, latent, solver, sigmas)
    assert not torch.allclose(out, plain, atol=1e-3)
    with pytest.raises(ValueError, match="needs a negative prompt"), torch.inference_mode():
        Guider(model, positive, None, 1.0).sample(noise, latent, solver, sigmas)
