import pytest
import torch
from gmm import denoise, log_spaced
from golden_runs import load, tensor

from odeon.guidance.projected import projected_guidance
from odeon.samplers.exponential_adams import plan_exponential_adams
from odeon.samplers.linear import run

RUNS = [r for r in load("apg")["runs"] if "variant" not in r["settings"]]


@pytest.mark.parametrize("i", range(len(RUNS)))
def test_golden_parity_step_by_step_and_at_the_end(i):
    settings, average = RUNS[i]["settings"], None
    options = {key: settings[key] for key in ("eta", "norm_threshold", "momentum")}
    sigmas = [step["sigma"] for step in RUNS[i]["steps"]]
    for step in RUNS[i]["steps"]:
        out, average = projected_guidance(tensor(step["cond"]), tensor(step["uncond"]), average,
                                          scale=settings["guidance_scale"], **options)
        assert (out - tensor(step["out"])).abs().max() < 1e-9

    average, x, last = None, tensor(RUNS[i]["x_init"]), settings["sigmas"]
    for n, sigma in enumerate(sigmas):
        cond, uncond = denoise(x, sigma, settings["cond_label"]), denoise(x, sigma)
        out, average = projected_guidance(cond, uncond, average, scale=settings["guidance_scale"], **options)
        x = x + (x - out) / sigma * (last[n + 1] - sigma)
    assert (x - tensor(RUNS[i]["x_final"])).abs().max() < 1e-9


def test_the_recorded_variant_differs_only_in_what_the_update_is_added_to():
    """diffusers' default adds scale times the update to uncond, where the paper adds scale - 1 times it to cond."""
    run_, = (r for r in load("apg")["runs"] if "variant" in r["settings"])
    settings, average = run_["settings"], None
    options = {key: settings[key] for key in ("eta", "norm_threshold", "momentum")}
    for step in run_["steps"]:
        cond, uncond, scale = tensor(step["cond"]), tensor(step["uncond"]), settings["guidance_scale"]
        out, average = projected_guidance(cond, uncond, average, scale=scale, **options)
        assert (uncond + scale * (out - cond) / (scale - 1.0) - tensor(step["out"])).abs().max() < 1e-9


def _pair(*shape):
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(2))


def test_limits():
    cond, uncond = _pair(3, 4, 5, 5)
    plain, _ = projected_guidance(cond, uncond, scale=7.0, eta=1.0, norm_threshold=0.0, momentum=0.0)
    assert torch.allclose(plain, uncond + 7.0 * (cond - uncond), atol=1e-12)
    assert torch.equal(projected_guidance(cond, uncond, scale=1.0)[0], cond)


@pytest.mark.parametrize("axes", ["sample", "channel"])
def test_what_is_left_is_orthogonal_and_bounded(axes):
    cond, uncond = _pair(2, 4, 6, 6)
    dims = (1, 2, 3) if axes == "sample" else (2, 3)
    out, _ = projected_guidance(cond, uncond, scale=5.0, norm_threshold=0.7, axes=axes)
    assert ((out - cond) * cond).sum(dims).abs().max() < 1e-10
    assert torch.linalg.vector_norm(out - cond, dim=dims).max() <= 4.0 * 0.7 + 1e-12


def test_rms_is_the_norm_per_number():
    cond, uncond = _pair(2, 4, 6, 6)
    by_norm, _ = projected_guidance(cond, uncond, scale=5.0, norm_threshold=1.2)
    by_rms, _ = projected_guidance(cond, uncond, scale=5.0, norm_threshold=1.2 / 144 ** 0.5, threshold_unit="rms")
    assert torch.allclose(by_norm, by_rms, atol=1e-12)


def test_batch_entries_and_video_stay_apart():
    cond, uncond = _pair(3, 4, 2, 5, 5)
    whole, average = projected_guidance(cond, uncond, scale=5.0, norm_threshold=1.0)
    for i in range(3):
        alone, _ = projected_guidance(cond[i:i + 1], uncond[i:i + 1], scale=5.0, norm_threshold=1.0)
        assert torch.allclose(whole[i:i + 1], alone, atol=1e-13)
    assert average.shape == cond.shape


def test_a_black_prediction_is_no_division_by_zero():
    zero = torch.zeros(1, 4, 2, 2)
    assert torch.isfinite(projected_guidance(zero, torch.ones_like(zero), scale=5.0)[0]).all()


def test_high_scale_keeps_the_spread_of_the_class():
    """At scale 10, dropping the parallel part (the paper's eta = 0) halves what plain CFG adds to the picture's
    size."""
    start = 14.6 * torch.randn(512, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    sigmas = [*log_spaced(30, top=14.6, bottom=0.03), 0.0]

    def size(scale, **options):
        def model(x, sigma):
            return projected_guidance(denoise(x, sigma, 0), denoise(x, sigma), scale=scale, norm_threshold=0.0,
                                      momentum=0.0, **options)[0]
        return run(model, start, plan_exponential_adams(sigmas, order=2)).square().mean().sqrt().item()

    exact = size(1.0)
    assert abs(size(10.0, eta=0.0) - exact) < 0.5 * abs(size(10.0, eta=1.0) - exact)


def test_bad_input_is_named():
    cond, uncond = _pair(1, 4, 2, 2)
    with pytest.raises(ValueError, match="threshold_unit must be"):
        projected_guidance(cond, uncond, scale=2.0, threshold_unit="x")
    with pytest.raises(ValueError, match="axes must be"):
        projected_guidance(cond, uncond, scale=2.0, axes="x")
