"""What a sampler function may ask of its run: the clean latent, other prompts, gradients, runs up to the noise."""
import pytest
import torch
from guided import SIGMAS, WORD, euler, model_of

from odeon import host
from odeon.host.embedded.sampling import Guider, Sampler
from odeon.host.inverting import upward
from odeon.samplers.adaptive import sample_pf_ode
from odeon.samplers.process import FLOW

LATENT = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
NOISE = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
FLOW_SIGMAS = torch.tensor([1.0, 0.8, 0.5, 0.2, 0.0])
LEVELS = {"eps": SIGMAS, "flow": FLOW_SIGMAS}
OTHER = [[torch.full((1, 2, 3), 0.9), {}]]


def guided(model, sampler, sigmas, *, noise=NOISE, latent=LATENT, cfg=3.0, positive=WORD["cond"], mask=None,
           callback=None):
    with torch.inference_mode():
        return Guider(model, positive, WORD["uncond"], cfg).sample(noise, latent, sampler, sigmas, denoise_mask=mask,
                                                                   callback=callback)


def steps_of(denoise, x, sigmas, **_):
    """Euler steps, up or down."""
    for sigma, sigma_next in zip(sigmas, sigmas[1:]):
        x = x + (x - denoise(x, x.new_full((len(x),), sigma))) / sigma * (sigma_next - sigma)
    return x


def a_rule():
    seen = []

    def rule(cond, uncond, call):
        seen.append(call)
        return uncond + (1.0 + 0.1 * len(seen)) * (cond - uncond)

    return rule


@pytest.mark.parametrize("prediction", LEVELS)
def test_clean_is_the_latent_without_noise(prediction):
    found = []

    def sample_look(denoise, x, sigmas, *, clean, process, callback):
        found.append(clean)
        return x

    guided(model_of(prediction), host.sampler(sample_look), LEVELS[prediction])
    guided(model_of(prediction), host.sampler(sample_look), LEVELS[prediction], latent=torch.zeros_like(LATENT))
    assert torch.equal(found[0], LATENT) and not found[1].any()


@pytest.mark.parametrize("mask", [None, torch.ones(1, 8, 8).tril()])
@pytest.mark.parametrize("prediction", LEVELS)
def test_prompted_is_a_run_under_that_prompt_with_rules_of_its_own(prediction, mask):
    model = host.patch_guidance(model_of(prediction), a_rule)
    euler_of_source = guided(model, Sampler(euler), LEVELS[prediction], positive=OTHER, cfg=2.0, mask=mask)

    def sample_source(denoise, x, sigmas, *, prompted, process, callback):
        denoise(x, x.new_full((len(x),), sigmas[0]))  # moves the state of the run's own rules on
        return steps_of(prompted(OTHER, WORD["uncond"], cfg=2.0), x, sigmas)

    assert torch.equal(guided(model, host.sampler(sample_source), LEVELS[prediction], mask=mask), euler_of_source)


def test_at_cfg_1_only_the_positive_of_a_source_is_asked_and_above_it_a_negative_is_owed():
    model = model_of()

    def sample_source(denoise, x, sigmas, *, prompted, process, callback, cfg):
        return prompted(OTHER, cfg=cfg)(x, x.new_full((len(x),), sigmas[0]))

    guided(model, host.sampler(sample_source, cfg=1.0), SIGMAS)
    assert model.network.asked == [0.9]
    with pytest.raises(ValueError, match="source needs a negative for its source at CFG 3"):
        guided(model, host.sampler(sample_source, cfg=3.0), SIGMAS)


def test_a_source_that_gives_nan_is_named():
    model = model_of()

    def sample_source(denoise, x, sigmas, *, prompted, process, callback):
        model.network.fail = True
        return prompted(OTHER)(x, x.new_full((len(x),), sigmas[1]))

    with pytest.raises(ValueError, match="NaN or infinite values at sigma 4 under source"):
        guided(model, host.sampler(sample_source), SIGMAS)


@pytest.mark.parametrize("mask", [None, torch.ones(1, 8, 8).tril()])
def test_differentiable_is_the_slope_of_the_model(mask):
    found = {}

    def sample_slope(denoise, x, sigmas, *, differentiable, prompted, process, callback):
        for name, one in (("run", denoise), ("source", prompted(OTHER))):
            with torch.inference_mode(False), torch.enable_grad():
                at, level = x.clone().requires_grad_(), torch.full((len(x),), sigmas[0])
                found[name], = torch.autograd.grad(differentiable(one)(at, level).sum(), at)
            step = 1e-2 * torch.ones_like(x)
            ends = [one(x + sign * step, x.new_full((len(x),), sigmas[0])) for sign in (1.0, -1.0)]
            found[name, "by differences"] = (ends[0] - ends[1]) / 2e-2
        return x

    guided(model_of(), host.sampler(sample_slope), SIGMAS, mask=mask)
    for name in ("run", "source"):
        assert found[name].abs().max() > 0.01
        assert torch.allclose(found[name], found[name, "by differences"], atol=2e-4), name


def test_progress_counts_the_levels_passed_or_the_method_s_own_steps():
    def sample_up(denoise, x, sigmas, *, process, callback):
        for i, sigma in enumerate(sigmas[:-1]):
            callback(i, x, x, sigma)
        return x

    def sample_often(denoise, x, sigmas, *, process, callback):
        for i in range(10):
            callback(i, x, x, sigmas[0], of=10)
        return x

    for sampler, sigmas, places in ((host.inverter(sample_up), SIGMAS.flip(0), [0, 0, 1, 2]),
                                    (host.sampler(sample_often), SIGMAS, [0, 0, 0, 1, 1, 2, 2, 2, 3, 3])):
        seen = []
        guided(model_of(), sampler, sigmas, callback=lambda i, *_, seen=seen: seen.append(i))
        assert seen == places


def sample_invert(denoise, x, sigmas, *, process, callback):
    return steps_of(denoise, x, sigmas)


@pytest.mark.parametrize("prediction", LEVELS)
def test_a_run_up_starts_from_the_clean_latent_and_its_way_back_from_where_it_ended(prediction):
    model, nothing, top = model_of(prediction), torch.zeros_like(LATENT), float(LEVELS[prediction][0])
    up = torch.linspace(0.4, top, 401)  # from where the toy model's path is smooth
    noisy = guided(model, host.inverter(sample_invert), up, cfg=1.0, noise=nothing)
    assert torch.isfinite(noisy).all()
    if prediction == "flow":
        assert float(noisy.std()) > 1e3  # state / (1 - 0.9999)
    for back in (host.sampler(sample_invert), host.solver(euler_plan())):
        again = guided(model, back, up.flip(0), cfg=1.0, noise=nothing, latent=noisy)
        assert (again - LATENT).abs().max() < 0.02


def test_a_run_up_from_zero_adds_no_noise():
    for prediction in LEVELS:
        ends = [guided(model_of(prediction), host.inverter(sample_stay), torch.tensor([0.0, 0.5]), noise=noise)
                for noise in (NOISE, torch.zeros_like(NOISE))]
        assert torch.equal(*ends)


def sample_stay(denoise, x, sigmas, *, process, callback):
    return x


def euler_plan():
    from odeon.samplers.exponential_adams import plan_exponential_adams
    return lambda sigmas, *, process: plan_exponential_adams(sigmas, order=1, process=process)


def test_levels_that_do_not_rise_or_reach_above_the_model_are_refused():
    model = model_of()
    for sigmas in (SIGMAS, torch.tensor([1.0]), torch.tensor([0.1, 0.1, 2.0])):
        with pytest.raises(ValueError, match="needs at least 2 rising sigmas, got .*FlipSigmas"):
            guided(model, host.inverter(sample_invert), sigmas if len(sigmas) > 1 else torch.tensor([1.0, 1.0]))
    assert upward(torch.tensor([1e-4, 9e-5, 0.5, 1.0]), FLOW).tolist() == pytest.approx([1e-4, 0.5, 0.9999])
    with pytest.raises(ValueError, match="above the model's highest level"):
        guided(model, host.inverter(sample_invert), torch.tensor([0.1, 2.0, 900.0]))
    with pytest.raises(ValueError, match="last level but one must lie below 0.9999"):
        guided(model_of("flow"), host.inverter(sample_invert), torch.tensor([0.1, 0.99995, 1.0]))


def test_samplers_that_ask_for_nothing_get_nothing():
    a, b = (guided(model_of(), host.sampler(sample_pf_ode), SIGMAS) for _ in range(2))
    assert torch.equal(a, b)
