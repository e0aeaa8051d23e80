"""OSS: the recorded searches and their runs, what its table promises, its options by hand, and searches that go on."""
import pytest
import torch
from gmm import UNIT_NOISE, denoise, denoise_flow
from golden_runs import load, tensor
from judged import MODELS, classic, learned, share_left

from odeon.samplers.linear import run
from odeon.samplers.pndm import plan_pndm
from odeon.samplers.process import FLOW, VE
from odeon.schedules.optimize.oss import STARTS, merged, oss_cost, search_oss
from odeon.schedules.power import power_sigmas

GOLDEN = load("schedules/oss")
BOTH = pytest.mark.parametrize("process", [VE, FLOW], ids=lambda process: process.name)


def grid(process, intervals=12):
    return power_sigmas(intervals).tolist() if process is VE else [1.0 - i / intervals for i in range(intervals + 1)]


def starts(process, count, seed=0):
    noise = torch.randn(count, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return grid(process)[0] * noise


def euler(process, x, sigmas):
    return run(MODELS[process], x, plan_pndm(sigmas, max_order=1, process=process))


def searched(process, steps, x=None, **options):
    x = starts(process, 6) if x is None else x
    *_, last = search_oss(MODELS[process], x, grid(process), steps=steps, process=process, **options)
    return last.state


@pytest.mark.parametrize("recorded", GOLDEN["runs"], ids=lambda run: f"{run['steps']} of {len(run['fm_steps']) - 1}")
def test_recorded_searches_and_their_runs(recorded):
    """Recorded indices count from the clean end, without it."""
    sigmas, last = recorded["fm_steps"][::-1], len(recorded["fm_steps"]) - 1
    *_, done = search_oss(denoise_flow, tensor(GOLDEN["starts"]), sigmas, steps=recorded["steps"], process=FLOW,
                          start="published")
    found = done.state
    paths = [[last - i for i in path[-2::-1]] for path in found["paths"].tolist()]
    assert paths == recorded["steps_per_sample"] == recorded["steps_per_sample_batch_version"]
    assert [last - i for i in found["indices"].tolist()[-2::-1]] == recorded["median_steps"]
    assert found["sigmas"].tolist() == pytest.approx(recorded["sigmas_from_median"], abs=1e-12)
    assert (euler(FLOW, UNIT_NOISE, found["sigmas"].tolist()) - tensor(recorded["x_final_median"])).abs().max() < 1e-9


@BOTH
@pytest.mark.parametrize("start", STARTS)
def test_no_layer_takes_the_end_farther_away(process, start):
    ends = searched(process, 8, start=start)["ends"]
    assert (ends[1:] <= ends[:-1]).all() and (ends[-1] < ends[0]).all()


@BOTH
def test_two_steps_are_the_best_of_all_pairs(process):
    x, sigmas = starts(process, 6), grid(process)
    target, last = euler(process, x, sigmas), len(sigmas) - 1
    ways = {(0, 0, last): euler(process, x, [sigmas[0], sigmas[-1]])}
    ways |= {(0, i, last): euler(process, x, [sigmas[0], sigmas[i], sigmas[-1]]) for i in range(1, last)}
    missed = torch.stack([(end - target).square().mean(1) for end in ways.values()])
    found = searched(process, 2, x=x, start="first")
    assert found["paths"].tolist() == [list(list(ways)[best]) for best in missed.argmin(0).tolist()]
    assert (found["ends"][1] - missed.min(0).values).abs().max() < 1e-12


@BOTH
@pytest.mark.parametrize("start", ["first", "scaled"])
def test_cost_is_what_themerged_list_really_ends_with(process, start):
    x, sigmas = starts(process, 6), grid(process)
    found, target = searched(process, 4, x=x, start=start), euler(process, x, sigmas)
    levels = found["sigmas"].tolist()
    end = euler(process, x * levels[0] / sigmas[0], levels)
    assert found["cost"].item() == pytest.approx((end - target).square().mean().item(), rel=1e-9)
    even = euler(process, x, [sigmas[i] for i in (0, 3, 6, 9, 12)])
    assert found["uniform_cost"].item() == pytest.approx((even - target).square().mean().item(), rel=1e-9)
    assert levels[0] == sigmas[0] or start == "scaled"


@BOTH
@pytest.mark.parametrize("start", STARTS)
def test_as_many_steps_as_the_grid_has_give_the_grid(process, start):
    found = searched(process, 12, start=start)
    assert found["indices"].tolist() == list(range(13)) and found["sigmas"].tolist() == grid(process)
    assert found["cost"].item() < 1e-20 and not found["ends"][-1].any()


def test_merging():
    paths = [[0, 3, 8, 12], [0, 4, 9, 12], [0, 2, 9, 12], [1, 7, 10, 12]]
    assert merged(paths, "first") == [0, 3, 8, 12]
    assert merged(paths, "median") == [0, 4, 9, 12]  # 3 and 4 meet towards less noise
    assert merged(paths[:1], "median") == [0, 3, 8, 12]


def test_steps_that_coincide_are_left_out():
    """A model whose every step is straight needs one step only."""
    *_, last = search_oss(lambda x, sigma: torch.ones_like(x), UNIT_NOISE.float(), [8.0, 4.0, 2.0, 1.0, 0.0], steps=3,
                          start="first")
    sigmas = last.state["sigmas"].tolist()
    assert sigmas[0] == 8.0 and sigmas[-1] == 0.0 and sigmas == sorted(set(sigmas), reverse=True)
    assert len(sigmas) < 4


@BOTH
def test_nearness_in_a_norm_and_of_some_channels_and_frames(process):
    """One step from the first level, on the mixture's 16 numbers as 2 channels of 4 frames of 1 x 2."""
    x, sigmas, flat = starts(process, 3), grid(process), MODELS[process]

    def video(x, sigma):
        return flat(x.flatten(1), sigma).reshape(x.shape)

    missed = (euler(process, x, [sigmas[0], sigmas[-1]]) - euler(process, x, sigmas)).reshape(3, 2, 4, 1, 2)
    for options, seen in (({"norm": 1.0}, missed.abs()), ({"channels": 1}, missed[:, :1].square()),
                          ({"frames": 2, "norm": 3.0}, missed[:, :, [0, 3]].abs() ** 3)):
        *_, last = search_oss(video, x.reshape(3, 2, 4, 1, 2), sigmas, steps=1, process=process, start="first",
                              **options)
        assert last.state["ends"][0].tolist() == pytest.approx(seen.flatten(1).mean(1).tolist(), rel=1e-9), options


# Share of the distance that the best of karras, normal and simple leaves, from a grid of 40.
@pytest.mark.parametrize(("process", "scheduler", "steps", "start", "wanted"), [
    (VE, "karras", 5, "scaled", 0.77), (VE, "karras", 7, "scaled", 0.78), (VE, "karras", 5, "first", 0.94),
    (VE, "karras", 7, "first", 0.89), (FLOW, "simple", 5, "scaled", 0.78), (FLOW, "simple", 7, "scaled", 0.79),
    (FLOW, "simple", 5, "first", 1.01), (FLOW, "simple", 7, "first", 0.98), (FLOW, "simple", 5, "published", 0.62)],
    ids=lambda value: getattr(value, "name", str(value)))
def test_figures_of_the_help_page(process, scheduler, steps, start, wanted):
    *_, last = search_oss(MODELS[process], learned(process, 16), classic(process, scheduler, 40), steps=steps,
                          start=start, process=process)
    sigmas = last.state["sigmas"].tolist()
    assert len(sigmas) == steps + 1
    assert share_left(process, sigmas, scaled=start != "published") == pytest.approx(wanted, abs=0.02)


@BOTH
@pytest.mark.parametrize("start", STARTS)
def test_goes_on_where_it_stopped_to_the_bit_and_calls_are_as_told(process, start):
    x, sigmas, seen = starts(process, 4), grid(process), []

    def model(x, sigma):
        seen.append(sigma)
        return MODELS[process](x, sigma)

    def search(state=None):
        seen.clear()
        return list(search_oss(model, x, sigmas, steps=4, process=process, start=start, state=state))

    whole = search()
    assert len(seen) == whole[-1].done == whole[-1].total == oss_cost(12, 4, start=start)
    assert [progress.done for progress in whole[:-1]] == list(range(1, whole[-1].done - 7))
    for stop in (0, 5, 11, 12, 13, 20, 30, len(whole) - 2, len(whole) - 1):
        rest = search({key: value.clone() for key, value in whole[stop].state.items()})
        assert len(seen) == whole[-1].done - whole[stop].done
        assert all(torch.equal(rest[-1].state[key], value) for key, value in whole[-1].state.items()), stop


def test_half_precision_under_inference_mode():
    with torch.inference_mode():
        *_, last = search_oss(denoise, starts(VE, 3).to(torch.bfloat16), grid(VE), steps=3)
    assert last.state["sigmas"].dtype == torch.float64 and torch.isfinite(last.state["ends"]).all()


@pytest.mark.parametrize(("call", "message"), [
    (lambda: searched(VE, 0), "steps must lie between 1 and the 12 steps of the grid, got 0; connect a finer"),
    (lambda: searched(VE, 13), "steps must lie between 1 and the 12 steps of the grid, got 13"),
    (lambda: searched(VE, 5, start="top"), "start must be one of scaled, first, published, got 'top'"),
    (lambda: searched(VE, 5, merge="mean"), "merge must be one of median, first, got 'mean'"),
    (lambda: searched(VE, 5, norm=0.0), "norm must be above 0, got 0"),
    (lambda: searched(VE, 5, channels=17), r"channels must lie between 0 \(all\) and this latent's 16, got 17"),
    (lambda: searched(VE, 5, frames=2), r"frames is for video latents \(B, C, F, H, W\), got one of 2 axes"),
    (lambda: searched(VE, 5, x=torch.zeros(1, 2, 4, 1, 2), frames=5),
     r"frames must lie between 0 \(all\) and this latent's 4, got 5"),
    (lambda: list(search_oss(lambda x, sigma: x * torch.nan, UNIT_NOISE, [2.0, 1.0, 0.0], steps=1)),
     "the model returned NaN or infinite values on the way"),
    (lambda: list(search_oss(denoise, UNIT_NOISE, [1.0, 1.0, 0.0], steps=1)), "sigmas must strictly decrease"),
])
def test_what_can_t_work_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()
