"""BOSS: the recorded search and its runs, the dynamic program against every path there is, and searches that go on."""
import itertools

import pytest
import torch
from gmm import UNIT_NOISE, denoise, denoise_flow
from golden_runs import load, tensor
from judged import MODELS, classic, learned, share_left

from odeon.samplers.linear import run
from odeon.samplers.pndm import plan_pndm
from odeon.samplers.process import FLOW, VE
from odeon.schedules.optimize.boss import search_boss
from odeon.schedules.optimize.shortest import path_cost, shortest_path, uniform_path
from odeon.schedules.optimize.straight import straight_cost
from odeon.schedules.power import power_sigmas

GOLDEN = load("schedules/boss")
BOTH = pytest.mark.parametrize("process", [VE, FLOW], ids=lambda process: process.name)


def shifted(x, sigma):
    """The recorded model: asked at tau (1 - 1e-3) + 1e-3 where the step counts in tau = 1 - sigma."""
    return x - (x - denoise_flow(x, 0.999 * sigma)) / 0.999


def grid(process, intervals=20):
    return power_sigmas(intervals).tolist() if process is VE else [1.0 - i / intervals for i in range(intervals + 1)]


def starts(process, count, seed=0):
    noise = torch.randn(count, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return grid(process)[0] * noise


def euler(model, x, sigmas, process):
    return run(model, x, plan_pndm(sigmas, max_order=1, process=process))


def searched(process, steps, x=None, **options):
    x = starts(process, 32) if x is None else x
    *_, last = search_boss(MODELS[process], x, grid(process), steps=steps, process=process, **options)
    return last.state


@pytest.mark.parametrize("recorded", GOLDEN["runs"], ids=lambda recorded: f"{recorded['steps']} steps")
def test_recorded_searches_and_their_runs(recorded):
    sigmas = [1.0 - i / recorded["intervals"] for i in range(recorded["intervals"] + 1)]
    *_, last = search_boss(shifted, tensor(GOLDEN["starts"]), sigmas, steps=recorded["steps"], process=FLOW)
    found = last.state
    assert found["indices"].tolist() == recorded["tracking"]
    assert found["sigmas"].tolist() == pytest.approx(recorded["sigmas"], abs=1e-12)
    assert (found["costs"] - tensor(GOLDEN["costs"])).triu(1).abs().max() < 1e-9
    assert found["cost"].item() == pytest.approx(recorded["total_cost"], abs=1e-9)
    assert found["uniform_cost"].item() == pytest.approx(recorded["uniform_cost"], abs=1e-9)
    even = [sigmas[i] for i in uniform_path(recorded["intervals"], recorded["steps"])]
    for levels, end in ((found["sigmas"].tolist(), "x_final"), (even, "x_final_uniform")):
        assert (euler(shifted, UNIT_NOISE, levels, FLOW) - tensor(recorded[end])).abs().max() < 1e-9


@pytest.mark.parametrize("steps", range(1, 8))
@pytest.mark.parametrize("coeff", [0.8, 1.0, 1.5])
def test_the_dynamic_program_finds_the_best_of_all_paths(steps, coeff):
    for seed in range(5):
        costs = torch.randn(8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        paths = [[0, *inner, 7] for inner in itertools.combinations(range(1, 7), steps - 1)]
        best = min(paths, key=lambda path: path_cost(costs, path, coeff=coeff))
        assert shortest_path(costs, steps, coeff=coeff) == best


def test_the_first_of_equal_paths_is_taken():
    assert shortest_path(torch.zeros(6, 6), 3) == [0, 1, 2, 5]


@pytest.mark.parametrize("intervals", [1, 5, 8, 20])
def test_even_indices(intervals):
    for steps in range(1, intervals + 1):
        path = uniform_path(intervals, steps)
        assert path[0] == 0 and path[-1] == intervals and path == sorted(set(path)) and len(path) == steps + 1
        assert all(abs(place - k * intervals / steps) <= 0.5 for k, place in enumerate(path))


@BOTH
def test_a_cost_is_what_one_euler_step_misses_of_two(process):
    x, model, (a, b, c) = starts(process, 3), MODELS[process], grid(process)[:3]
    costs = searched(process, 2, x=x)["costs"]
    v = (x - model(x, a)) / a
    middle = x + (b - a) * v
    end = middle + (c - b) * (middle - model(middle, b)) / b
    assert costs[0, 1].item() < 1e-24
    assert costs[0, 2].item() == pytest.approx((x + (c - a) * v - end).square().sum(1).mean().item(), rel=1e-10)


@BOTH
def test_cheaper_than_even_steps_and_never_dearer_with_more(process):
    costs = []
    for steps in range(1, 21):
        found = searched(process, steps)
        assert found["cost"] <= found["uniform_cost"] + 1e-12, steps
        costs.append(found["cost"].item())
    assert costs == sorted(costs, reverse=True) and costs[-1] < 1e-20


@pytest.mark.parametrize(("process", "scheduler", "steps", "wanted"), [
    (VE, "karras", 5, 0.97), (VE, "karras", 7, 0.82), (FLOW, "simple", 5, 0.96), (FLOW, "simple", 7, 0.94)],
    ids=lambda value: getattr(value, "name", str(value)))
def test_figures_of_the_help_page(process, scheduler, steps, wanted):
    *_, last = search_boss(MODELS[process], learned(process, 64), classic(process, scheduler, 40), steps=steps,
                           process=process, batch=64)
    assert share_left(process, last.state["sigmas"].tolist()) == pytest.approx(wanted, abs=0.02)


@BOTH
def test_as_many_steps_as_the_grid_has_give_the_grid(process):
    found = searched(process, 20)
    assert found["indices"].tolist() == list(range(21)) and found["sigmas"].tolist() == grid(process)


@BOTH
def test_batch_size_does_not_matter_and_calls_are_as_told(process):
    x, calls = starts(process, 10), []

    def model(x, sigma):
        calls.append(len(x))
        return MODELS[process](x, sigma)

    whole = searched(process, 5, x=x, batch=10)
    *_, last = search_boss(model, x, grid(process), steps=5, process=process, batch=4)
    assert last.done == last.total == len(calls) == straight_cost(10, 20, 4) == 60
    assert set(calls) == {4, 2} and sum(calls) == 200
    assert (last.state["costs"] - whole["costs"]).abs().max() < 1e-12 * whole["costs"].max()
    assert torch.equal(last.state["indices"], whole["indices"])


def test_a_model_that_tells_samples_apart_is_asked_for_the_right_ones():
    x = starts(VE, 10)

    class Prompted:
        def __init__(self, items):
            self.items = items

        def of(self, items):
            return Prompted(self.items[items])

        def __call__(self, x, sigma):
            return torch.cat([denoise(row[None], sigma, label=item % 2) for row, item in zip(x, self.items)])

    by_parts, at_once = ([*search_boss(Prompted(range(10)), x, grid(VE), steps=5, batch=batch)][-1].state["costs"]
                         for batch in (4, 10))
    assert (by_parts - at_once).abs().max() < 1e-12 * at_once.max()


@BOTH
def test_goes_on_where_it_stopped_to_the_bit(process):
    x, sigmas = starts(process, 6), grid(process)

    def search(model, state=None):
        return list(search_boss(model, x, sigmas, steps=5, process=process, batch=4, state=state))

    whole = search(MODELS[process])
    for stop in (0, 7, 19, 20, 33, 39):
        seen = []

        def model(x, sigma, seen=seen):
            seen.append(sigma)
            return MODELS[process](x, sigma)

        rest = search(model, {key: value.clone() for key, value in whole[stop].state.items()})
        assert len(seen) == whole[-1].total - whole[stop].done
        assert all(torch.equal(rest[-1].state[key], value) for key, value in whole[-1].state.items()), stop


def test_half_precision_under_inference_mode():
    with torch.inference_mode():
        *_, last = search_boss(denoise, starts(VE, 8).to(torch.bfloat16), grid(VE), steps=5)
    assert last.state["sigmas"].dtype == torch.float64 and torch.isfinite(last.state["costs"]).all()


@pytest.mark.parametrize(("call", "message"), [
    (lambda: searched(VE, 0), "steps must lie between 1 and the 20 steps of the grid, got 0; connect a finer"),
    (lambda: searched(VE, 21), "steps must lie between 1 and the 20 steps of the grid, got 21"),
    (lambda: searched(VE, 5, batch=0), "batch must be at least 1, got 0"),
    (lambda: list(search_boss(denoise, UNIT_NOISE, [1.0, 2.0, 0.0], steps=1)), "sigmas must strictly decrease"),
    (lambda: list(search_boss(lambda x, sigma: x * torch.nan, UNIT_NOISE, [2.0, 1.0, 0.0], steps=1)),
     "the costs hold NaN or infinite values"),
    (lambda: shortest_path(torch.zeros(3, 3), 2, coeff=0.0), "coeff must be above 0, got 0"),
])
def test_what_can_t_work_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()
