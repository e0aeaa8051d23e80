import math

import pytest
import torch
from gmm import MEANS, STDS, UNIT_NOISE, denoise, denoise_flow
from golden_runs import load, tensor

from odeon.guidance.gradient import Place, gradient_at, place_in, pull_back
from odeon.guidance.minority import (
    difference,
    is_active,
    level_at,
    noised,
    ordinal_step,
    quantile_bins,
    self_guided_step,
)
from odeon.measure.pictures import measure_scores
from odeon.samplers.exponential_adams import plan_exponential_adams
from odeon.samplers.linear import run
from odeon.samplers.process import FLOW, VE

RUNS = load("guidance/minority_self_guided")["runs"]


def slope(x, sigma, y_of, kind="l2", model=denoise):
    """D and the gradient of difference(D(x), y) in x, with y = y_of(D) held."""
    denoised = model(x, sigma)
    y = y_of(denoised)
    v, _ = gradient_at(lambda at: difference(at, y, kind=kind), denoised)
    return denoised, pull_back(lambda x: model(x, sigma), x, v)


@pytest.mark.parametrize("i", range(len(RUNS)))
def test_golden_parity_at_every_step_and_the_end(i):
    settings, steps = RUNS[i]["settings"], RUNS[i]["steps"]
    bars = settings["respaced_alphas_cumprod"]
    levels = [math.sqrt((1.0 - bar) / bar) for bar in reversed(bars)] + [0.0]
    x = tensor(RUNS[i]["x_init"]) * math.sqrt(1.0 + levels[0] ** 2)
    sigma_p = level_at(levels, settings["p_ratio"])
    assert sigma_p == levels[len(levels) - 2 - settings["tp_index"]]
    kind = {2.0: "l2", 1.0: "l1"}[settings["norm_for_mg"]]
    for n, step in enumerate(steps):
        place = Place(n, levels)
        unit = math.sqrt(1.0 + place.s_next ** 2)
        assert is_active(place, every=settings["inter_rate"], t_mid=settings["t_mid"]) == step["guided"]
        denoised = denoise(x, place.s)
        if step["guided"]:
            slopes = [slope(x, place.s, lambda d, noise=noise: denoise(noised(d, tensor(noise), sigma_p, VE), sigma_p),
                            kind)[1] for noise in step["score_noises"]]
            denoised = self_guided_step(denoised, sum(slopes) / len(slopes), place, scale=settings["mg_scale"],
                                        normalize=settings["use_normed_grad"], weight=settings["mg_scale_type"],
                                        x_scale=math.sqrt(1.0 + place.s ** 2))
        mean = place.d_coef * denoised + (1.0 - place.d_coef) * x
        assert (mean / unit - tensor(step["mean_guided"])).abs().max() < 1e-9
        x = mean + place.s_next * math.sqrt(place.d_coef) * tensor(step["step_noise"])
    assert (x / math.sqrt(1.0 + place.s_next ** 2) - tensor(RUNS[i]["x_final"])).abs().max() < 1e-9


@pytest.mark.parametrize("kind", ["l2", "l1"])
def test_gradient_is_that_of_finite_differences_with_the_reconstruction_held(kind):
    x, sigma = 2.0 * UNIT_NOISE, 2.0
    noise = UNIT_NOISE.flip(0)
    y = denoise(noised(denoise(x, sigma), noise, 1.5, VE), 1.5)
    _, found = slope(x, sigma, lambda _: y, kind)
    for k in (0, 7, 15):
        h = torch.zeros_like(x)
        h[:, k] = 1e-5
        up, down = (difference(denoise(x + sign * h, sigma), y, kind=kind) for sign in (1.0, -1.0))
        assert ((up - down) / 2e-5 - found[:, k]).abs().max() < 1e-6


def test_neutral_scale_active_steps_and_the_level_of_the_draws():
    levels = [14.6, 5.0, 2.0, 0.7, 0.2, 0.0]
    place = Place(2, levels)
    x = UNIT_NOISE
    assert torch.equal(self_guided_step(x, x, place, scale=0.0), x)
    assert torch.equal(self_guided_step(x, torch.zeros_like(x), place, scale=1.0), x)
    assert [is_active(Place(i, levels), every=2, t_mid=-1.0) for i in range(5)] == [True, False, True, False, True]
    assert [is_active(Place(i, levels), every=1, t_mid=0.4) for i in range(5)] == [True, True, False, False, False]
    assert level_at(levels, 0.8) == 14.6 and level_at(levels, 0.6) == 5.0 and level_at(levels, 0.0) == 0.2


@pytest.mark.parametrize("process", [VE, FLOW])
def test_places_of_calls_between_levels_and_above_them(process):
    sigmas = [0.9, 0.6, 0.3, 0.0]
    assert place_in(sigmas, 0.6, process).i == 1 and place_in(sigmas, 0.0, process) is None
    between = place_in(sigmas, 0.45, process)
    assert between.i == 1 and between.steps == 3
    if process is VE:
        assert (between.s, between.s_next) == (0.45, 0.3)
    else:
        assert between.s == pytest.approx(0.45 / 0.55) and place_in([1.0, 0.5, 0.0], 1.0, FLOW).d_coef == 1.0
    assert place_in(sigmas, 0.95, process).s_next == pytest.approx(0.9 if process is VE else 9.0)
    assert place_in([0.5], 0.5, process) is None


def test_flow_states_get_the_push_of_the_same_picture():
    """x_flow = (1 - t) x: with the same prediction, D moves by the same amount."""
    s, t = [3.0, 1.0, 0.0], [0.75, 0.5, 0.0]
    x = 3.0 * UNIT_NOISE
    denoised, steep = slope(x, 3.0, lambda _: torch.ones(16, dtype=torch.float64))
    flow, flow_steep = slope(x * 0.25, 0.75, lambda _: torch.ones(16, dtype=torch.float64), model=denoise_flow)
    options = {"scale": 1.0, "normalize": False}
    a = self_guided_step(denoised, steep, place_in(s, 3.0, VE), x_scale=math.sqrt(10.0), **options)
    b = self_guided_step(flow, flow_steep, place_in(t, 0.75, FLOW), x_scale=math.hypot(0.25, 0.75), **options)
    assert (a - b).abs().max() < 1e-12 and (a - denoised).abs().max() > 1e-3


def scores_of(pictures, sigma, *, repeats, **options):
    return [*measure_scores(denoise, pictures, sigma=sigma, repeats=repeats, process=VE, distance=difference,
                            **options)][-1].state["scores"]


LEVELS = [14.6 * (0.05 / 14.6) ** (i / 12) for i in range(13)] + [0.0]


def guided_ends(scale, count=512):
    """Ends of ancestral runs with self-guidance at every second step."""
    generator = torch.Generator().manual_seed(4)

    def draw(*_):
        return torch.randn(count, 16, generator=generator, dtype=torch.float64)

    x, noises = 14.6 * draw(), torch.Generator().manual_seed(5)

    def model(x, sigma):
        place = place_in(LEVELS, sigma, VE)
        if not scale or not is_active(place, every=2, t_mid=-1.0):
            return denoise(x, sigma)
        noise = torch.randn(count, 16, generator=noises, dtype=torch.float64)
        high = level_at(LEVELS, 0.8)
        denoised, steep = slope(x, sigma, lambda d: denoise(noised(d, noise, high, VE), high))
        return self_guided_step(denoised, steep, place, scale=scale)

    return run(model, x, plan_exponential_adams(LEVELS, order=1, eta=1.0), noise_sampler=draw)


def test_more_scale_more_of_a_minority():
    """Mean minority score of 512 ends of the mixture, with the same noises, at the level guidance works with."""
    scores = [scores_of(guided_ends(scale), level_at(LEVELS, 0.8), repeats=20).mean()
              for scale in (0.0, 0.2, 0.4)]
    assert scores[0] < scores[1] < scores[2], scores


def test_score_of_outliers_is_higher():
    """Pictures three spreads off a component reconstruct worse than typical ones, under the same noises."""
    unit = torch.randn(256, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    typical, outlying = (scores_of(MEANS[0] + far * STDS[0] * unit, 1.0, repeats=4) for far in (1.0, 3.0))
    assert (outlying > typical).float().mean() > 0.8 and outlying.mean() > 1.3 * typical.mean()


def test_score_goes_on_after_a_stop_and_is_each_picture_s_own():
    pictures = MEANS[:3]
    whole = [*measure_scores(denoise, pictures, sigma=1.0, repeats=3, process=VE, distance=difference)]
    assert [progress.done for progress in whole] == [3, 6, 9] and whole[-1].total == 9
    assert torch.equal(scores_of(pictures, 1.0, repeats=3, state=whole[0].state), whole[-1].state["scores"])
    assert torch.equal(scores_of(pictures[1:2], 1.0, repeats=3), whole[-1].state["scores"][1:2])


def test_ordinal_push_is_classifier_guidance_as_steps_shrink():
    levels = [2.0, 1.999, 0.0]
    x = UNIT_NOISE
    pushed = ordinal_step(x, x, Place(0, levels), scale=1.0, x_scale=math.sqrt(5.0))
    assert torch.allclose(pushed, x + 4.0 * x, rtol=2e-3)  # D + sigma^2 grad log p


def test_quantile_bins_are_equally_full():
    bins = quantile_bins(torch.tensor([5.0, 1.0, 9.0, 3.0, 7.0, 2.0]), 3)
    assert bins.tolist() == [1, 0, 2, 1, 2, 0]


def test_bad_words_are_named():
    with pytest.raises(ValueError, match="loss must be one of"):
        difference(UNIT_NOISE, UNIT_NOISE, kind="lpips")
    with pytest.raises(ValueError, match="weight must be one of"):
        self_guided_step(UNIT_NOISE, UNIT_NOISE, Place(0, [1.0, 0.0]), scale=1.0, weight="x")
