import math

import pytest
import torch
from gmm import LABELS, MEANS, STDS, UNIT_NOISE, WEIGHTS, denoise, denoise_flow
from torch import nn

from odeon.guidance.classifier import (
    FORMS,
    as_long_as,
    calibration_error,
    classifier_step,
    joint_over_marginal,
    with_softplus,
)
from odeon.guidance.gradient import Place, gradient_at, place_in
from odeon.samplers.exponential_adams import plan_exponential_adams
from odeon.samplers.linear import run
from odeon.samplers.process import FLOW, VE

CLASSES = int(LABELS.max()) + 1


def logits(x, sigma, alpha=1.0):
    """log p(y, x) of the mixture at a noise level, (B, classes)."""
    variance = alpha ** 2 * STDS ** 2 + sigma ** 2
    distance = (x[:, None] - alpha * MEANS).square().sum(-1)
    each = WEIGHTS.log() - 0.5 * distance / variance - 0.5 * x.shape[1] * variance.log()
    return torch.stack([each[:, label == LABELS].logsumexp(1) for label in range(CLASSES)], dim=1)


@pytest.mark.parametrize("process", [VE, FLOW])
def test_the_exact_classifier_turns_uncond_into_cond(process):
    sigma = 2.0 if process is VE else 0.6
    alpha, model = process.alpha(sigma), denoise if process is VE else denoise_flow
    x = sigma * UNIT_NOISE
    slope, _ = gradient_at(lambda x: joint_over_marginal(logits(x, sigma, alpha), 1, tau_marginal=1.0), x)
    place = place_in([sigma, 0.0], sigma, process)
    out = classifier_step(model(x, sigma), slope, place, sigma=sigma, alpha=alpha, scale=1.0, form="textbook")
    assert (out - model(x, sigma, 1)).abs().max() < 1e-10


def test_objective_is_log_softmax_at_1_and_the_joint_logit_at_0():
    f = UNIT_NOISE[:, :5]
    assert torch.allclose(joint_over_marginal(f, 2, tau_marginal=1.0), f.log_softmax(1)[:, 2])
    plain, _ = gradient_at(lambda f: joint_over_marginal(f, 2, tau_joint=0.7, tau_marginal=0.0), f)
    assert torch.allclose(plain, 0.7 * torch.nn.functional.one_hot(torch.tensor(2), 5).double().expand(3, 5))
    assert torch.allclose(joint_over_marginal(f, torch.tensor([0, 1, 2])),
                          torch.stack([joint_over_marginal(f, i)[i] for i in range(3)]))
    with pytest.raises(ValueError, match="has classes 0 to 4, got 5"):
        joint_over_marginal(f, 5)


@pytest.mark.parametrize("gamma", [0.0, 0.3])
def test_the_paper_s_form_is_its_ddpm_step(gamma):
    """On ancestral steps the unit-variance state moves by (Sigma_t + a_t) g, with the paper's own numbers."""
    sigmas = [14.6, 6.0, 2.5, 1.0, 0.3, 0.0]
    bars = [1.0 / (1.0 + s * s) for s in sigmas]
    variances = [(1.0 - nxt) / (1.0 - bar) * (1.0 - bar / nxt) for bar, nxt in zip(bars, bars[1:])]  # DDPM, eq. 7
    for i, variance in enumerate(variances):
        place, t = place_in(sigmas, sigmas[i], VE), len(variances) - 1 - i
        assert place.variance == pytest.approx(variance, abs=1e-14)
        out = classifier_step(0.0 * UNIT_NOISE, UNIT_NOISE, place, sigma=sigmas[i], alpha=1.0, scale=2.0, gamma=gamma)
        moved = (1.0 - (sigmas[i + 1] / sigmas[i]) ** 2) * out * math.sqrt(bars[i + 1])
        extra = gamma * math.sin(math.pi * t / len(variances)) * max(variances[:i + 1])
        assert torch.allclose(moved, 2.0 * (variance + extra) * UNIT_NOISE, atol=1e-13)


@pytest.mark.parametrize("form", FORMS)
def test_more_scale_more_of_the_class(form):
    sigmas = [14.6 * (0.05 / 14.6) ** (i / 15) for i in range(16)] + [0.0]
    start = 14.6 * torch.randn(256, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def ends(scale):
        def model(x, sigma):
            denoised = denoise(x, sigma)
            seen, level = (denoised, 0.3) if form == "denoised" else (x, sigma)
            slope, _ = gradient_at(lambda at: joint_over_marginal(logits(at, level), 1, tau_marginal=1.0), seen)
            return classifier_step(denoised, slope, place_in(sigmas, sigma, VE), sigma=sigma, alpha=1.0, scale=scale,
                                   form=form)
        end = run(model, start, plan_exponential_adams(sigmas, order=1))
        return logits(end, 0.0).log_softmax(1)[:, 1].mean().item()

    scores = [ends(scale) for scale in ((0.0, 0.01, 0.02) if form == "denoised" else (0.0, 0.5, 1.0))]
    assert scores[0] < scores[1] < scores[2], scores


def test_neutral_scale_and_a_flow_s_first_level():
    place = place_in([1.0, 0.5, 0.0], 1.0, FLOW)
    for form in FORMS:
        out = classifier_step(UNIT_NOISE, UNIT_NOISE, place, sigma=1.0, alpha=0.0, scale=0.0, form=form)
        assert torch.equal(out, UNIT_NOISE)
    assert torch.equal(classifier_step(UNIT_NOISE, UNIT_NOISE, place, sigma=1.0, alpha=0.0, scale=1.0,
                                       form="textbook"), UNIT_NOISE)
    pushed = classifier_step(UNIT_NOISE, UNIT_NOISE, place, sigma=1.0, alpha=0.0, scale=1.0)
    assert torch.isfinite(pushed).all() and not torch.equal(pushed, UNIT_NOISE)
    with pytest.raises(ValueError, match="form must be one of"):
        classifier_step(UNIT_NOISE, UNIT_NOISE, place, sigma=1.0, alpha=0.0, scale=1.0, form="x")


def test_normalized_gradients_have_the_length_asked_for():
    out = as_long_as(UNIT_NOISE, 3.0 * MEANS[:3])
    assert torch.allclose(out.norm(dim=1), 3.0 * MEANS[:3].norm(dim=1))
    assert not as_long_as(torch.zeros(2, 4), torch.ones(2, 4)).any()


def test_softplus_takes_every_relu_s_place_in_a_copy():
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Sequential(nn.ReLU(), nn.Linear(8, 3)))
    with torch.inference_mode():
        made = with_softplus(network, 5.0)
    kinds = [type(module) for module in made.modules()]
    assert kinds.count(nn.Softplus) == 2 and nn.ReLU not in kinds and made[1].beta == 5.0
    assert isinstance(network[1], nn.ReLU) and not any(value.is_inference() for value in made.parameters())
    x = torch.randn(5, 4)
    assert torch.equal(with_softplus(network, 0.0)(x), network(x))


def test_calibration_error_by_hand_and_of_the_exact_posterior():
    sure = torch.tensor([[5.0, 0.0], [5.0, 0.0]])
    confidence = sure.double().softmax(1)[0, 0].item()
    assert calibration_error(sure, torch.tensor([0, 1])) == pytest.approx(abs(0.5 - confidence))
    assert calibration_error(100.0 * sure, torch.tensor([0, 0])) < 1e-12
    generator = torch.Generator().manual_seed(0)
    k = torch.multinomial(WEIGHTS, 8192, replacement=True, generator=generator)
    x = MEANS[k] + (STDS[k, None].square() + 4.0).sqrt() * torch.randn(8192, 16, generator=generator,
                                                                       dtype=torch.float64)
    exact = logits(x, 2.0)
    assert calibration_error(exact, LABELS[k]) < 0.015
    assert calibration_error(3.0 * exact, LABELS[k]) > 2.0 * calibration_error(exact, LABELS[k])


def test_mid_level_calls_push_by_their_own_step():
    place = place_in([4.0, 2.0, 0.0], 3.0, VE)
    assert place == Place(0, [3.0, 2.0, 0.0])
