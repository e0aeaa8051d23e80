import pytest
import torch
from golden_runs import load, tensor

from odeon.guidance.cads import annealed, annealed_rows, annealing

RUNS = load("guidance/cads")["runs"]


@pytest.mark.parametrize("i", range(len(RUNS)))
def test_golden_parity_at_every_time(i):
    settings, condition = RUNS[i]["settings"], tensor(RUNS[i]["condition"])
    for step in RUNS[i]["steps"]:
        gamma = annealing(step["time"], tau1=settings["tau1"], tau2=settings["tau2"])
        assert gamma == pytest.approx(step["gamma"], abs=1e-12)
        out = annealed(condition, tensor(step["noise"]), gamma, s=settings["noise_scale"], psi=settings["psi"])
        assert (out - tensor(step["out"])).abs().max() < 1e-9


def test_the_share_of_the_condition():
    assert annealing(0.6) == 1.0 and annealing(0.9) == 0.0 and annealing(1.0) == 0.0
    assert annealing(0.75) == pytest.approx(0.5)
    assert annealing(1.0, tau1=1.0, tau2=1.0) == 1.0
    with pytest.raises(ValueError, match="swap the two"):
        annealing(0.5, tau1=0.9, tau2=0.6)


def words(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2.0 + 0.7


@pytest.mark.parametrize(("stats", "axes"), [("scalar", (1, 2)), ("token", (2,))])
def test_mean_and_spread_are_given_back(stats, axes):
    condition, noise = words(3, 5, 16), words(3, 5, 16, seed=2)
    out = annealed(condition, noise, 0.3, s=0.8, stats=stats)
    for found, expected in zip(torch.std_mean(out, axes), torch.std_mean(condition, axes)):
        assert (found - expected).abs().max() < 1e-10
    assert torch.equal(annealed(condition, noise, 1.0), condition)


def test_padding_stays_padding():
    condition = words(2, 6, 16)
    condition[:, 4:] = 0.0
    for stats in ("scalar", "token"):
        assert not annealed(condition, words(2, 6, 16, seed=2), 0.0, s=1.0, psi=0.5, stats=stats)[:, 4:].any()
    empty = torch.zeros(1, 6, 16)
    assert not annealed(empty, torch.ones_like(empty), 0.2).any()


def rows(value, kinds, seeds, **options):
    return annealed_rows(value, kinds, 0.4, seeds=seeds, stream="cross/0.5", **options)


def test_items_draw_their_own_noise_wherever_they_stand():
    positive, negative = words(3, 5, 16).float(), words(3, 5, 16, seed=3).float()
    whole = rows(torch.cat([negative, positive]), [1, 0], [7, 8, 9])
    assert torch.equal(whole[:3], negative)
    for k, seed in enumerate((7, 8, 9)):
        assert torch.equal(whole[3 + k:4 + k], rows(positive[k:k + 1], [0], [seed]))
    same = rows(positive[:1].expand(3, 5, 16), [0], [7, 8, 9])
    assert not torch.allclose(same[0], same[1], atol=0.05)
    both = rows(torch.cat([negative, positive]), [1, 0], [7, 8, 9], negative=True)
    assert not torch.equal(both[:3], negative) and torch.equal(both[3:], whole[3:])


def test_dtype_and_the_condition_itself_stay():
    condition = words(1, 5, 16).half()
    before = condition.clone()
    assert rows(condition, [0], [7]).dtype == torch.float16 and torch.equal(condition, before)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="stats must be"):
        annealed(words(1, 2, 3), words(1, 2, 3), 0.5, stats="word")
