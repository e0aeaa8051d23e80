"""Learned plans and steps in files: they come back whole, and damage is told."""
import math

import gmm
import pytest
import torch
from lessons import lesson_of, noises, simple

from odeon.measure.kept import VERSION, load_plan, load_sigmas, read_tensors, save_plan, save_sigmas, write_tensors
from odeon.samplers.learned import LearnedPlan, plan_learned
from odeon.samplers.process import FLOW, VE
from odeon.samplers.table import Table, run_table
from odeon.samplers.unipc import plan_unipc
from odeon.schedules.optimize.plan import PlanLesson


def learned_plan(**about):
    table = PlanLesson(lesson_of(VE, plan_unipc, count=4, held=2), simple(VE, 4)).table(
        PlanLesson(lesson_of(VE, plan_unipc, count=4, held=2), simple(VE, 4)).numbers)
    return LearnedPlan(table, tuple(simple(VE, 4)), {"what": "plan", **about})


def test_a_learned_plan_is_for_its_own_levels_and_process():
    learned = learned_plan(process="VE")
    rounded = torch.tensor(learned.sigmas).float().tolist()
    assert len(plan_learned(rounded, learned=learned)) == 4
    with pytest.raises(ValueError, match="connect the SIGMAS that came with it"):
        plan_learned(simple(VE, 5), learned=learned)
    with pytest.raises(ValueError, match="learned on a VE model, this one is flow"):
        plan_learned([1.0, *learned.sigmas[1:]] if learned.sigmas[0] <= 1.0 else [0.9, 0.5, 0.3, 0.1, 0.0],
                     learned=learned._replace(sigmas=(0.9, 0.5, 0.3, 0.1, 0.0)), process=FLOW)


def test_files_of_plans_and_steps_come_back_and_damage_is_told(tmp_path):
    learned, path = learned_plan(process="VE", cfg=3.0), tmp_path / "mine.safetensors"
    save_plan(path, learned)
    again = load_plan(path)
    assert again.sigmas == learned.sigmas and again.about == {**learned.about, "holds": "plan"}
    assert all(torch.equal(a, b) for a, b in zip(again.table, learned.table))
    sigmas, about = load_sigmas(path)  # of a plan too: its levels
    assert tuple(sigmas.tolist()) == learned.sigmas and about["cfg"] == 3.0
    save_sigmas(tmp_path / "steps.safetensors", torch.tensor([14.6, 1.0, 0.0]), {"what": "steps"})
    with pytest.raises(ValueError, match="holds no learned plan but steps"):
        load_plan(tmp_path / "steps.safetensors")
    for wrong in ([], [3.0], [1.0, 4.0, 9.0], [4.0, math.nan, 0.0], [4.0, -1.0]):  # what no node could load
        with pytest.raises(ValueError, match="no schedule that can be kept"):
            save_sigmas(tmp_path / "steps.safetensors", torch.tensor(wrong), {"what": "steps"})
    assert load_sigmas(tmp_path / "steps.safetensors")[0].tolist() == pytest.approx([14.6, 1.0, 0.0])

    tensors, about = read_tensors(path)
    for change, words in (({"sigmas": tensors["sigmas"].flip(0)}, "do not decrease"),
                          ({"d": tensors["d"][:3]}, "rows of"), ({"d": tensors["d"].repeat(1, 3)}, "rows of"),
                          ({"d": tensors["d"].repeat(1, 2)}, "no solver's"),
                          ({"d": tensors["d"] + 1.0}, "no solver's"), ({"x": tensors["x"] * math.nan}, "no solver's")):
        write_tensors(path, {**tensors, **change}, about)
        with pytest.raises(ValueError, match=words):
            load_plan(path)
    write_tensors(path, {"sigmas": torch.tensor([1.0, 2.0, 0.0])}, about)
    with pytest.raises(ValueError, match="no schedule: they must be at least two, finite, strictly decreasing"):
        load_sigmas(path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match="can't be read"):
        load_sigmas(path)


def test_a_file_that_can_t_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "mine.safetensors"
    save_sigmas(path, torch.tensor([14.6, 0.0]), {"what": "steps"})
    (tmp_path / "mine.safetensors.part").mkdir()
    with pytest.raises(ValueError, match="can't be written"):
        save_sigmas(path, torch.tensor([10.0, 0.0]), {"what": "steps"})
    assert load_sigmas(path)[0][0] == pytest.approx(14.6)


def test_version_is_the_project_s():
    from conftest import ROOT

    assert f'version = "{VERSION}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_tables_of_the_wrong_shape_have_no_steps():
    table = Table(*(torch.zeros(shape, dtype=torch.float64) for shape in ((2,), (3,), (3, 2), (3, 1))))
    with pytest.raises(ValueError, match="takes 1 draws of noise"):
        run_table(gmm.denoise, noises(VE, 1), table)
