import math

import pytest
import torch
from gmm import LABELS, MEANS, denoise, log_spaced

from odeon.guidance.particles import repelled, repulsion
from odeon.samplers.ddim import plan_ddim
from odeon.samplers.linear import run


def drawn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_it_is_the_gradient_of_the_kernel_with_its_width_held():
    """r_i = -grad_i sum_j exp(-d_ij^2 / h_i)."""
    features = drawn(5, 3, 4)
    found = repulsion(features)
    for i in range(5):
        distances = [(features[i] - features[j]).norm() for j in range(5) if j != i]
        width = sorted(distances)[1] ** 2 / math.log(4)
        own = features[i].clone().requires_grad_()
        total = sum(torch.exp(-(own - features[j]).square().sum() / width) for j in range(5) if j != i)
        gradient, = torch.autograd.grad(total, own)
        assert torch.allclose(found[i], -gradient, atol=1e-9)


def test_one_picture_is_left_alone_and_the_order_of_many_does_not_matter():
    assert not repulsion(drawn(1, 4, 2, 2)).any()
    features, order = drawn(6, 4, 2, 2), torch.tensor([3, 1, 5, 0, 2, 4])
    assert torch.allclose(repulsion(features)[order], repulsion(features[order]), atol=1e-12)


def test_two_and_equal_pictures_are_no_division_by_zero():
    pair = drawn(2, 4)
    push = repulsion(pair)
    assert torch.allclose(push[0], -push[1], atol=1e-12) and push.norm() > 0.1
    assert ((pair[0] - pair[1]) * push[0]).sum() > 0.0  # away from the other
    assert not repulsion(pair[:1].expand(3, 4)).any()


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("count", [2, 3, 6])
def test_a_picture_that_broke_down_spoils_no_other(broken, count):
    x = drawn(count, 3, 4, 4)
    x[1, 2, 0, 3] = broken
    push, whole = repulsion(x), [i for i in range(count) if i != 1]
    assert push.isfinite().all() and not push[1].any()
    alone = repulsion(x[whole])
    assert torch.allclose(push[whole].flatten(1) / push[whole].flatten(1).norm(dim=1, keepdim=True).clamp(min=1e-9),
                          alone.flatten(1) / alone.flatten(1).norm(dim=1, keepdim=True).clamp(min=1e-9), atol=0.2)


def test_limits_and_the_flow_form():
    x, denoised = drawn(3, 4), drawn(3, 4, seed=2)
    assert repelled(denoised, x, 2.0, coeff=0.0) is denoised
    assert repelled(denoised, x, 1.0, alpha=0.0) is denoised
    for kernel in ("latent", "x0"):  # x = alpha (x_0 + s eps) is the same picture at s = sigma / alpha
        flow = repelled(denoised, 0.25 * x, 0.75, alpha=0.25, coeff=2.0, kernel="latent")
        assert torch.allclose(flow, repelled(denoised, x, 3.0, coeff=2.0, kernel="latent"), atol=1e-9), kernel
    with pytest.raises(ValueError, match="kernel must be"):
        repelled(denoised, x, 1.0, kernel="feature")


def test_a_batch_covers_more_of_the_mixture():
    """Batches of 4 at scale 4 on a class of 3 components: 2.3 of them without the repulsion, 2.6 with it."""
    sigmas = [*log_spaced(20, top=14.6, bottom=0.03), 0.0]
    start = 14.6 * drawn(80, 4, 16, seed=4)

    def covered(coeff):
        def model(x, sigma):
            cond, uncond = denoise(x, sigma, 0), denoise(x, sigma)
            guided = uncond + 4.0 * (cond - uncond)
            return guided if sigma < 1.0 else repelled(guided, x, sigma, coeff=coeff)

        nearest = [(run(model, batch, plan_ddim(sigmas))[:, None] - MEANS).norm(dim=-1).argmin(1) for batch in start]
        assert (LABELS[torch.cat(nearest)] == 0).all()
        return sum(components.unique().numel() for components in nearest) / len(nearest)

    assert covered(20.0) >= covered(0.0) + 0.25
