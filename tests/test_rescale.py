import pytest
import torch
from gmm import denoise, log_spaced
from golden_runs import load, tensor

from odeon.guidance.rescale import SPACES, rescaled_guidance
from odeon.samplers.exponential_adams import plan_exponential_adams
from odeon.samplers.linear import run
from odeon.samplers.process import FLOW, VE

RUNS = load("guidance/cfg_rescale")["runs"]


@pytest.mark.parametrize("i", range(len(RUNS)))
def test_golden_parity_step_by_step_and_at_the_end(i):
    settings = RUNS[i]["settings"]
    options = {"scale": settings["guidance_scale"], "phi": settings["phi"], "space": settings["space"]}
    for step in RUNS[i]["steps"]:
        out = rescaled_guidance(tensor(step["cond"]), tensor(step["uncond"]), tensor(step["x"]),
                                tensor([step["sigma"]] * 3), **options)
        assert (out - tensor(step["out"])).abs().max() < 1e-9
    x, levels = tensor(RUNS[i]["x_init"]), settings["sigmas"]
    for sigma, sigma_next in zip(levels, levels[1:]):
        cond, uncond = denoise(x, sigma, settings["cond_label"]), denoise(x, sigma)
        out = rescaled_guidance(cond, uncond, x, tensor([sigma] * 3), **options)
        x = x + (x - out) / sigma * (sigma_next - sigma)
    assert (x - tensor(RUNS[i]["x_final"])).abs().max() < 1e-9


def case(process, sigma=0.7, shape=(3, 4, 5, 5)):
    generator = torch.Generator().manual_seed(2)
    x, cond, uncond = (torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(3))
    return cond, uncond, x, torch.full((shape[0],), sigma, dtype=torch.float64)


def spread_of(denoised, x, sigma, space, process):
    alpha, s = (1.0 - sigma[0] if process is FLOW else 1.0), sigma[0]
    eps = (x - alpha * denoised) / s
    value = {"x0": denoised, "eps": eps, "velocity": (x - denoised) / s,
             "v": (alpha * eps - s * denoised) / (alpha ** 2 + s ** 2) ** 0.5}[space]
    return value.std((1, 2, 3))


@pytest.mark.parametrize("process", [VE, FLOW])
@pytest.mark.parametrize("space", SPACES[1:])
def test_the_whole_of_it_has_the_conditional_spread(space, process):
    cond, uncond, x, sigma = case(process)
    out = rescaled_guidance(cond, uncond, x, sigma, scale=6.0, phi=1.0, space=space, process=process)
    assert torch.allclose(spread_of(out, x, sigma, space, process), spread_of(cond, x, sigma, space, process),
                          rtol=1e-6)


@pytest.mark.parametrize("space", SPACES)
def test_neutral_values(space):
    for process in (VE, FLOW):
        cond, uncond, x, sigma = case(process)
        plain = rescaled_guidance(cond, uncond, x, sigma, scale=6.0, phi=0.0, space=space, process=process)
        assert torch.equal(plain, uncond + 6.0 * (cond - uncond))
        at_one = rescaled_guidance(cond, uncond, x, sigma, scale=1.0, space=space, process=process)
        assert torch.allclose(at_one, cond, atol=1e-12)


def test_auto_is_v_and_on_flows_the_velocity():
    for process, space in ((VE, "v"), (FLOW, "velocity")):
        values = case(process)
        assert torch.equal(*(rescaled_guidance(*values, scale=6.0, space=name, process=process)
                             for name in ("auto", space)))


@pytest.mark.parametrize("space", SPACES)
def test_the_ends_of_the_schedule_are_finite(space):
    cond, uncond, x, sigma = case(FLOW, 1.0)
    top = rescaled_guidance(cond, uncond, x, sigma, scale=6.0, space=space, process=FLOW)
    assert torch.isfinite(top).all()
    if space == "eps":
        assert torch.equal(top, uncond + 6.0 * (cond - uncond))
    assert torch.isfinite(rescaled_guidance(cond, uncond, x, sigma * 1e-9, scale=6.0, space=space)).all()
    flat = torch.zeros_like(cond)
    assert torch.isfinite(rescaled_guidance(flat, flat, flat, sigma, scale=6.0, space=space)).all()


def test_items_channels_and_masks():
    cond, uncond, x, sigma = case(VE)
    whole = rescaled_guidance(cond, uncond, x, sigma, scale=6.0)
    for i in range(3):
        alone = rescaled_guidance(cond[i:i + 1], uncond[i:i + 1], x[i:i + 1], sigma[:1], scale=6.0)
        assert torch.allclose(whole[i:i + 1], alone, atol=1e-13)
    split = rescaled_guidance(cond, uncond, x, sigma, scale=6.0, phi=1.0, space="x0", per_channel=True)
    assert torch.allclose(split.std((2, 3)), cond.std((2, 3)))
    mask = torch.zeros(1, 1, 5, 5)
    mask[..., :3] = 1.0
    inside = rescaled_guidance(cond, uncond, x, sigma, scale=6.0, phi=1.0, space="x0", mask=mask)
    assert torch.allclose(inside[..., :3].std((1, 2, 3)), cond[..., :3].std((1, 2, 3)))
    everywhere = rescaled_guidance(cond, uncond, x, sigma, scale=6.0, mask=torch.ones_like(mask))
    assert torch.allclose(everywhere, whole, atol=1e-12)


@pytest.mark.parametrize(("label", "left"), [(0, 0.5), (1, 0.65)])
def test_high_scale_keeps_the_spread_of_the_class(label, left):
    """At scale 7.5 and phi 0.7: what is left of the size that plain CFG adds to the samples, at most."""
    start = 14.6 * torch.randn(512, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    plan = plan_exponential_adams([*log_spaced(30, top=14.6, bottom=0.03), 0.0], order=2)

    def size(scale, phi):
        def model(x, sigma):
            cond, uncond = denoise(x, sigma, label), denoise(x, sigma)
            return rescaled_guidance(cond, uncond, x, tensor([sigma]), scale=scale, phi=phi)
        return run(model, start, plan).std()

    exact = size(1.0, 0.0)
    assert (size(7.5, 0.7) / exact - 1.0).abs() < left * (size(7.5, 0.0) / exact - 1.0).abs()


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="space must be one of auto, v, eps, velocity, x0, got 'x'"):
        rescaled_guidance(*case(VE), scale=2.0, space="x")
