"""Autoguidance on the mixture, with the same mixture 1.5 times as wide as the bad model."""
import torch
from gmm import MEANS, STDS, WEIGHTS, denoise, log_spaced

from odeon.guidance.autoguidance import auto_guidance
from odeon.samplers.exponential_adams import plan_exponential_adams
from odeon.samplers.linear import run


def wider(x, sigma, factor=1.5):
    variance = (factor * STDS) ** 2 + sigma ** 2
    log_share = WEIGHTS.log() - 0.5 * (x[:, None] - MEANS).square().sum(-1) / variance - 8.0 * variance.log()
    post = ((factor * STDS[:, None]) ** 2 * x[:, None] + sigma ** 2 * MEANS) / variance[:, None]
    return (torch.softmax(log_share, 1)[:, :, None] * post).sum(1)


def log_density(x):
    return (WEIGHTS.log() - 0.5 * (x[:, None] - MEANS).square().sum(-1) / STDS ** 2 - 16.0 * STDS.log()).logsumexp(1)


def components(x):
    share = (WEIGHTS.log() - 0.5 * (x[:, None] - MEANS).square().sum(-1) / STDS ** 2 - 16.0 * STDS.log()).argmax(1)
    return torch.bincount(share, minlength=len(WEIGHTS)) / len(x)


def test_samples_are_likelier_and_keep_the_shares():
    start = 14.6 * torch.randn(2000, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    plan = plan_exponential_adams([*log_spaced(24, top=14.6, bottom=0.03), 0.0], order=2)
    plain = run(denoise, start, plan)

    def guided(x, sigma):
        good = denoise(x, sigma)
        return auto_guidance(good, good, wider(x, sigma), weight=2.0)

    found = run(guided, start, plan)
    assert log_density(found).mean() > log_density(plain).mean() + 1.0
    assert (components(found) - WEIGHTS).abs().max() < 0.03


def test_neutral_values_and_the_paper_s_form():
    generator = torch.Generator().manual_seed(1)
    denoised, cond, bad = (torch.randn(2, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    assert torch.equal(auto_guidance(denoised, cond, bad, weight=1.0), denoised)
    assert torch.equal(auto_guidance(denoised, cond, cond, weight=9.0), denoised)
    assert torch.allclose(auto_guidance(cond, cond, bad, weight=3.0), bad + 3.0 * (cond - bad))
