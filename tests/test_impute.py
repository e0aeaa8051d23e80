"""Imputation: known parts exact, the right rest on exact problems, predictors, colours, batches and what is refused."""
import math

import pytest
import torch
from gmm import MEANS, STDS, UNIT_NOISE, WEIGHTS, denoise, denoise_flow

from odeon.editing.impute import GREYS, PREDICTORS, grey_part, langevin, plan_predictor, sample_colorize, sample_impute
from odeon.samplers.ddim import plan_ddim
from odeon.samplers.linear import run
from odeon.samplers.noise import step_noise
from odeon.samplers.process import FLOW, VE

HALF = torch.tensor([0.0] * 8 + [1.0] * 8, dtype=torch.float64)  # 1 is new
LOG = [14.6 * (0.02 / 14.6) ** (i / 60) for i in range(60)] + [0.0]


def noise_of(x):
    def made(stream):
        draw = step_noise(x, 0, stream)
        return lambda *levels: draw(*levels).double()

    return made


def at(x, sigma):
    return denoise(x, float(sigma[0]))


def at_flow(x, sigma):
    return denoise_flow(x, float(sigma[0]))


def drawn(count, seed=1):
    return torch.randn(count, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("predictor", [name for name in PREDICTORS if name != "none"])
def test_predictors_are_their_formulas(predictor):
    x, denoised, s, t = 2.0, 0.7, 3.0, 2.4
    score = (denoised - x) / s ** 2
    rate = 2.0 * s ** 2 * math.log(s / t) if predictor == "euler_maruyama" else s ** 2 - t ** 2
    noise = {"ancestral": t * math.sqrt(1.0 - (t / s) ** 2)}.get(predictor, math.sqrt(rate))
    update = plan_predictor([s, t, 0.0], predictor=predictor, process=VE)[0]
    assert update.x_coef * x + update.d_coefs[0] * denoised == pytest.approx(x + rate * score, rel=1e-12)
    assert update.noise_coef == pytest.approx(noise, rel=1e-12)


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_flow_predictors_are_ve_s_in_their_scale_and_all_end_on_the_prediction(predictor):
    levels = [0.75, 0.5, 0.2, 0.0]
    flow = plan_predictor(levels, predictor=predictor, process=FLOW)
    ve = plan_predictor([s / (1.0 - s) for s in levels], predictor=predictor, process=VE)
    for i, (a, b) in enumerate(zip(flow, ve)):
        high, low = 1.0 - levels[i], 1.0 - levels[i + 1]
        assert a.x_coef == pytest.approx(b.x_coef * low / high, abs=1e-12)
        assert a.d_coefs[0] == pytest.approx(b.d_coefs[0] * low, abs=1e-12)
        assert a.noise_coef == pytest.approx(b.noise_coef * low, abs=1e-12)
    assert (flow[-1].x_coef, flow[-1].d_coefs, flow[-1].noise_coef) == (0.0, (1.0,), 0.0)


def test_langevin_keeps_the_distribution_of_a_level():
    """Of N(0, 1) under noise 2, variance 5: many steps from 4 times that arrive there, but for what their size adds."""
    draw = noise_of(torch.zeros(20, 512, dtype=torch.float64))("x")
    x = 20.0 ** 0.5 * draw(0, 0)
    for _ in range(150):
        x = langevin(x, x / 5.0, draw(0, 0), sigma=2.0, alpha=1.0, snr=0.16)
    assert x.var().item() == pytest.approx(5.0, rel=0.06) and abs(x.mean().item()) < 0.1


def test_nothing_kept_without_corrections_is_ddpm():
    sigmas, x = [14.6, 4.0, 1.5, 0.5, 0.0], 14.6 * UNIT_NOISE
    skipped = []

    def draw(sigma, sigma_next):  # imputation draws as well, for nothing here
        skipped.append(sigma == sigma_next or len(skipped) % 2 == 0)
        return steps[len(skipped) // 2 - 1] if len(skipped) % 2 == 0 else torch.zeros_like(x)

    steps = [step_noise(x, 5, "x")(0, 0).double() * (1.0 + i) for i in range(4)]
    out = sample_impute(at, x, sigmas, corrections=0, mask=torch.ones_like(x), clean=MEANS[:3], process=VE,
                        noise_of=lambda stream: draw)
    rest = iter(steps)
    ddpm = run(denoise, x, plan_ddim(sigmas, eta=1.0), noise_sampler=lambda *_: next(rest))
    assert (out - ddpm).abs().max() < 1e-12


@pytest.mark.parametrize(("corrections", "predictor"), [(0, "ancestral"), (1, "ancestral"), (1, "reverse_diffusion"),
                                                        (1, "euler_maruyama"), (20, "none")])
def test_one_gaussian_keeps_its_mean_beside_what_is_known(corrections, predictor):
    mean, std = 0.4, 0.5

    def gaussian(x, sigma):
        return (std ** 2 * x + sigma[0] ** 2 * mean) / (std ** 2 + sigma[0] ** 2)

    x = 14.6 * torch.randn(12, 512, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    share = torch.tensor([0.0] * 256 + [1.0] * 256).expand(12, 512)
    out = sample_impute(gaussian, x, LOG, corrections=corrections, predictor=predictor, mask=share,
                        clean=torch.full((1, 512), 0.3, dtype=torch.float64), process=VE, noise_of=noise_of(x))
    assert (out[:, :256] == 0.3).all()
    error = out[:, 256:].mean() - mean
    assert error.abs() < 3.0 * std / math.sqrt(12 * 256)
    assert out[:, 256:].sub(mean).std().item() == pytest.approx(std, rel=0.08)


def test_the_new_part_follows_the_class_of_the_known_part():
    """Of the mixture: the two halves of a result belong to one component in 90 of 100 runs, by chance in 18."""
    count, generator = 192, torch.Generator().manual_seed(4)
    kinds = torch.multinomial(WEIGHTS, count, True, generator=generator)
    known, x = MEANS[kinds] + STDS[kinds][:, None] * drawn(count, 2), 14.6 * drawn(count, 3)
    for corrections in (0, 1):
        out = sample_impute(at, x, [*LOG[:-1:3], 0.0], corrections=corrections, mask=HALF.expand(count, 16),
                            clean=known, process=VE, noise_of=noise_of(x))
        fits = [torch.softmax(WEIGHTS.log() - 0.5 * (out[:, None, half] - MEANS[:, half]).square().sum(-1) / STDS ** 2
                              - 8 * STDS.log(), 1) for half in (slice(0, 8), slice(8, 16))]
        assert (fits[0] * fits[1]).sum(1).mean() > 0.9
        assert (fits[0] * fits[1].roll(1, 0)).sum(1).mean() < 0.3


@pytest.mark.parametrize(("model", "process", "sigmas"), [
    (at, VE, [14.6, 4.0, 1.5, 0.5, 0.0]), (at_flow, FLOW, [1.0, 0.8, 0.6, 0.3, 0.0])])
def test_batches_are_single_runs(model, process, sigmas):
    x = sigmas[0] * UNIT_NOISE

    def made(items):
        return sample_impute(model, x[items], sigmas, mask=HALF.expand(3, 16)[items], clean=MEANS[:3][items],
                             process=process, noise_of=noise_of(x[items]))

    assert (made(slice(1, 2)) - made(slice(0, 3))[1:2]).abs().max() < 1e-12


def test_grey_is_the_first_of_rotated_colours():
    axes = torch.tensor([[1.0, -2.0, 0.0], [1.0, 1.0, 1.0], [1.0, 1.0, -1.0]], dtype=torch.float64)
    axes = axes / axes.norm(dim=0)
    pixels = drawn(2).reshape(2, 1, 4, 4).repeat(1, 3, 1, 1) + drawn(6, 2).reshape(2, 3, 4, 4)
    rotated = torch.einsum("bchw,cd->bdhw", pixels, axes)
    rotated[:, 1:] = 0.0
    assert torch.allclose(grey_part(pixels), torch.einsum("bdhw,cd->bchw", rotated, axes))
    luma = grey_part(pixels, GREYS["luma"])
    assert torch.allclose(*(torch.einsum("bchw,c->bhw", value, torch.tensor(GREYS["luma"], dtype=torch.float64))
                            for value in (luma, pixels)))
    assert torch.allclose(grey_part(luma, GREYS["luma"]), luma)
    regrouped = torch.nn.functional.pixel_unshuffle(pixels, 2)
    assert torch.allclose(grey_part(regrouped), torch.nn.functional.pixel_unshuffle(grey_part(pixels), 2))


def test_colours_are_put_on_a_grey_picture():
    """Red and blue squares, told apart by how dark they are."""
    pictures = torch.zeros(2, 3, 2, 2, dtype=torch.float64)
    pictures[0, 0], pictures[1, 2] = 0.9, -0.6

    def exact(x, sigma):
        share = torch.softmax(-(x[:, None] - pictures).square().sum((2, 3, 4)) / (2.0 * sigma[0] ** 2), 1)
        return torch.einsum("bn,nchw->bchw", share, pictures)

    known = pictures.mean(1, keepdim=True).expand(2, 3, 2, 2)
    x = 14.6 * drawn(2)[:, :12].reshape(2, 3, 2, 2)
    out = sample_colorize(exact, x, LOG, known=known, grey="mean", mask=None, clean=torch.zeros_like(x),
                          pixel_space=True, process=VE, noise_of=noise_of(x))
    assert torch.allclose(out, pictures, atol=1e-6)


def test_bad_input_is_named():
    x = torch.ones(1, 3, 8, 8)
    options = {"process": VE, "noise_of": noise_of(x), "clean": x, "mask": None}
    with pytest.raises(ValueError, match="OdeonSamplerInverseProblem"):
        sample_colorize(at, x, [1.0, 0.0], pixel_space=False, **options)
    with pytest.raises(ValueError, match="noise mask off"):
        sample_colorize(at, x, [1.0, 0.0], pixel_space=True, **{**options, "mask": x})
    with pytest.raises(ValueError, match="predictor must be one of"):
        sample_impute(at, x, [1.0, 0.0], predictor="heun", **{**options, "mask": x})
    with pytest.raises(ValueError, match="take 'ancestral'"):
        sample_impute(at, x, [1.0, 0.5, 0.0], predictor="none", **{**options, "mask": x, "process": FLOW})
