"""Wavelet bands: recorded runs, exact inverses, and mixes that keep what they should."""
import pytest
import torch
from golden_runs import load, tensor

from odeon.editing.wavelets import WAVES, _filters, dwt, idwt, low_band, wavelet_mix, with_low_band

GOLDEN = load("editing/diffusehigh_dwt")


def pictures(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("run", GOLDEN["runs"], ids=lambda run: f"{run['settings']['wave']} {len(run['image'])}")
def test_golden_parity(run):
    wave, levels = run["settings"]["wave"], run["settings"]["level"]
    image, guide = (tensor(run[key])[None, None] for key in ("image", "guide"))
    assert (low_band(guide, wave, levels)[0, 0] - tensor(run["LL_guide"])).abs().max() < 1e-9
    bands, = run["H_image_per_level_LH_HL_HH"]
    found = dwt(image, wave).high[0, 0]
    assert found.shape == tensor(bands).shape and (found - tensor(bands)).abs().max() < 1e-9
    mixed = wavelet_mix(guide, image, wave=wave, levels=levels)
    assert (mixed[0, 0] - tensor(run["mixed"])).abs().max() < 1e-9


def test_db4_s_filters_are_the_published_ones():
    found = _filters("db4", torch.zeros(1, dtype=torch.float64))
    for row, name in zip(found, ("dec_lo", "dec_hi", "rec_lo", "rec_hi")):
        assert (row - tensor(GOLDEN["db4"][name])).abs().max() < 1e-14


@pytest.mark.parametrize("size", [(16, 16), (13, 10), (7, 31), (1, 2), (3, 3)])
@pytest.mark.parametrize("wave", WAVES)
def test_the_inverse_is_exact_at_any_size(wave, size):
    x = pictures(2, 3, *size)
    assert (idwt(dwt(x, wave), size, wave) - x).abs().max() < 1e-12


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("wave", WAVES)
def test_a_picture_mixed_with_itself_comes_back(wave, levels):
    x = pictures(1, 3, 27, 34)
    assert (wavelet_mix(x, x, wave=wave, levels=levels) - x).abs().max() < 1e-12


@pytest.mark.parametrize("levels", [1, 2])
def test_a_mix_has_the_low_band_of_one_and_the_rest_of_the_other(levels):
    low, details = pictures(1, 2, 64, 48), pictures(1, 2, 64, 48, seed=1)
    mixed = wavelet_mix(low, details, wave="haar", levels=levels)
    assert (low_band(mixed, "haar", levels) - low_band(low, "haar", levels)).abs().max() < 1e-10
    assert (dwt(mixed, "haar").high - dwt(details, "haar").high).abs().max() < 1e-10
    inside = (..., slice(8, -8), slice(8, -8))
    mixed = wavelet_mix(low, details, wave="db4")
    assert (low_band(mixed)[inside] - low_band(low)[inside]).abs().max() < 1e-10
    assert (dwt(mixed).high[inside] - dwt(details).high[inside]).abs().max() < 1e-10


def test_flat_pictures_are_low_and_chequered_ones_detail():
    flat = torch.full((1, 1, 32, 32), 0.5, dtype=torch.float64)
    chequered = 1.0 - 2.0 * ((torch.arange(32)[:, None] + torch.arange(32)) % 2).double()[None, None]
    for wave in WAVES:
        assert dwt(flat, wave).high.abs().max() < 1e-12
        inside = low_band(chequered, wave)[..., 4:-4, 4:-4]
        assert inside.abs().max() < 1e-12
        assert (wavelet_mix(flat, flat + chequered, wave=wave) - flat - chequered)[..., 8:-8, 8:-8].abs().max() < 1e-10


def test_items_and_channels_stay_apart():
    low, details = pictures(3, 3, 20, 20), pictures(3, 3, 20, 20, seed=1)
    whole = wavelet_mix(low, details, levels=2)
    for i in range(3):
        alone = wavelet_mix(low[i:i + 1, i:i + 1], details[i:i + 1, i:i + 1], levels=2)
        assert torch.allclose(whole[i:i + 1, i:i + 1], alone, atol=1e-12)


def test_bad_input_is_named():
    x = pictures(1, 3, 16, 16)
    with pytest.raises(ValueError, match="wave must be one of db4, haar, got 'db5'"):
        wavelet_mix(x, x, wave="db5")
    with pytest.raises(ValueError, match="levels must lie from 1 to 4 for pictures of 16 x 16 px, got 5"):
        wavelet_mix(x, x, levels=5)
    with pytest.raises(ValueError, match="need one size and batch"):
        wavelet_mix(x, x[..., :8])
    with pytest.raises(ValueError, match="the low band of a picture of this size is"):
        with_low_band(x, x)
