"""The PFGM++ prior: its lengths, its limit, batches."""
import pytest
import torch

from odeon.samplers.pfgmpp import pfgmpp_noise


def noise(items, *shape, seed=0):
    return torch.randn(items, *shape, generator=torch.Generator().manual_seed(seed))


def test_lengths_follow_the_prior():
    scipy = pytest.importorskip("scipy.stats")
    items, size, dims = 3000, 16, 24
    out = pfgmpp_noise(noise(items, size), extra_dims=dims)
    ratio = out.square().sum(1) / dims  # y / (1 - y) with y ~ Beta(N / 2, D / 2)
    assert scipy.kstest((ratio / (1.0 + ratio)).numpy(), scipy.beta(size / 2, dims / 2).cdf).pvalue > 0.01
    squares = out.square().mean(1)
    wanted = dims / (dims - 2)
    assert abs(squares.mean() - wanted) < 3.0 * squares.std() / items ** 0.5


def test_directions_stay_and_very_many_dimensions_are_plain_noise():
    plain = noise(4, 4, 8, 8)
    out = pfgmpp_noise(plain, extra_dims=32)
    flat, flat_out = plain.flatten(1), out.flatten(1)
    assert torch.allclose(flat / flat.norm(dim=1, keepdim=True), flat_out / flat_out.norm(dim=1, keepdim=True))
    assert (pfgmpp_noise(plain, extra_dims=2 ** 24) - plain).abs().max() < 5e-3


def test_an_item_is_its_single_run_and_the_next_another():
    plain = noise(4, 4, 8, 8)
    together = pfgmpp_noise(plain)
    assert torch.equal(together, torch.cat([pfgmpp_noise(item[None]) for item in plain]))
    assert len({round((a / b).flatten()[0].item(), 6) for a, b in zip(together, plain)}) == 4


def test_too_few_dimensions_are_refused():
    with pytest.raises(ValueError, match="extra_dims must be at least 3, got 2"):
        pfgmpp_noise(noise(1, 4), extra_dims=2)
