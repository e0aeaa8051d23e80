import math

import pytest
import torch
from gmm import MEANS, UNIT_NOISE, WEIGHTS

from odeon.models.closed_form import PREDICTIONS, ClosedFormNetwork, PixelCodec, closed_form_denoise
from odeon.samplers.exponential_adams import plan_exponential_adams
from odeon.samplers.linear import run
from odeon.samplers.process import FLOW


def mixture_of_points(z, sigma):
    """E[x_0 | z] for the points MEANS with WEIGHTS, written out one item and one point at a time."""
    out = torch.zeros_like(z)
    for b in range(len(z)):
        logs = [math.log(w) - (z[b] - (1 - sigma) * m).square().sum().item() / (2 * sigma ** 2)
                for w, m in zip(WEIGHTS.tolist(), MEANS)]
        shares = [math.exp(value - max(logs)) for value in logs]
        out[b] = sum(share * m for share, m in zip(shares, MEANS)) / sum(shares)
    return out


@pytest.mark.parametrize("sigma", [1.0, 0.8, 0.3, 0.05])
def test_is_the_posterior_mean(sigma):
    z = UNIT_NOISE * sigma + (1 - sigma) * MEANS[:3]
    ours = closed_form_denoise(z, torch.full((3,), sigma, dtype=z.dtype), MEANS, log_weights=WEIGHTS.log()[None])
    assert torch.allclose(ours, mixture_of_points(z, sigma), atol=1e-12)


def test_smoothing_is_the_paper_s_formula():
    generator = torch.Generator().manual_seed(0)
    shifts = torch.randn(5, 16, generator=generator, dtype=torch.float64)
    z, sigma, s = 0.5 * UNIT_NOISE + 0.5 * MEANS[:3], 0.5, 0.4
    ours = closed_form_denoise(z, torch.full((3,), sigma, dtype=z.dtype), MEANS, shifts=shifts, smoothing=s)
    for b in range(3):
        expected = torch.zeros(16, dtype=z.dtype)
        for e in shifts:
            logs = torch.stack([
                -((z[b] - (1 - sigma) * m).square().sum() - 2 * s * (1 - sigma) * (e @ m)) / (2 * sigma ** 2)
                for m in MEANS])
            expected += torch.softmax(logs, 0) @ MEANS / 5
        assert torch.allclose(ours[b], expected, atol=1e-12)


def flow_run(model, steps=40):
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(24, 16, generator=generator, dtype=torch.float64)
    sigmas = [1.0 - i / steps for i in range(steps)] + [0.0]
    return run(model, start, plan_exponential_adams(sigmas, order=2, process=FLOW))


def distances(x):
    return torch.cdist(x, MEANS).min(1).values


def level(x, sigma):
    return torch.full((len(x),), sigma, dtype=x.dtype)


def test_ends_on_a_picture_without_smoothing_and_between_them_with():
    assert distances(flow_run(lambda z, s: closed_form_denoise(z, level(z, s), MEANS))).max() < 1e-3
    shifts = torch.randn(64, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    smooth = flow_run(lambda z, s: closed_form_denoise(z, level(z, s), MEANS, shifts=shifts, smoothing=2.0))
    assert distances(smooth).median() > 0.05
    # still within the convex hull: no direction sticks out further than the pictures do
    directions = torch.randn(200, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert ((smooth @ directions.T) <= (MEANS @ directions.T).max(0).values + 1e-9).all()


def test_all_neighbours_are_the_whole_and_few_come_near():
    generator = torch.Generator().manual_seed(4)
    pictures = torch.randn(200, 16, generator=generator, dtype=torch.float64)
    z = torch.randn(8, 16, generator=generator, dtype=torch.float64)
    order = torch.randperm(200, generator=generator)
    whole = closed_form_denoise(z, level(z, 0.7), pictures)
    near = [
        (closed_form_denoise(z, level(z, 0.7), pictures, neighbours=k, extra=extra, extra_order=order) - whole).norm()
        for k, extra in ((200, 10), (199, 1), (100, 50), (20, 50), (20, 0))]
    assert near[0] == 0.0
    assert near[1] < 1e-12
    assert near[2] < near[3] < near[4]


def test_weights_restrict_exactly():
    keep = torch.tensor([0, 2, 5])
    weights = torch.full((1, 6), -math.inf, dtype=torch.float64)
    weights[0, keep] = 0.0
    z = UNIT_NOISE
    only = closed_form_denoise(z, level(z, 0.6), MEANS[keep])
    assert torch.allclose(closed_form_denoise(z, level(z, 0.6), MEANS, log_weights=weights), only, atol=1e-13)
    few = closed_form_denoise(z, level(z, 0.6), MEANS, log_weights=weights, neighbours=2, extra=4,
                              extra_order=torch.arange(6))
    assert torch.allclose(few, only, atol=1e-13)


def network(prediction, **options):
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(7, 12, 2, 2, generator=generator) * 2.0 - 1.0
    axes = torch.eye(7)
    return ClosedFormNetwork(pictures, axes, prediction=prediction, **options), pictures


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_prediction_type_is_the_same_model(prediction):
    """The network's output, undone by the definition of its prediction type, is the posterior mean of its own state."""
    model, pictures = network(prediction)
    x0, eps = pictures[:2], torch.randn(2, 12, 2, 2, generator=torch.Generator().manual_seed(1))
    if prediction == "flow":
        sigma = torch.tensor([0.4, 0.9])
        wide = sigma.reshape(2, 1, 1, 1)
        z = (1 - wide) * x0 + wide * eps
        denoised = z - wide * model(z, sigma * 1000.0)
    else:
        sigma = torch.tensor([0.7, 9.0])
        wide = sigma.reshape(2, 1, 1, 1)
        x = x0 + wide * eps
        output = model(x / (1 + wide.square()).sqrt(), model.levels.timestep(sigma))
        denoised = x - wide * output if prediction == "eps" else \
            x / (1 + wide.square()) - output * wide / (1 + wide.square()).sqrt()
        z, sigma = x / (1 + wide), sigma / (1 + sigma)
    expected = closed_form_denoise(z.flatten(1).double(), sigma.double(), pictures.flatten(1).double())
    assert torch.allclose(denoised.flatten(1).double(), expected, atol=2e-5)


def test_prompt_rows_choose_pictures():
    model, pictures = network("flow")
    z = torch.randn(1, 12, 2, 2, generator=torch.Generator().manual_seed(1))
    row = torch.zeros(1, 3, 7)
    row[0, 1, 4] = 1.0
    out = z - 0.99 * model(z, torch.tensor([990.0]), context=row)
    assert torch.allclose(out, pictures[4:5], atol=1e-5)
    nothing = model(z, torch.tensor([990.0]), context=torch.zeros(1, 1, 7))
    assert torch.allclose(nothing, model(z, torch.tensor([990.0])), atol=1e-6)


def test_codec_loses_nothing_and_reaches_every_picture():
    codec = PixelCodec(64, 32)
    pixels = torch.rand(2, 3, 64, 32) * 2.0 - 1.0
    latents = codec.encode(pixels)
    assert latents.shape == (2, 192, 8, 4)
    assert torch.allclose(codec.decode(latents), pixels, atol=1e-6)
    white = codec.encode(torch.ones(1, 3, 64, 32))
    assert white.norm().item() == pytest.approx(8 * 3 ** 0.5, rel=1e-5)
    factors = torch.tensor(codec.rgb_factors())
    means = latents.movedim(1, -1) @ factors
    assert torch.allclose(means[0, 0, 0], pixels[0, :, :8, :8].mean((1, 2)), atol=1e-5)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="prediction must be one of eps, v, flow, got 'x0'"):
        network("x0")
    model, _ = network("eps")
    with pytest.raises(ValueError, match="made from 16 x 16 px pictures, got a latent of 32 x 16 px"):
        model(torch.zeros(1, 12, 2, 4), torch.tensor([3.0]))
    with pytest.raises(ValueError, match="takes latents of 12 channels, got 4"):
        model(torch.zeros(1, 4, 2, 2), torch.tensor([3.0]))
