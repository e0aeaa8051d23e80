"""DiffuseHigh: its parts, and its claim on the exact mixture with its 16 numbers as pictures of 4 x 4."""
import pytest
import torch
from embedded_editing import build, shapes, words
from gmm import UNIT_NOISE, denoise, log_spaced

from odeon.editing.diffuse_high import enlarged, scales_of_text, structure_guided
from odeon.editing.path import euler_path
from odeon.editing.wavelets import low_band, with_low_band


def run(x, sigmas):
    *_, last = euler_path(lambda x, sigma: denoise(x.flatten(1), sigma).reshape(x.shape), x, sigmas)
    return last


def test_the_structure_held_is_nearer_to_the_guide_s():
    guide = denoise(UNIT_NOISE * 3.0, 3.0).reshape(-1, 1, 4, 4).flip(0)
    low, sigmas = low_band(guide, "haar"), [*log_spaced(14, top=6.0, bottom=0.05), 0.0]
    x = guide + sigmas[0] * UNIT_NOISE.reshape(guide.shape)

    def keep(denoised):
        return with_low_band(low, denoised, "haar")

    off = [(low_band(structure_guided(run, x, sigmas, keep=keep, dwt_steps=count), "haar") - low).norm()
           for count in (0, 5, 7, 12)]
    assert off[1] < 0.9 * off[0] and off[2] < 0.5 * off[0] and off[3] < 0.2 * off[0]
    assert structure_guided(run, x, sigmas, keep=lambda denoised: denoised, dwt_steps=4).allclose(run(x, sigmas)[0])


def test_all_steps_held_end_on_the_guide_s_structure():
    guide, sigmas = torch.rand(2, 1, 4, 4, dtype=torch.float64), [4.0, 2.0, 1.0, 0.0]
    low = low_band(guide, "haar")
    out = structure_guided(run, guide + 4.0, sigmas, keep=lambda d: with_low_band(low, d, "haar"), dwt_steps=3)
    assert (low_band(out, "haar") - low).abs().max() < 1e-10


def test_enlarging_and_sharpening():
    flat = torch.full((1, 3, 8, 8), 0.3)
    assert (enlarged(flat, (13, 20), alpha=2.0) - 0.3).abs().max() < 1e-6
    edge = torch.zeros(1, 1, 8, 8)
    edge[..., 4:] = 1.0
    plain, sharp = (enlarged(edge, (16, 16), alpha=alpha) for alpha in (0.0, 1.0))
    assert sharp.max() > plain.max() + 0.05 and sharp.min() < plain.min() - 0.05
    assert torch.equal(enlarged(edge, (8, 8), alpha=0.0), edge)
    with pytest.raises(ValueError, match="kernel must be odd, got 4; take 5"):
        enlarged(edge, (8, 8), kernel=4)


def test_scales_are_read():
    assert scales_of_text(" 1.5, 2,4 ") == [1.5, 2.0, 4.0]
    for text in ("", "1", "2, 1.5", "two", "nan", "2000"):
        with pytest.raises(ValueError, match="scales must be rising factors"):
            scales_of_text(text)


SMALL = {"scales": "1.5", "cfg": 3.0, "steps": 6, "noising_steps": 2, "dwt_steps": 1}


@pytest.mark.parametrize("kind", ["shapes-unet", "shapes-dit-small"])
def test_it_enlarges_any_size_of_a_batch_with_transparency(kind):
    model, clip, vae = shapes(kind)
    images, _ = build("OdeonShapes", count=2, size=128, data_seed=4)
    images = torch.cat([images, torch.ones(2, 128, 128, 1)], dim=-1)[:, :60, :77]
    options = {"model": model, "vae": vae, "positive": words(clip, "a small red star in the middle on sand"),
               "negative": words(clip, ""), **SMALL}
    out, = build("OdeonDiffuseHigh", image=images, **options)
    assert out.shape == (2, 90, 116, 3) and torch.isfinite(out).all()
    assert torch.equal(build("OdeonDiffuseHigh", image=images, **options)[0], out)
    alone, = build("OdeonDiffuseHigh", image=images[1:], **options)
    assert (alone - out[1:]).abs().max() < 1e-3
    other, = build("OdeonDiffuseHigh", image=images, **options, seed=1)
    assert (other - out).abs().max() > 2e-3


def test_the_mix_node_takes_other_sizes_and_one_for_all():
    images, _ = build("OdeonShapes", count=2, size=128)
    out, = build("OdeonWaveletMix", low=images[:1, ::2, ::2], details=images[:, :100, :90])
    assert out.shape == (2, 100, 90, 3) and out.min() >= 0.0 and out.max() <= 1.0
    same, = build("OdeonWaveletMix", low=images, details=images)
    assert (same - images).abs().max() < 1e-5
    with pytest.raises(ValueError, match="need as many pictures in both, or one in either, got 2 and 3"):
        build("OdeonWaveletMix", low=images, details=images[[0, 1, 0]])
