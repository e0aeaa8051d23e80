import pytest
import torch
from golden_runs import load, tensor

from odeon.guidance.frequency import frequency_guidance

RUNS = load("guidance/fdg")["runs"]


@pytest.mark.parametrize("i", range(len(RUNS)))
def test_golden_parity(i):
    settings = RUNS[i]["settings"]
    cond, uncond = (tensor(RUNS[i][key]).reshape(3, 1, 4, 4) for key in ("cond", "uncond"))
    out = frequency_guidance(cond, uncond, scales=settings["guidance_scales_high_to_low"],
                             parallel=settings["parallel_weights"])
    assert (out.reshape(3, 16) - tensor(RUNS[i]["x_final"])).abs().max() < 1e-9


def case(*shape):
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(2)]


@pytest.mark.parametrize("shape", [(2, 4, 16, 16), (2, 4, 13, 10), (1, 4, 3, 9, 16)])
def test_equal_scales_are_plain_cfg_at_any_size(shape):
    cond, uncond = case(*shape)
    for scales in ([7.0], [7.0, 7.0, 7.0], [7.0, 7.0 + 1e-14], [7.0, 7.0, 7.0 + 1e-14]):  # the last two by levels
        out = frequency_guidance(cond, uncond, scales=scales)
        assert torch.allclose(out, uncond + 7.0 * (cond - uncond), atol=1e-12)


def test_a_flat_difference_is_coarse_and_a_chequered_one_fine():
    cond, uncond = torch.full((1, 1, 16, 16), 1.0, dtype=torch.float64), torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    assert torch.allclose(frequency_guidance(cond, uncond, scales=[9.0, 2.0]), 2.0 * cond)
    chequered = cond * (1.0 - 2.0 * ((torch.arange(16)[:, None] + torch.arange(16)) % 2))
    out = frequency_guidance(chequered, uncond, scales=[9.0, 2.0])
    assert torch.allclose(out, 9.0 * chequered, atol=1e-12)


def test_items_and_frames_stay_apart_and_it_is_linear():
    cond, uncond = case(3, 4, 2, 8, 8)
    options = {"scales": [10.0, 4.0]}
    whole = frequency_guidance(cond, uncond, parallel=[0.3, 0.6], **options)
    for i in range(3):
        alone = frequency_guidance(cond[i:i + 1], uncond[i:i + 1], parallel=[0.3, 0.6], **options)
        assert torch.allclose(whole[i:i + 1], alone, atol=1e-12)
    frames = torch.stack([frequency_guidance(cond[:, :, t], uncond[:, :, t], **options) for t in range(2)], 2)
    assert torch.allclose(frequency_guidance(cond, uncond, **options), frames, atol=1e-12)
    doubled = frequency_guidance(2.0 * cond, 2.0 * uncond, **options)
    assert torch.allclose(doubled, 2.0 * frequency_guidance(cond, uncond, **options), atol=1e-12)


def test_without_the_parallel_part_one_level_stays_orthogonal():
    cond, uncond = case(2, 4, 6, 6)
    out = frequency_guidance(cond, uncond, scales=[5.0], parallel=[0.0])
    assert ((out - uncond) * cond).sum((1, 2, 3)).abs().max() < 1e-10


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="4 levels need latents of at least 12 places a side, got"):
        frequency_guidance(*case(1, 1, 8, 8), scales=[1.0] * 4)
    with pytest.raises(ValueError, match="need a scale and a parallel share for each level, got 2 and 1"):
        frequency_guidance(*case(1, 1, 8, 8), scales=[1.0, 1.0], parallel=[1.0])
    with pytest.raises(ValueError, match=r"pictures and videos, got latents of shape \(1, 8, 40\); take APG"):
        frequency_guidance(*case(1, 8, 40), scales=[2.0, 1.0])
