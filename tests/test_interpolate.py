import math

import pytest
import torch

from odeon.editing.interpolate import slerp, slerp_strip

MODES = ["slerp_per_item", "slerp_per_channel", "lerp_renormalized"]


def _pair():
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(2, 4, 8, 8, generator=generator, dtype=torch.float64) for _ in range(2))


@pytest.mark.parametrize("mode", MODES)
def test_ends_and_symmetry(mode):
    a, b = _pair()
    assert torch.allclose(slerp(a, b, 0.0, mode=mode), a, atol=1e-12)
    assert torch.allclose(slerp(a, b, 1.0, mode=mode), b, atol=1e-12)
    assert torch.allclose(slerp(a, b, 0.3, mode=mode), slerp(b, a, 0.7, mode=mode), atol=1e-12)


@pytest.mark.parametrize(("mode", "dims"), [("slerp_per_item", (1, 2, 3)), ("slerp_per_channel", (2, 3)),
                                            ("lerp_renormalized", (1, 2, 3))])
def test_equal_lengths_are_kept(mode, dims):
    a, b = (x / torch.linalg.vector_norm(x, dim=dims, keepdim=True) for x in _pair())
    for t in (0.1, 0.5, 0.8):
        lengths = torch.linalg.vector_norm(slerp(a, b, t, mode=mode), dim=dims)
        assert torch.allclose(lengths, torch.ones_like(lengths), atol=1e-12)


def test_angle_grows_evenly():
    a = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    b = torch.tensor([[math.cos(2.0), math.sin(2.0)]], dtype=torch.float64)
    x = slerp(a, b, 0.25)
    assert math.atan2(x[0, 1], x[0, 0]) == pytest.approx(0.5, abs=1e-12)


def test_parallel_and_opposite_take_the_straight_mix():
    a, _ = _pair()
    assert torch.allclose(slerp(a, a, 0.4), a)
    assert torch.isfinite(slerp(a, -a, 0.4)).all()
    assert torch.allclose(slerp(a, 3.0 * a, 0.5), 2.0 * a)
    assert torch.equal(slerp(torch.zeros_like(a), torch.zeros_like(a), 0.5), torch.zeros_like(a))


def test_strip_goes_from_end_to_end():
    a, b = _pair()
    strip = slerp_strip(a, b, 5)
    assert strip.shape == (10, 4, 8, 8)
    assert torch.allclose(strip[:2], a)
    assert torch.allclose(strip[8:], b)
    assert torch.allclose(strip[4:6], slerp(a, b, 0.5))


def test_bad_input_is_named():
    a, b = _pair()
    with pytest.raises(ValueError, match=r"need one shape, got \(2, 4, 8, 8\) and \(1, 4, 8, 8\)"):
        slerp(a, b[:1], 0.5)
    with pytest.raises(ValueError, match="mode must be"):
        slerp(a, b, 0.5, mode="x")
    with pytest.raises(ValueError, match="at least 2 points, got 1"):
        slerp_strip(a, b, 1)
