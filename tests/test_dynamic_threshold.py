"""Dynamic thresholding: the recorded run, its limits, and what it leaves alone."""
import pytest
import torch
from gmm import denoise
from golden_runs import load, tensor

from odeon.guidance import dynamic_threshold as module
from odeon.guidance.dynamic_threshold import dynamic_threshold
from odeon.samplers.dpm_solver_pp import plan_dpm_solver_pp
from odeon.samplers.linear import run


def pictures(seed=0, shape=(3, 4, 6, 5), size=1.7):
    return size * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_golden_parity():
    golden = load("solvers/dynamic_thresholding")
    entry = golden["runs"][0]
    options = entry["settings"]["thresholding"]
    out = run(lambda x, sigma: dynamic_threshold(denoise(x, sigma), **options), tensor(golden["starts"][0]),
              plan_dpm_solver_pp(entry["settings"]["sigmas"]))
    assert (out - tensor(entry["x_final"])).abs().max() < 1e-9


def test_inside_the_range_nothing_changes():
    x = pictures().clamp(-1.0, 1.0)
    assert torch.equal(dynamic_threshold(x), x)
    assert torch.allclose(dynamic_threshold(4.0 * x, scale=4.0), 4.0 * x, atol=1e-14)


@pytest.mark.parametrize("channelwise", [False, True])
def test_result_lies_in_the_range_and_stays_there(channelwise):
    x = pictures()
    out = dynamic_threshold(x, channelwise=channelwise)
    assert out.abs().max() <= 1.0 and torch.equal(dynamic_threshold(out, channelwise=channelwise), out)
    places = (2, 3) if channelwise else (1, 2, 3)
    assert torch.allclose(out.abs().amax(places), torch.ones_like(out.abs().amax(places)))


def test_an_item_is_its_single_run_also_of_a_video():
    x = pictures(shape=(3, 4, 2, 6, 5))
    for i in range(3):
        assert torch.equal(dynamic_threshold(x)[i:i + 1], dynamic_threshold(x[i:i + 1]))


def test_long_rows_have_the_same_quantile(monkeypatch):
    x = pictures()
    wanted = [dynamic_threshold(x, ratio=ratio) for ratio in (0.0, 0.37, 0.995, 1.0)]
    monkeypatch.setattr(module, "QUANTILE_LIMIT", 1)
    for ratio, out in zip((0.0, 0.37, 0.995, 1.0), wanted):
        assert torch.allclose(dynamic_threshold(x, ratio=ratio), out, atol=1e-6), ratio


def test_what_can_t_work_is_said():
    for options in ({"ratio": 1.5}, {"max_val": 0.0}, {"scale": 0.0}):
        with pytest.raises(ValueError, match="need ratio in"):
            dynamic_threshold(pictures(), **options)
