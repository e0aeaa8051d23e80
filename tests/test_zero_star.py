import pytest
import torch
from gmm import denoise_flow
from golden_runs import load, tensor

from odeon.guidance.zero_star import zero_star_guidance

RUNS = load("guidance/cfg_zero_star")["runs"]


@pytest.mark.parametrize("i", range(len(RUNS)))
def test_golden_parity_step_by_step_and_at_the_end(i):
    settings = RUNS[i]["settings"]
    x, levels, steps = tensor(RUNS[i]["x_init"]), settings["sigmas"], RUNS[i]["steps"]
    for k, step in enumerate(steps):
        t, at = step["sigma"], tensor(step["x"])
        cond, uncond = (at - t * tensor(step[name]) for name in ("v_cond", "v_uncond"))
        out = (at - zero_star_guidance(cond, uncond, at, tensor([t] * 3), scale=settings["cfg"])) / t
        still = k < settings["zero_init_steps"]
        assert (out * (not still) - tensor(step["v_out"])).abs().max() < 1e-9
        cond, uncond = denoise_flow(x, t, settings["cond_label"]), denoise_flow(x, t)
        v = (x - zero_star_guidance(cond, uncond, x, tensor([t] * 3), scale=settings["cfg"])) / t
        x = x + (0.0 if still else 1.0) * v * (levels[k + 1] - t)
    assert (x - tensor(RUNS[i]["x_final"])).abs().max() < 1e-9


def case():
    generator = torch.Generator().manual_seed(2)
    x, cond, uncond = (torch.randn(3, 4, 5, 5, generator=generator, dtype=torch.float64) for _ in range(3))
    return cond, uncond, x, tensor([0.6] * 3)


def test_limits():
    cond, uncond, x, t = case()
    assert torch.allclose(zero_star_guidance(cond, cond, x, t, scale=5.0), cond, atol=1e-6)
    alike = x - 1.7 * (x - cond)  # v_u is a multiple of v_c: nothing is left to guide by
    assert torch.allclose(zero_star_guidance(cond, alike, x, t, scale=5.0), cond, atol=1e-6)
    assert torch.allclose(zero_star_guidance(cond, uncond, x, t, scale=1.0), cond, atol=1e-12)


def test_what_scale_multiplies_is_orthogonal_to_the_unconditional_velocity():
    cond, uncond, x, t = case()
    more, less = (zero_star_guidance(cond, uncond, x, t, scale=scale) for scale in (6.0, 5.0))
    assert ((more - less) * (x - uncond)).sum((1, 2, 3)).abs().max() < 1e-6
    for i in range(3):
        alone = zero_star_guidance(cond[i:i + 1], uncond[i:i + 1], x[i:i + 1], t[:1], scale=5.0)
        assert torch.allclose(less[i:i + 1], alone, atol=1e-13)
