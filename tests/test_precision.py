"""Rules on half-precision predictions: what they sum may be larger than fp16 holds, what they give may not."""
import pytest
import torch

from odeon.guidance.adaptive import agreement
from odeon.guidance.attention import away_from
from odeon.guidance.dynamic_threshold import dynamic_threshold
from odeon.guidance.frequency import frequency_guidance
from odeon.guidance.mimic import mimic_guidance
from odeon.guidance.particles import repelled
from odeon.guidance.projected import projected_guidance
from odeon.guidance.rescale import rescaled_guidance
from odeon.guidance.zero_star import zero_star_guidance

RULES = {
    "APG": lambda cond, uncond, x, sigma: projected_guidance(cond, uncond, scale=7.0, eta=0.3)[0],
    "rescale": lambda cond, uncond, x, sigma: rescaled_guidance(cond, uncond, x, sigma, scale=7.0),
    "mimic AD": lambda cond, uncond, x, sigma: mimic_guidance(cond, uncond, scale=7.0, mimic=2.0, percentile=0.95),
    "mimic STD": lambda cond, uncond, x, sigma: mimic_guidance(cond, uncond, scale=7.0, mimic=2.0, variability="STD"),
    "zero star": lambda cond, uncond, x, sigma: zero_star_guidance(cond, uncond, x, sigma, scale=5.0),
    "FDG": lambda cond, uncond, x, sigma: frequency_guidance(cond, uncond, scales=[8.0, 3.0], parallel=[0.5, 1.0]),
    "agreement": agreement,
    "push": lambda cond, uncond, x, sigma: away_from(cond, cond, uncond, scale=3.0, rescale=0.5),
    "repulsion": lambda cond, uncond, x, sigma: repelled(cond, x, 1.0, coeff=10.0),
    "threshold": lambda cond, uncond, x, sigma: dynamic_threshold(cond)}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", RULES)
def test_sums_beyond_fp16_are_those_of_float64(name, dtype):
    generator = torch.Generator().manual_seed(0)
    exact = [300.0 * torch.randn(2, 4, 3, 8, 8, generator=generator, dtype=torch.float64) for _ in range(3)]
    assert all(value[0].square().sum() > 1e6 for value in exact)
    given = [value.to(dtype) for value in exact]
    sigma = torch.tensor([0.5, 0.7], dtype=torch.float64)
    found, expected = RULES[name](*given, sigma), RULES[name](*(value.double() for value in given), sigma)
    assert found.dtype == dtype
    assert torch.allclose(found.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-3 * float(expected.max()))
