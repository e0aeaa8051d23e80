"""TimeTuner: recorded runs, its gradient against differences, and ratios found in a few seconds."""
import pytest
import torch
from gmm import MEANS, STDS, WEIGHTS, denoise, denoise_flow
from golden_runs import load, tensor

from odeon.bench.learned import sd_levels, told_model
from odeon.measure.kept import read_tensors, write_tensors
from odeon.samplers.clock import FLOW_CLOCK, Clock, clock_of_table
from odeon.samplers.ddim import plan_ddim
from odeon.samplers.linear import run
from odeon.samplers.process import FLOW, VE
from odeon.schedules.optimize.ld3_levels import decoupled
from odeon.schedules.optimize.teacher import Lesson, teach
from odeon.schedules.optimize.time_tuner import (
    ORDERS,
    Tuner,
    Tuning,
    label_clock,
    told_of_ratios,
    tune_cost,
    tune_times,
)

RUNS = load("schedules/time_tuner")["runs"]
SD = sd_levels()
MODELS = {VE: told_model(denoise, scaled=True), FLOW: told_model(denoise_flow, scaled=False)}
CLOCKS = {VE: label_clock(SD, VE), FLOW: FLOW_CLOCK}
SPANS = {VE: (SD[0], SD[-1]), FLOW: (0.001, 1.0)}
SCHEDULES = {VE: [5.1344, 2.2929, 1.1682, 0.5741, 0.0413, 0.0], FLOW: [1.0, 0.8, 0.6, 0.35, 0.1, 0.0]}
BOTH = pytest.mark.parametrize("process", [VE, FLOW], ids=lambda process: process.name)


def size(sigma):
    """Of a VE state next to a VP one."""
    return (1.0 + sigma * sigma) ** 0.5


def by_log_alpha():
    """The recorded code's time: (place + 1) / 1000, read by straight lines in log alpha."""
    places = clock_of_table([size(sigma) for sigma in SD])
    return Clock(lambda sigma: (places.time_of(size(sigma)) + 1.0) / 1000.0,
                 lambda time: (places.sigma_of(1000.0 * time - 1.0) ** 2 - 1.0) ** 0.5)


def data(count, seed=3):
    """Draws of the mixture."""
    generator = torch.Generator().manual_seed(seed)
    which = torch.multinomial(WEIGHTS, count, replacement=True, generator=generator)
    return MEANS[which] + STDS[which][:, None] * torch.randn(count, 16, dtype=torch.float64, generator=generator)


def lesson(process=VE, count=66, held=64, sigmas=None):
    sigmas = sigmas or SCHEDULES[process]
    unit = torch.randn(count, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(999))
    x = unit * (size(sigmas[0]) if process is VE else sigmas[0])
    *_, last = teach(MODELS[process], x, sigmas, steps=80, process=process, sigma_min=0.01)
    return Lesson(MODELS[process], x, last.state["targets"], lambda levels: plan_ddim(levels, process=process),
                  held=held)


def tuned(learned, options, process=VE, sigmas=None, **more):
    *_, last = tune_times(learned, sigmas or SCHEDULES[process], options, clock=CLOCKS[process], process=process,
                          **{"span": SPANS[process], "data": data(512), **more})
    return last.state


@pytest.mark.parametrize("recorded", RUNS, ids=lambda recorded: "{steps}-{tune_type}".format(**recorded["settings"]))
def test_recorded_ratios_lead_to_the_recorded_end(recorded):
    sigmas, clock = [*recorded["sigmas_ve"], recorded["sigmas_ve_prev"][-1]], by_log_alpha()
    assert [clock.time_of(sigma) for sigma in sigmas[:-1]] == pytest.approx(recorded["timesteps_continuous"], rel=1e-12)
    told = told_of_ratios(tensor(recorded["t_ratios"]), sigmas, clock)
    assert told[:-1].tolist() == pytest.approx(recorded["sigma_cond_ve"], rel=1e-12)
    x = size(sigmas[0]) * tensor(recorded["x_init"])
    end = run(decoupled(MODELS[VE], tensor(sigmas), told, how="label_only"), x, plan_ddim(sigmas))
    assert (end / size(sigmas[-1]) - tensor(recorded["x_final"])).abs().max() < 1e-9
    plain = run(MODELS[VE], x, plan_ddim(sigmas))
    assert (plain / size(sigmas[-1]) - tensor(recorded["x_final_untuned"])).abs().max() < 1e-9
    told = told_of_ratios(torch.ones(len(sigmas) - 1, dtype=torch.float64), sigmas, clock)
    assert told.tolist() == sigmas
    assert torch.equal(run(decoupled(MODELS[VE], tensor(sigmas), told, how="label_only"), x, plan_ddim(sigmas)), plain)


@BOTH
@pytest.mark.parametrize("place", [0, 1, 3])
def test_gradient_in_the_ratio_is_that_of_differences(place, process):
    learned = lesson(process, count=6, held=2)
    tuner = Tuner(learned, SCHEDULES[process], Tuning(), clock=CLOCKS[process], span=SPANS[process], process=process,
                  data=learned.targets)
    sigma, sigma_next = SCHEDULES[process][place:place + 2]
    x = process.alpha(sigma) * data(4) + sigma * learned.x[:4] / SCHEDULES[process][0]
    loss, slope = tuner._gradient(MODELS[process], x, place, torch.tensor(0.93, dtype=torch.float64))

    def at(ratio):
        told = told_of_ratios(tensor([ratio]), [sigma, sigma_next], CLOCKS[process])[0]
        direction = (x - MODELS[process](x, sigma, told=told)) / sigma
        x_next = x + (sigma_next - sigma) * direction
        first, second = ((state - process.alpha(level) * MODELS[process](state, level)) / level
                         for state, level in ((x, sigma), (x_next, sigma_next)))
        return (first - second).square().sum(1).mean().item()

    assert loss.item() == pytest.approx(at(0.93), rel=1e-12)
    assert slope.item() == pytest.approx((at(0.93 + 1e-6) - at(0.93 - 1e-6)) / 2e-6, rel=1e-4)


@pytest.fixture(scope="module")
def recorded_lesson():
    sigmas = [*RUNS[0]["sigmas_ve"], RUNS[0]["sigmas_ve_prev"][-1]]
    return sigmas, lesson(count=258, held=256, sigmas=sigmas)


@pytest.mark.parametrize("order", ORDERS)
def test_a_few_iterations_find_the_recorded_ratios(order, recorded_lesson):
    """A quarter of the recorded iterations at ten times the rate, 16 pictures in place of 64."""
    sigmas, learned = recorded_lesson
    recorded = next(one for one in RUNS if one["settings"]["steps"] == 5 and one["settings"]["tune_type"] == order)
    state = tuned(learned, Tuning(order=order, iterations=75, rate=0.02, minibatch=16), sigmas=sigmas)
    ratios = state["ratios"].tolist()
    assert ratios[-1] == 1.0 and max(ratios[:3]) < 1.0 < ratios[3]
    assert ratios[:3] == pytest.approx(recorded["t_ratios"][:3], abs=0.03)
    assert ratios[3] == pytest.approx(recorded["t_ratios"][3], abs=0.25)
    assert state["errors"].square().mean() < 0.4 * state["given_errors"].square().mean()


def test_gains_on_a_flow_model_from_what_the_teacher_drew():
    learned = lesson(FLOW, count=160, held=128)
    state = tuned(learned, Tuning(iterations=60, rate=0.02, minibatch=16), FLOW, data=None)
    assert state["cond_sigmas"][-1] == 0.0 and state["cond_sigmas"][-2].item() == SCHEDULES[FLOW][-2]
    told = state["ratios"] * tensor(SCHEDULES[FLOW][:-1])
    assert (state["cond_sigmas"][:-1] - told).abs().max() < 1e-12
    assert state["errors"].quantile(0.5) < state["given_errors"].quantile(0.5)
    assert state["errors"].square().mean() < 0.3 * state["given_errors"].square().mean()


def test_told_times_stay_within_those_the_network_knows():
    learned = lesson(FLOW, count=6, held=2)
    *_, before, _ = tune_times(learned, SCHEDULES[FLOW], Tuning(iterations=1, rate=5.0), clock=FLOW_CLOCK,
                               span=(0.05, 0.9), process=FLOW)
    for ratio, own in zip(before.state["ratios"].tolist()[:4], SCHEDULES[FLOW]):  # Adam's first step is its rate
        assert ratio * own in (pytest.approx(0.05), pytest.approx(max(own, 0.9)))


def test_what_is_not_better_gives_way_to_the_schedule_given():
    learned = lesson(FLOW, count=10, held=4)
    state = tuned(learned, Tuning(iterations=1, rate=0.6), FLOW, span=(0.01, 1.0))
    assert state["ratios"].tolist() == [1.0] * 5 and state["cond_sigmas"].tolist() == SCHEDULES[FLOW]
    assert torch.equal(state["errors"], state["given_errors"])


@pytest.mark.parametrize("order", ORDERS)
def test_it_goes_on_where_it_stopped(order, tmp_path):
    learned, options = lesson(count=6, held=2), Tuning(order=order, iterations=3, minibatch=2)

    def tune(state=None):
        return list(tune_times(learned, SCHEDULES[VE], options, clock=CLOCKS[VE], span=SPANS[VE], state=state))

    with torch.no_grad():
        whole = tune()
    assert whole[-1].done == whole[-1].total == tune_cost(5, 6, options) and len(whole) == 4 * 3 + 1
    assert all(before.done < after.done for before, after in zip(whole, whole[1:]))
    for stop in (0, 2, 5, 12):
        write_tensors(tmp_path / "kept.safetensors", whole[stop].state, {})
        again = tune(read_tensors(tmp_path / "kept.safetensors")[0])[-1].state
        assert all(torch.equal(again[key], value) for key, value in whole[-1].state.items()), stop


@pytest.mark.parametrize(("call", "message"), [
    (lambda: tuned(lesson(count=4, held=2), Tuning(order="both")), "order must be one of sequential, parallel, got"),
    (lambda: tuned(lesson(count=4, held=2), Tuning(), sigmas=[1.0, 0.5]), "need at least 2 steps, all but the last"),
    (lambda: tuned(lesson(count=4, held=2), Tuning(), sigmas=[1.0, 2.0, 0.5]), "sigmas must strictly decrease"),
    (lambda: tuned(lesson(count=4, held=2), Tuning(), data=torch.zeros(3, 8)), r"latent's size \(16,\), got \(8,\)"),
])
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()
