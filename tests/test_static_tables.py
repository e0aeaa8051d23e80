import pytest
import torch
from golden_runs import load

from odeon.schedules.gits_table import LEVELS, LISTS, gits_sigmas
from odeon.schedules.oss_table import TABLES, oss_sigmas
from odeon.schedules.tables import ENDS, log_interpolated

RUNS = load("schedules/static_tables")["runs"]


@pytest.mark.parametrize("i", range(len(RUNS)))
def test_golden_parity(i):
    settings = RUNS[i]["settings"]
    if settings["node"] == "GITSScheduler":
        ours = gits_sigmas(settings["steps"], settings["coeff"], settings["denoise"])
    else:
        ours = oss_sigmas(settings["steps"], settings["model_type"], settings["denoise"])
    assert torch.equal(ours.float(), torch.tensor(RUNS[i]["sigmas"]))  # recorded as float32


def test_every_recorded_node_is_tested():
    assert len(RUNS) == 49 and {run["settings"]["node"] for run in RUNS} == {"GITSScheduler", "OptimalStepsScheduler"}


@pytest.mark.parametrize("name", list(LISTS))
def test_gits_lists_are_whole(name):
    """Each of the 19 lists has its number of steps, falls, starts and ends where Stable Diffusion's levels do."""
    coeff = float(name)
    for steps in range(2, 21):
        sigmas = gits_sigmas(steps, coeff, end="sigma_min")
        assert len(sigmas) == steps + 1 and (sigmas.diff() < 0.0).all()
        assert (sigmas[0], sigmas[-1]) == (LEVELS[0], LEVELS[-1])
        assert set(sigmas.tolist()) <= set(LEVELS)
    assert gits_sigmas(40, coeff, end="sigma_min")[::2].tolist() == gits_sigmas(20, coeff, end="sigma_min").tolist()


def test_a_higher_coefficient_steps_lower():
    halves = [gits_sigmas(10, float(name))[5].item() for name in LISTS]
    assert halves == sorted(halves, reverse=True) and halves[0] > 8.0 and halves[-1] < 1.0


def test_gits_of_one_step_and_of_more_than_the_lists():
    assert gits_sigmas(1).tolist() == [LEVELS[0], 0.0]
    for steps in (21, 33, 1000):
        sigmas = gits_sigmas(steps)
        assert len(sigmas) == steps + 1 and (sigmas.diff() < 0.0).all() and sigmas[-1] == 0.0


@pytest.mark.parametrize("table", list(TABLES))
def test_the_table_itself_and_its_refinement(table):
    own = len(TABLES[table]) - 1
    assert own == {"FLUX": 10, "Wan": 20, "Chroma": 40}[table]
    assert oss_sigmas(own, table, end="sigma_min").tolist() == list(TABLES[table])
    assert oss_sigmas(own, table).tolist() == [*TABLES[table][:-1], 0.0]
    assert oss_sigmas(own, table, end="append_zero").tolist() == [*TABLES[table], 0.0]
    assert oss_sigmas(2 * own, table, end="sigma_min")[::2].tolist() == list(TABLES[table])
    for steps in (1, 3, 7, 100):
        sigmas = oss_sigmas(steps, table)
        assert len(sigmas) == steps + 1 and (sigmas.diff() < 0.0).all() and sigmas[0] <= 1.0


def test_halfway_between_points_is_their_geometric_mean():
    table = (8.0, 2.0, 0.5)
    assert log_interpolated(table, 4) == pytest.approx([8.0, 4.0, 2.0, 1.0, 0.5])


@pytest.mark.parametrize("sigmas_of", [oss_sigmas, gits_sigmas])
def test_denoise_keeps_the_end(sigmas_of):
    whole = sigmas_of(20)
    assert torch.equal(sigmas_of(20, denoise=0.25), whole[-6:])
    assert sigmas_of(20, denoise=0.0).shape == (0,)
    for denoise in (0.01, 0.025):  # rounds to no step: the last level alone, as ComfyUI's nodes have it
        assert sigmas_of(20, denoise=denoise).tolist() == [0.0]
    assert sigmas_of(20, denoise=0.01, end="sigma_min").tolist() == sigmas_of(20, end="sigma_min")[-1:].tolist()
    with pytest.raises(ValueError, match=r"denoise must lie in \[0, 1\], got 1.5"):
        sigmas_of(20, denoise=1.5)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        sigmas_of(0)
    with pytest.raises(ValueError, match=f"end must be one of {', '.join(ENDS)}, got 'x'"):
        sigmas_of(20, end="x")


def test_unknown_lists_are_named():
    with pytest.raises(ValueError, match="table must be one of FLUX, Wan, Chroma, got 'SD3'"):
        oss_sigmas(20, "SD3")
    for coeff in (0.75, 1.01, 1.55):
        with pytest.raises(ValueError, match=rf"coeff must be one of 0.80, .*, 1.50, got {coeff}"):
            gits_sigmas(10, coeff)
