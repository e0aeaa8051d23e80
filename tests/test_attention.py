import math

import pytest
import torch
from torch.nn import functional

from odeon.guidance.attention import adaptive_scale, away_from, identity_attention, smoothed_attention

GRID = (5, 7)
PLACES = 35


def drawn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attend(q, k, v):
    q, k, v = (value.unflatten(-1, (2, -1)).transpose(1, 2) for value in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)


def rows(words):
    return {"attend": attend, "image": slice(words, words + PLACES), "grid": GRID}


def test_identity_map_is_the_value_of_each_place_and_words_keep_their_attention():
    q, k, v = drawn(3, 2, 40, 8)
    out = identity_attention(q, k, v, **rows(4))
    assert torch.equal(out[:, 4:39], v[:, 4:39])
    plain = attend(q, k, v)
    assert torch.equal(out[:, :4], plain[:, :4]) and torch.equal(out[:, 39:], plain[:, 39:])
    q, k, v = drawn(3, 2, PLACES, 8)
    assert torch.equal(identity_attention(q, k, v, **rows(0)), v)


def test_blurred_queries_are_blurred_logits():
    """Whatever the keys, the logits over queries are those of plain attention, blurred over the grid."""
    q, k, v = drawn(3, 1, PLACES + 4, 8)
    seen = {}

    def look(q, k, v):
        seen["q"] = q
        return attend(q, k, v)

    out = smoothed_attention(q, k, v, **{**rows(4), "attend": look}, blur=0.6)
    logits, blurred = q @ k.mT, seen["q"] @ k.mT
    kernel = torch.exp(-0.5 * (torch.arange(-2, 3, dtype=torch.float64) / 0.6).square())
    kernel = kernel / kernel.sum()
    grids = logits[0, 4:].T.unflatten(1, GRID)[:, None]
    padded = functional.pad(grids, (2, 2, 2, 2), mode="reflect")
    expected = functional.conv2d(padded, torch.outer(kernel, kernel)[None, None])[:, 0].flatten(1).T
    assert (blurred[0, 4:] - expected).abs().max() < 1e-6  # the blur itself is float32
    assert torch.equal(seen["q"][:, :4], q[:, :4])
    assert torch.equal(out[:, :4], attend(q, k, v)[:, :4])


def test_no_blur_is_plain_attention_and_an_infinite_one_the_mean_query():
    q, k, v = drawn(3, 2, PLACES, 8).float()
    assert torch.equal(smoothed_attention(q, k, v, **rows(0), blur=0.0), attend(q, k, v))
    out = smoothed_attention(q, k, v, **rows(0), blur=-1.0)
    mean = attend(q.mean(1, keepdim=True), k, v)
    assert torch.allclose(out, mean.expand_as(out), atol=1e-6)
    wide = smoothed_attention(q, k, v, **rows(0), blur=1000.0)  # the kernel is cut to the grid: a box
    assert torch.isfinite(wide).all() and not torch.allclose(wide, attend(q, k, v), atol=1e-3)


def test_entries_of_a_batch_stay_apart():
    q, k, v = drawn(3, 3, PLACES, 8)
    for rule in (identity_attention, smoothed_attention):
        whole = rule(q, k, v, **rows(0))
        for i in range(3):
            assert torch.allclose(whole[i:i + 1], rule(q[i:i + 1], k[i:i + 1], v[i:i + 1], **rows(0)), atol=1e-7)
    cond, worse, denoised = drawn(3, 3, 4, 5, 5)
    whole = away_from(denoised, cond, worse, scale=3.0, rescale=0.7)
    for i in range(3):
        alone = away_from(*(value[i:i + 1] for value in (denoised, cond, worse)), scale=3.0, rescale=0.7)
        assert torch.allclose(whole[i:i + 1], alone, atol=1e-14)


def test_the_push_and_its_limits():
    cond, worse, denoised = drawn(3, 2, 4, 5, 5)
    assert torch.equal(away_from(denoised, cond, worse, scale=0.0), denoised)
    assert torch.allclose(away_from(denoised, cond, worse, scale=3.0), denoised + 3.0 * (cond - worse), atol=1e-14)
    for mode, base in (("full", denoised), ("partial", cond)):
        out = away_from(denoised, cond, worse, scale=3.0, rescale=1.0, mode=mode)
        push = 3.0 * (cond - worse)
        share = cond.std((1, 2, 3), keepdim=True) / (base + push).std((1, 2, 3), keepdim=True)
        assert torch.allclose(out, denoised + push * share, atol=1e-13)


def test_the_adaptive_scale_fades_with_the_noise():
    assert adaptive_scale(3.0, 0.2, 0.0) == 3.0
    assert adaptive_scale(3.0, 1.0, 1.0) == 3.0
    assert adaptive_scale(3.0, 0.99, 1.0) == 0.0
    assert adaptive_scale(3.0, 0.5, 0.2) == pytest.approx(3.0 * (1.0 - 0.2 ** 4 * 500.0))
    times = [adaptive_scale(3.0, time / 10, 0.2) for time in range(11)]
    assert all(a <= b for a, b in zip(times, times[1:])) and times[0] == 0.0


def test_bad_input_is_named():
    one = drawn(1, 4, 2, 2)
    with pytest.raises(ValueError, match="mode must be"):
        away_from(one, one, one, scale=1.0, mode="half")
    assert torch.isfinite(away_from(one, torch.ones_like(one), torch.ones_like(one), scale=1.0, rescale=1.0)).all()
    assert math.isfinite(adaptive_scale(3.0, 0.0, 1.0))
