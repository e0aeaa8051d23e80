"""Delta denoising: identity, where it rests, what it costs."""
import pytest
import torch
from gmm import LABELS, MEANS, UNIT_NOISE, denoise, denoise_flow

from odeon.editing.delta_denoise import mixed_order, sample_delta_denoise
from odeon.samplers.noise import step_noise
from odeon.samplers.process import FLOW, VE

CLEAN = MEANS[:1].repeat(3, 1) + 0.3 * UNIT_NOISE
LEVELS = {VE: [14.6 * (0.1 / 14.6) ** (i / 60) for i in range(61)] + [0.0],
          FLOW: [0.98 * (1.0 - i / 60) for i in range(61)]}
DENOISE = {VE: denoise, FLOW: denoise_flow}


def edited(process=VE, *, target=1, clean=CLEAN, model=None, levels=None, **options):
    def under(label):
        return lambda x, sigma: DENOISE[process](x, sigma[0].item(), label)

    return sample_delta_denoise(model or under(target), None, levels or LEVELS[process], source=under(0), clean=clean,
                                process=process, **{"noise_sampler": step_noise(clean, 0, "dds"), **options})


@pytest.mark.parametrize("process", [VE, FLOW], ids=["VE", "flow"])
def test_same_words_give_the_picture_back(process):
    assert torch.equal(edited(process, target=0), CLEAN)


@pytest.mark.parametrize("process", [VE, FLOW], ids=["VE", "flow"])
def test_the_picture_becomes_what_is_asked(process):
    assert (LABELS[torch.cdist(edited(process), MEANS).argmin(1)] == 1).all()


@pytest.mark.parametrize("process", [VE, FLOW], ids=["VE", "flow"])
def test_it_descends_along_the_difference_of_predicted_noise(process):
    sigma, noise, seen = 0.7, UNIT_NOISE, []

    def eps(x, label):
        return (x - process.alpha(sigma) * DENOISE[process](x, sigma, label)) / sigma

    out = edited(process, levels=[sigma, 0.0], rate=0.05, noise_sampler=lambda *_: noise,
                 callback=lambda i, x, denoised, level, of: seen.append((i, level, of)))
    x = process.alpha(sigma) * CLEAN + sigma * noise
    assert torch.allclose(out, CLEAN - 0.05 * (eps(x, 1) - eps(x, 0)), atol=1e-12) and seen == [(0, sigma, 1)]


def test_it_rests_where_the_offset_is_the_mean_difference():
    shift = 2.0 * UNIT_NOISE[:1]
    gone = [(edited(model=lambda x, sigma: denoise(x - shift, sigma[0].item(), 0) + shift, rate=rate,
                    clean=MEANS[:1]) - MEANS[:1] - shift).norm() / shift.norm() for rate in (0.1, 0.3, 1.0)]
    assert gone == sorted(gone, reverse=True) and gone[-1] < 0.02  # a world moved by shift is found


def test_a_large_rate_never_passes_the_resting_point():
    shift = UNIT_NOISE[:1]
    out = edited(model=lambda x, sigma: denoise(x - shift, sigma[0].item(), 0) + shift, rate=100.0, clean=MEANS[:1])
    assert torch.allclose(out, MEANS[:1] + shift, atol=1e-9)


def test_levels_come_once_each_and_spread_at_every_time():
    for count in (1, 2, 17, 200):
        assert sorted(mixed_order(count)) == list(range(count))
    parts = [mixed_order(200)[i:i + 20] for i in range(0, 200, 20)]
    assert all(min(part) < 40 and max(part) >= 160 and 80 < sum(part) / 20 < 120 for part in parts)


def test_an_item_of_a_batch_is_its_single_run_and_levels_above_0_are_kept():
    whole = edited()
    for item in range(3):
        assert torch.allclose(edited(clean=CLEAN[item:item + 1]), whole[item:item + 1], atol=1e-12)
    part = edited(FLOW, levels=[0.8, 0.4], noise_sampler=lambda *_: UNIT_NOISE)
    done = edited(FLOW, levels=[0.8, 0.0], noise_sampler=lambda *_: UNIT_NOISE)
    assert torch.allclose(part, 0.6 * done + 0.4 * UNIT_NOISE, atol=1e-12)


def test_refusals():
    with pytest.raises(ValueError, match="rate must be above 0"):
        edited(rate=0.0)
