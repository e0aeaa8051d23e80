"""The nodes that pick levels out of a grid, through the seam: what comes out, what is told, and what is kept."""
import pytest
import torch
from test_measuring import model

from odeon import NODE_CLASS_MAPPINGS

SIGMAS = torch.tensor([14.6 * (1.0 - i / 12) ** 3 for i in range(12)] + [0.0])
OPTIONS = {
    "OdeonOptimizeBOSS": {},
    "OdeonOptimizeGITS": {"metric": "dev", "coeff": 1.15, "afs": False, "teacher": "ipndm", "student": "euler"},
    "OdeonOptimizeOSS": {"start": "scaled", "merge": "median", "norm": 2.0, "channels": 0, "frames": 0}}
NODES = pytest.mark.parametrize("name", OPTIONS)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ODEON_FOLDER", str(tmp_path))


def picked(name, **changes):
    word = [[torch.zeros(1, 2, 3), {}]]
    given = {"model": model(), "positive": word, "negative": word, "sigmas": SIGMAS, "steps": 4, "samples": 6,
             "cfg": 3.0, "latent": {"samples": torch.zeros(1, 4, 8, 8)}, "start_seed": 3, "batch": 4,
             "several_prompts": "combined", **OPTIONS[name], **changes}
    return NODE_CLASS_MAPPINGS[name]().run(**given)["result"]


@NODES
def test_levels_of_the_grid_come_out_with_a_report_and_a_plot(name):
    sigmas, report, plot, about = picked(name)
    assert sigmas.dtype == torch.float32 and 2 <= len(sigmas) <= 5 and sigmas[-1] == 0.0
    assert set(sigmas.tolist()) <= set(SIGMAS.tolist()) and (sigmas.diff() < 0.0).all()
    places = [SIGMAS.tolist().index(sigma) for sigma in sigmas.tolist()]
    assert f"places in the grid: {', '.join(map(str, places))}" in report
    assert "model calls on up to 4 pictures" in report
    assert plot.ndim == 4 and plot.std() > 0.01
    assert about["steps"] == len(sigmas) - 1 and about["report"] == report and about["cfg"] == 3.0


@NODES
def test_the_same_search_is_made_once(name):
    first, again = picked(name), picked(name)
    assert torch.equal(first[0], again[0]) and torch.equal(first[2], again[2])
    assert not torch.equal(picked(name, start_seed=4, cfg=1.0, steps=3)[0], first[0])


def test_afs_hands_on_as_many_steps_from_a_lower_level():
    plain, spared = (picked("OdeonOptimizeGITS", metric="l2", afs=afs) for afs in (False, True))
    assert len(plain[0]) == len(spared[0]) == 5
    assert plain[0][0] > spared[0][0] > plain[0][1] and torch.equal(plain[0][1:], spared[0][1:])
    assert "spared" in spared[1] and "spared" not in plain[1]
    full = picked("OdeonOptimizeGITS", afs=True, steps=12)
    assert torch.equal(full[0], SIGMAS) and "nothing is spared" in full[1]


def test_oss_from_the_first_level():
    assert picked("OdeonOptimizeOSS", start="first")[0][0] == SIGMAS[0]
    assert picked("OdeonOptimizeOSS", samples=2, steps=12)[0].tolist() == SIGMAS.tolist()


@NODES
def test_steps_the_grid_has_not_are_refused_before_a_call(name):
    with pytest.raises(ValueError, match="steps must lie between 1 and the 12 steps of the grid, got 13"):
        picked(name, steps=13, model=None)
