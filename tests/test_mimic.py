import pytest
import torch
from golden_runs import load, tensor

from odeon.guidance.mimic import MODES, mimic_guidance, place_in, scheduled

RUNS = load("guidance/dynthresh_mimic")["runs"]


@pytest.mark.parametrize("i", range(len(RUNS)))
def test_golden_parity(i):
    settings = RUNS[i]["settings"]
    cond, uncond = (tensor(RUNS[i][key]).reshape(1, 3, 4, 4) for key in ("cond", "uncond"))
    place = tensor(settings["step"] / (settings["max_steps"] - 1))
    scale, mimic = (scheduled(settings[f"{name}_mode"], settings[full], settings[f"{name}_min"], place,
                              value=settings["sched_val"]) for name, full in (("cfg", "cfg"), ("mimic", "mimic_scale")))
    out = mimic_guidance(cond, uncond, scale=scale, mimic=mimic, percentile=settings["pct"],
                         separate_channels=settings["sep"], startpoint=settings["start"],
                         variability=settings["var"], phi=settings["phi"])
    assert (out.reshape(3, 16) - tensor(RUNS[i]["x_final"])).abs().max() < 1e-9


def case(shape=(3, 4, 5, 5)):
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(2)]


def plain(cond, uncond, scale):
    return uncond + scale * (cond - uncond)


def test_neutral_values():
    cond, uncond = case()
    assert torch.allclose(mimic_guidance(cond, uncond, scale=7.0, mimic=7.0), plain(cond, uncond, 7.0), atol=1e-12)
    for options in ({"startpoint": "ZERO"}, {"variability": "STD"}, {"percentile": 0.8}):
        out = mimic_guidance(cond, uncond, scale=12.0, mimic=7.0, phi=0.0, **options)
        assert torch.equal(out, plain(cond, uncond, 12.0))


def test_the_range_is_that_of_the_mimicked_scale():
    cond, uncond = case()
    for separate, dims in ((True, (2, 3)), (False, (1, 2, 3))):
        def spread(value, dims=dims):
            return (value - value.mean((2, 3), keepdim=True)).abs().amax(dims)

        out = mimic_guidance(cond, uncond, scale=12.0, mimic=4.0, separate_channels=separate)
        assert torch.allclose(spread(out), spread(plain(cond, uncond, 4.0)))
        out = mimic_guidance(cond, uncond, scale=12.0, mimic=4.0, separate_channels=separate, variability="STD")
        assert torch.allclose(out.std(dims) if separate else (out - out.mean((2, 3), keepdim=True)).std(dims),
                              (lambda low: (low - low.mean((2, 3), keepdim=True)).std(dims))(plain(cond, uncond, 4.0)))


@pytest.mark.parametrize("separate", [True, False])
def test_an_item_is_its_single_run_also_of_a_video_and_black_is_finite(separate):
    cond, uncond = case((3, 4, 2, 5, 5))
    options = {"scale": 12.0, "mimic": 4.0, "separate_channels": separate, "percentile": 0.9}
    whole = mimic_guidance(cond, uncond, **options)
    for i in range(3):
        assert torch.equal(whole[i:i + 1], mimic_guidance(cond[i:i + 1], uncond[i:i + 1], **options))
    flat = torch.zeros(1, 4, 3, 3)
    for start in ("MEAN", "ZERO"):
        assert torch.equal(mimic_guidance(flat, flat, startpoint=start, **options), flat)


def test_modes_move_between_low_and_scale():
    place = torch.linspace(0.0, 1.0, 21, dtype=torch.float64)
    for mode in MODES:
        found = scheduled(mode, 9.0, 2.0, place, value=2.0)
        assert found.min() >= 2.0 - 1e-9 and found.max() <= 9.0 + 1e-9, mode
    assert scheduled("Linear Up", 9.0, 2.0, place)[[0, 10, -1]].tolist() == pytest.approx([2.0, 5.5, 9.0])
    assert scheduled("Power Down", 9.0, 2.0, place, value=2.0)[10] == pytest.approx(2.0 + 7.0 * 0.75)


def test_places_count_the_levels_of_the_schedule():
    sigmas = torch.tensor([14.6, 5.0, 1.0, 0.1, 0.0])
    assert [place_in(sigmas.tolist(), level.expand(2)).tolist()[0] for level in sigmas[:-1]] == pytest.approx(
        [0.0, 1 / 3, 2 / 3, 1.0])
    assert place_in([1.0, 0.0], torch.tensor([1.0])).tolist() == [0.0]
    assert place_in(sigmas.tolist(), torch.empty(2, device="meta")).shape == (2,)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="mode must be one of Constant"):
        scheduled("x", 1.0, 0.0, torch.zeros(1))
    with pytest.raises(ValueError, match="startpoint must be one of"):
        mimic_guidance(*case(), scale=2.0, mimic=1.0, startpoint="x")
