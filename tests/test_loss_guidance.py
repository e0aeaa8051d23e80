import math

import pytest
import torch
from gmm import MEANS, STDS, UNIT_NOISE, WEIGHTS, denoise, denoise_flow

from odeon.guidance.gradient import (
    edm_level,
    gradient_at,
    guided_weights,
    per_item,
    place_in,
    pull_back,
    pull_back_guided,
)
from odeon.guidance.loss import STEP_SIZES, backward_guidance, loss_step
from odeon.guidance.losses import Loss, brightness_distance, colour_distance, distance
from odeon.samplers.exponential_adams import plan_exponential_adams
from odeon.samplers.linear import run
from odeon.samplers.process import FLOW, VE

SIGMAS = [14.6 * (0.05 / 14.6) ** (i / 24) for i in range(25)] + [0.0]


def data(count):
    generator = torch.Generator().manual_seed(8)
    k = torch.multinomial(WEIGHTS, count, replacement=True, generator=generator)
    return MEANS[k] + STDS[k, None] * torch.randn(count, 16, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("step_size", "at_denoised", "scale"), [
    ("universal", False, 8.0), ("universal", True, 4.0), ("dps", False, 0.5), ("dps", True, 3.0)])
def test_a_measured_half_pulls_the_whole_picture(step_size, at_denoised, scale):
    """||A x0 - y||^2 for A half of the numbers: the mean error of the measured half is at least halved."""
    truth = data(256)
    y = truth[:, :8]

    def loss(denoised):
        return (denoised[:, :8] - y).square().sum(1)

    def model(x, sigma):
        denoised = denoise(x, sigma)
        slope, value = gradient_at(loss, denoised)
        if not at_denoised:
            slope = pull_back(lambda at: denoise(at, sigma), x, slope)
        return loss_step(denoised, slope, sigma=sigma, alpha=1.0, s_next=place_in(SIGMAS, sigma, VE).s_next,
                         scale=scale, step_size=step_size, at_denoised=at_denoised, loss=value)

    start = 14.6 * torch.randn(256, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    plain, guided = (run(m, start, plan_exponential_adams(SIGMAS, order=1)) for m in (denoise, model))
    errors = [(end - truth)[:, :8].square().mean() for end in (plain, guided)]
    rest = [(end - truth)[:, 8:].square().mean() for end in (plain, guided)]
    assert errors[1] < 0.5 * errors[0], errors
    assert rest[1] < rest[0], rest


@pytest.mark.parametrize("step_size", STEP_SIZES)
@pytest.mark.parametrize("at_denoised", [False, True])
def test_constant_loss_or_scale_zero_changes_nothing(step_size, at_denoised):
    slope, value = gradient_at(lambda d: d.new_full((len(d),), 3.0), UNIT_NOISE)
    assert not slope.any()
    more = {"sigma": 0.5, "alpha": 0.5, "s_next": 0.2, "step_size": step_size, "at_denoised": at_denoised,
            "uncond": 0.9 * UNIT_NOISE, "loss": value}
    assert torch.equal(loss_step(UNIT_NOISE, slope, scale=1.0, **more), UNIT_NOISE)
    assert torch.equal(loss_step(UNIT_NOISE, UNIT_NOISE, scale=0.0, **more), UNIT_NOISE)
    perfect = {**more, "loss": torch.zeros(3)}
    assert torch.isfinite(loss_step(UNIT_NOISE, UNIT_NOISE, scale=1.0, **perfect)).all()


def test_gradients_are_those_of_finite_differences():
    def value(x):
        return (denoise(x, 2.0) - 1.0).abs().sum(1)

    slope, _ = gradient_at(lambda d: (d - 1.0).abs().sum(1), denoise(UNIT_NOISE, 2.0))
    found = pull_back(lambda at: denoise(at, 2.0), UNIT_NOISE, slope)
    for k in (0, 5, 15):
        h = torch.zeros_like(UNIT_NOISE)
        h[:, k] = 1e-5
        assert ((value(UNIT_NOISE + h) - value(UNIT_NOISE - h)) / 2e-5 - found[:, k]).abs().max() < 1e-6


def test_guided_gradient_is_the_sum_of_its_parts():
    labels = {"cond": 0, "uncond": None}
    both = pull_back_guided(lambda kind, at: denoise(at, 2.0, labels[kind]), UNIT_NOISE, UNIT_NOISE,
                            weights=guided_weights(5.0, through="network", guided=True))
    whole = pull_back(lambda at: 5.0 * denoise(at, 2.0, 0) - 4.0 * denoise(at, 2.0), UNIT_NOISE, UNIT_NOISE)
    assert (both - whole).abs().max() < 1e-12
    assert guided_weights(5.0, through="network", guided=False) == {"cond": 1.0}
    assert guided_weights(5.0, through="positive", guided=True) == {"cond": 1.0}


def test_tiny_and_zero_directions_pass_half_precision():
    def half(x):
        return (x.half() * 3.0).float()

    x, v = torch.ones(2, 4), torch.tensor([[1e-9], [0.0]]).expand(2, 4)
    with torch.inference_mode():
        assert torch.allclose(pull_back(half, x.clone(), v.clone()), 3.0 * v, rtol=1e-3)


@pytest.mark.parametrize("step_size", ["universal", "dps"])
def test_flow_states_get_the_step_of_the_same_picture(step_size):
    def stepped(model, x, sigma, process, s_next):
        denoised = model(x, sigma)
        slope, value = gradient_at(lambda d: d.square().sum(1), denoised)
        slope = pull_back(lambda at: model(at, sigma), x, slope)
        return loss_step(denoised, slope, sigma=sigma, alpha=process.alpha(sigma), s_next=s_next, scale=0.3,
                         step_size=step_size, loss=value)

    x = 3.0 * UNIT_NOISE
    ve, flow = stepped(denoise, x, 3.0, VE, 1.0), stepped(denoise_flow, 0.25 * x, 0.75, FLOW, 1.0)
    assert (ve - flow).abs().max() < 1e-12 and (ve - denoise(x, 3.0)).abs().max() > 1e-3
    assert edm_level(FLOW, 0.75) == pytest.approx(3.0) and edm_level(FLOW, 1.0) == math.inf


def test_freedom_pushes_as_far_as_cfg():
    cond, uncond = UNIT_NOISE, UNIT_NOISE.flip(0)
    out = loss_step(cond, 7.0 * MEANS[:3], sigma=2.0, alpha=1.0, s_next=1.0, scale=0.5, step_size="freedom",
                    uncond=uncond)
    assert torch.allclose((out - cond).norm(dim=1), 0.5 * (cond - uncond).norm(dim=1))
    with pytest.raises(ValueError, match="at CFG 1 there is none"):
        loss_step(cond, cond, sigma=2.0, alpha=1.0, s_next=1.0, scale=0.5, step_size="freedom")


def test_dps_is_the_published_step_on_an_ancestral_step():
    """x'_VP = DDPM mean - scale grad_x_VP ||r||, in the state of unit variance."""
    s, s_next, scale = 2.0, 1.2, 0.7
    x = s * UNIT_NOISE
    denoised = denoise(x, s)
    slope, value = gradient_at(lambda d: (d - 1.0).square().sum(1), denoised)
    steep = pull_back(lambda at: denoise(at, s), x, slope)
    guided = loss_step(denoised, steep, sigma=s, alpha=1.0, s_next=s_next, scale=scale, step_size="dps", loss=value)
    ratio = (s_next / s) ** 2
    moved = (1.0 - ratio) * (guided - denoised) / math.sqrt(1.0 + s_next ** 2)
    unit = math.sqrt(1.0 + s ** 2)
    y = x / unit  # the unit-variance state
    published, _ = gradient_at(lambda y: (denoise(y * unit, s) - 1.0).square().sum(1).sqrt(), y)
    assert torch.allclose(moved, -scale * published, atol=1e-12)


def test_backward_guidance_goes_down_each_item_on_its_own():
    def loss(d):
        return (d - 1.0).square().sum(1)

    out = backward_guidance(loss, UNIT_NOISE, steps=100, rate=0.05)
    assert (loss(out) < 0.05 * loss(UNIT_NOISE)).all()
    assert torch.equal(backward_guidance(loss, UNIT_NOISE, steps=0), UNIT_NOISE)
    one = backward_guidance(loss, UNIT_NOISE[1:2], steps=100, rate=0.05)
    assert torch.equal(out[1:2], one)


def test_losses_by_hand():
    pictures = torch.zeros(2, 3, 4, 4)
    pictures[1, 0, :, :2] = 1.0
    mask = torch.zeros(1, 4, 4)
    mask[:, :, :2] = 1.0
    assert torch.allclose(distance(pictures, torch.zeros(1, 3, 8, 8)), torch.tensor([0.0, 8.0]))
    assert torch.allclose(distance(pictures, torch.zeros(1, 3, 4, 4), mask=mask, kind="l1"), torch.tensor([0.0, 8.0]))
    assert not distance(pictures, torch.ones(1, 3, 4, 4), mask=torch.zeros(1, 4, 4)).any()
    assert torch.allclose(colour_distance(pictures, (1.0, 0.0, 0.0), mask=mask), torch.tensor([8.0, 0.0]))
    assert torch.allclose(brightness_distance(pictures, 0.2126, mask=mask), torch.tensor([8 * 0.2126 ** 2, 0.0]))
    bright = Loss(pictures=((2.0, lambda p: brightness_distance(p, 1.0)),))
    latent = Loss(latents=((1.0, lambda d: distance(d, torch.zeros(1, 3, 4, 4))),))
    both = (bright + latent)(pictures, decode=lambda latents: latents)
    assert torch.allclose(both, 2.0 * bright.pictures[0][1](pictures) + latent(pictures))


def test_bad_input_is_named():
    x = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match="connect a vae"):
        Loss(pictures=((1.0, lambda p: p),))(x)
    with pytest.raises(ValueError, match="has 4 channels, what is guided has 3"):
        distance(x, torch.zeros(1, 4, 4, 4))
    with pytest.raises(ValueError, match="need one target"):
        distance(x, torch.zeros(3, 3, 4, 4))
    with pytest.raises(ValueError, match="need one mask"):
        distance(x, x, mask=torch.ones(3, 4, 4))
    with pytest.raises(ValueError, match="distance must be"):
        distance(x, x, kind="x")
    with pytest.raises(ValueError, match="step_size must be one of"):
        loss_step(x, x, sigma=1.0, alpha=1.0, s_next=0.5, scale=1.0, step_size="x")
    with pytest.raises(ValueError, match="one number for each of 2 pictures"):
        gradient_at(lambda d: d.sum(), x)
    assert per_item(torch.ones(2), x).shape == (2, 1, 1, 1)
