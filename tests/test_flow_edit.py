"""FlowEdit: recorded runs of the authors' code, identity, and both sides of what it trades for a short way."""
import math
from itertools import pairwise

import pytest
import torch
from gmm import LABELS, MEANS, STDS, UNIT_NOISE, WEIGHTS, denoise, denoise_flow
from golden_runs import load, tensor

from odeon.editing.flow_edit import sample_flow_edit
from odeon.samplers.noise import step_noise
from odeon.samplers.process import FLOW, VE

RUNS = load("editing/flowedit")["runs"]
CLEAN = MEANS[:1].repeat(3, 1) + 0.3 * UNIT_NOISE
LEVELS = {VE: [14.6, 5.0, 2.0, 0.8, 0.2, 0.0], FLOW: [1.0, 0.9, 0.7, 0.4, 0.1, 0.0]}
DENOISE = {VE: denoise, FLOW: denoise_flow}


def under(label, process=FLOW, cfg=1.0):
    """The exact denoiser of one class, guided; D at sigma = 1 of flows is the limit, its mean."""
    def model(x, sigma):
        level, plain = sigma[0].item(), DENOISE[process]
        cond = plain(x, level, label)
        return cond if cfg == 1.0 else torch.lerp(plain(x, level), cond, cfg)

    return model


def edited(levels, process=FLOW, *, target=1, clean=CLEAN, **options):
    return sample_flow_edit(under(target, process), torch.full_like(clean, math.nan), levels, source=under(0, process),
                            clean=clean, process=process,
                            **{"noise_sampler": step_noise(clean, 0, "flow edit"), "strength": 1.0, **options})


@pytest.mark.parametrize("run", RUNS, ids=["one noise", "three noises", "finish 4"])
def test_recorded_runs(run):
    asked, noises, seen = run["settings"], iter(tensor(run["noises"])), []
    out = sample_flow_edit(under(asked["target_label"], cfg=asked["tar_guidance"]), None, asked["sigmas"],
                           source=under(asked["source_label"], cfg=asked["src_guidance"]), clean=tensor(run["x_init"]),
                           process=FLOW, strength=asked["n_max"] / asked["T_steps"], average=asked["n_avg"],
                           finish=asked["n_min"], noise_sampler=lambda sigma, sigma_next: next(noises),
                           callback=lambda i, x, denoised, sigma, of: seen.append((i, of)))
    assert out.sub(tensor(run["x_final"])).abs().max() < 1e-9
    assert next(noises, None) is None and seen == [(i, asked["n_max"]) for i in range(asked["n_max"])]


@pytest.mark.parametrize("process", [VE, FLOW], ids=["VE", "flow"])
def test_same_words_or_no_strength_give_the_picture_back(process):
    for average in (1, 3):
        assert torch.equal(edited(LEVELS[process], process, target=0, average=average), CLEAN)
    assert torch.equal(edited(LEVELS[process], process, strength=0.0), CLEAN)


@pytest.mark.parametrize("process", [VE, FLOW], ids=["VE", "flow"])
def test_the_picture_becomes_what_is_asked(process):
    for finish in (0, 2):
        near = torch.cdist(edited(LEVELS[process], process, finish=finish), MEANS).argmin(1)
        assert (LABELS[near] == 1).all()


def test_all_steps_may_finish_and_that_is_euler_from_noise_on_the_picture():
    noise = iter([UNIT_NOISE])
    levels = LEVELS[FLOW][1:]
    out = edited(levels, finish=len(levels) - 1, noise_sampler=lambda *_: next(noise))
    x = (1.0 - levels[0]) * CLEAN + levels[0] * UNIT_NOISE
    for sigma, sigma_next in pairwise(levels):
        x = x + (sigma_next - sigma) * (x - denoise_flow(x, sigma, 1)) / sigma
    assert torch.allclose(out, x, atol=1e-12)


def test_above_0_the_edit_is_given_under_noise():
    noise = [UNIT_NOISE, 2.0 * UNIT_NOISE]
    out = edited([0.8, 0.5], noise_sampler=lambda *_: noise.pop(0))
    seen = []
    edited([0.8, 0.5], noise_sampler=lambda *_: UNIT_NOISE, callback=lambda i, x, d, sigma, of: seen.append(d))
    assert torch.allclose(out, seen[0] - 0.5 * CLEAN + UNIT_NOISE, atol=1e-12)


def flow_ode(x, levels, label):
    for sigma, sigma_next in pairwise(levels):
        x = x + (sigma_next - sigma) * (x - denoise_flow(x, max(sigma, 1e-4), label)) / max(sigma, 1e-4)
    return x


def log_density(x, label):
    shares = torch.where(label == LABELS, WEIGHTS, 0.0)
    squares = (x[:, None] - MEANS).square().sum(-1) / STDS ** 2
    each = (shares / shares.sum()).log() - 0.5 * squares - 0.5 * x.shape[1] * (2.0 * math.pi * STDS ** 2).log()
    return torch.logsumexp(each, 1)


def test_the_way_is_shorter_than_by_inversion_and_what_that_costs():
    rng = torch.Generator().manual_seed(3)
    chosen = torch.multinomial(torch.where(LABELS == 0, WEIGHTS, 0.0), 400, True, generator=rng)
    clean = MEANS[chosen] + STDS[chosen, None] * torch.randn(400, 16, generator=rng, dtype=torch.float64)
    levels = [1.0 - i / 50 for i in range(51)]
    inverted = flow_ode(flow_ode(clean, levels[::-1][:-1] + [0.999], 0), [0.999, *levels[1:]], 1)
    found = {"inversion": inverted}
    for name, options in (("nearly whole", {"strength": 49 / 50}), ("averaged", {"strength": 49 / 50, "average": 5}),
                          ("0.7", {"strength": 0.7})):
        found[name] = edited(levels, clean=clean, **options)
    move = {name: (out - clean).square().sum(1).mean().item() for name, out in found.items()}
    density = {name: log_density(out, 1).median().item() for name, out in found.items()}
    assert 21.0 < move["inversion"] < 24.0 and 15.0 < move["nearly whole"] < 16.5 and 10.7 < move["0.7"] < 11.7
    assert all(move[name] < 0.85 * move["inversion"] for name in found if name != "inversion")
    assert move["0.7"] < move["averaged"] < move["nearly whole"]
    assert density["nearly whole"] < density["inversion"] < density["0.7"]  # the price of the whole way
    for out in found.values():
        assert (LABELS[torch.cdist(out, MEANS).argmin(1)] == 1).double().mean() > 0.99


@pytest.mark.parametrize(("options", "words"), [
    ({"strength": 1.2}, "strength must lie"), ({"average": 0}, "at least 1"),
    ({"finish": 4, "strength": 0.6}, "finish must be 0 to the 3 steps")])
def test_refusals(options, words):
    with pytest.raises(ValueError, match=words):
        edited(LEVELS[FLOW], **options)
