"""LD3's numbers: the published formulas, schedules of any numbers, and models that are told other levels."""
import math

import pytest
import torch
from gmm import denoise
from golden_runs import tensor
from test_ld3 import BOTH, ENDED, MODELS, RUNS, SCHEDULES, TOP, noises

from odeon.samplers.clock import Clock
from odeon.samplers.edm_heun import plan_edm_heun
from odeon.samplers.linear import run
from odeon.samplers.process import VE
from odeon.schedules.optimize.ld3_levels import DECOUPLED, MODES, Numbers, decoupled, discretization


def test_even_numbers_are_the_recorded_start():
    for recorded in RUNS:
        steps, mode = recorded["settings"]["steps"], recorded["settings"]["time_mode"]
        found = discretization(recorded["timesteps"], mode=mode)
        sigmas, cond = found.sigmas(found.even(steps))
        assert (sigmas - tensor(recorded["initial_timesteps"])).abs().max() < 1e-12 * TOP
        assert torch.equal(sigmas, cond)


def test_levels_are_the_published_formulas():
    p = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = (p.exp() / p.exp().sum()).tolist()
    sums = [sum(weights[:i + 1]) for i in range(6)]
    times, q = sums[::-1], torch.zeros(6, dtype=torch.float64)
    low, high = SCHEDULES[VE][-1], SCHEDULES[VE][0]
    wanted = [low + (c - times[-1]) / (times[0] - times[-1]) * (high - low) for c in times]
    assert discretization(SCHEDULES[VE], mode="time").sigmas(Numbers(p, q))[0].tolist() == pytest.approx(wanted)
    first, last = -math.log(high), -math.log(low)
    wanted = [math.exp(-first - (c - sums[0]) / (sums[-1] - sums[0]) * (last - first)) for c in sums]
    assert discretization(SCHEDULES[VE], mode="lambda").sigmas(Numbers(p, q))[0].tolist() == pytest.approx(wanted)


@BOTH
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("schedules", [SCHEDULES, ENDED], ids=["to sigma_min", "to 0"])
def test_any_numbers_are_a_schedule_and_any_schedule_has_numbers(schedules, mode, process):
    sigmas = schedules[process]
    found = discretization(sigmas, mode=mode, process=process, sigma_min=0.01)
    again, cond = found.sigmas(found.matching(sigmas))
    assert again.tolist() == pytest.approx(sigmas, rel=1e-12) and torch.equal(again, cond)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        p, q = 3.0 * torch.randn(2, 6, dtype=torch.float64, generator=generator)
        levels, told = (values.tolist() for values in found.sigmas(Numbers(p, q)))
        assert levels[0] == told[0] == sigmas[0] and levels[-1] == told[-1] == sigmas[-1]
        assert all(after < before for before, after in zip(levels, levels[1:]))
        assert all(after <= before * (1.0 + 1e-12) for before, after in zip(told, told[1:])) and told != levels


def test_told_levels_stay_within_half_the_least_step():
    p, q = torch.tensor([[1.0, 0.2, 0.5, 0.0, 0.9, 0.4], [5.0] * 6], dtype=torch.float64)
    for mode, of in (("time", lambda sigma: sigma), ("lambda", lambda sigma: -sigma.log())):
        found = discretization(SCHEDULES[VE], mode=mode)
        levels, told = (of(values) for values in found.sigmas(Numbers(p, q)))
        least = levels.diff().abs().min().item()
        assert (told - levels)[1:-1].tolist() == pytest.approx([least / 2] * 4)
    faithful = discretization(SCHEDULES[VE], mode="lambda", faithful=True)
    levels, told = (-values.log() for values in faithful.sigmas(Numbers(p, q)))
    assert (told - levels)[1:-1].tolist() == pytest.approx([0.5 * 0.3] * 4)  # half of |p_2 - p_1|
    assert torch.equal(*faithful.sigmas(Numbers(torch.ones_like(p), q)))


def test_time_is_the_model_s_own_where_it_has_one():
    clock = Clock(lambda sigma: sigma ** 0.25, lambda time: time ** 4)
    found = discretization(SCHEDULES[VE], mode="time", clock=clock)
    quarter = found.sigmas(found.even(5))[0] ** 0.25
    assert quarter.diff().tolist() == pytest.approx([(0.03 ** 0.25 - 14.6 ** 0.25) / 5] * 5)


@BOTH
@pytest.mark.parametrize("how", DECOUPLED)
def test_nothing_off_is_the_plain_sampler_to_the_bit(how, process):
    sigmas, x = ENDED[process], noises(3, process)
    model = decoupled(MODELS[process], tensor(sigmas), tensor(sigmas), how=how, scaled=True)
    plan = plan_edm_heun(sigmas, process=process)  # calls between the levels of a schedule there are none of
    assert torch.equal(run(model, x, plan), run(MODELS[process], x, plan))


def test_calls_between_levels_are_told_levels_in_between():
    seen = []
    model = decoupled(lambda x, sigma, told: seen.append(float(told)) or x, tensor([4.0, 1.0, 0.0]),
                      tensor([8.0, 1.0, 0.0]), how="label_only")
    for sigma in (4.0, 2.0, 1.0 + 1e-12, 9.0, 0.5):
        model(torch.zeros(1), sigma)
    assert seen == pytest.approx([8.0, 2.0 * math.sqrt(2.0), 1.0, 18.0, 0.5])


@pytest.mark.parametrize(("call", "message"), [
    (lambda: discretization(SCHEDULES[VE], mode="sigma"), "mode must be one of lambda, time, got 'sigma'"),
    (lambda: discretization([1.0, 0.0]), "need at least 2 steps, whose middle can move, got 1"),
    (lambda: discretization([1.0, 2.0, 0.0]), "sigmas must strictly decrease"),
    (lambda: decoupled(denoise, tensor([1.0]), tensor([1.0]), how="half"), "decouple must be one of label_only"),
])
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()
