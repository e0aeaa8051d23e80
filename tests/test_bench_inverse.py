"""The table of inverse problems: rows use inputs that there are, figures are right, rows are kept, the page tells."""
import pytest
import torch

from odeon import NODE_CLASS_MAPPINGS
from odeon.bench import inverse, inverse_page
from odeon.bench.inverse import MODELS, PLAIN, TASKS, Setting, figures, measure, restored, settings
from odeon.host.workflow import describe, inputs_of
from odeon.models.shapes import draw
from odeon.models.train.scenes import scenes_of


def test_rows_use_inputs_that_there_are():
    shown = inputs_of(describe(NODE_CLASS_MAPPINGS["OdeonSamplerInverseProblem"]))
    for model in MODELS:
        for task, options in TASKS.items():
            rows = settings(model, task)
            assert len({row.name for row in rows}) == len(rows)
            assert {row.method for row in rows} == {PLAIN, "dps", "psld", "stsl"}
            assert all(set(dict(row.options)) <= set(shown) for row in rows)
            assert set(options) <= set(inputs_of(describe(NODE_CLASS_MAPPINGS["OdeonOperator"])))


def test_figures_of_perfect_pictures_are_perfect(monkeypatch):
    def perfect(setting, true, captions):
        return true, lambda pictures: pictures[..., ::4, ::4], 20.0

    monkeypatch.setattr(inverse, "restored", perfect)
    row = figures(settings("shapes-unet", "4x downscale")[0], 6)
    assert row["residual"] == 0.0 and row["object"] > 0.95 and row["psnr"] > 100.0 and row["evaluations"] == 20.0


def test_restoring_counts_evaluations_of_both_kinds():
    scenes = scenes_of(1, 5, held_out=True, objects=(1,))
    true, captions = torch.stack([draw(scene, 64) for scene in scenes]), [scene.caption for scene in scenes]
    rows = {name: restored(Setting("shapes-unet", "4x downscale", name, 4, strength, options), true, captions)
            for name, strength, options in (("plain", 0.5, ()), ("psld", 0.0, (("method", "psld"),)))}
    assert rows["plain"][2] == rows["psld"][2] == 8.0
    for pictures, operator, _ in rows.values():
        assert pictures.shape == true.shape and operator.kind == "downscale"
        assert (pictures - true).square().mean() < 0.1


def test_rows_are_kept_and_told(tmp_path, monkeypatch):
    calls = []

    def fake(setting, count):
        calls.append(setting)
        psnr = {PLAIN: 20.0, "dps": 25.0, "psld": 25.0 + setting.steps / 10.0, "stsl": 29.0}[setting.method]
        return {"residual": 1.0, "psnr": psnr, "object": 0.9, "evaluations": 2.0 * setting.steps, "seconds": 1.0}

    monkeypatch.setattr(inverse, "figures", fake)
    found = measure(["shapes-unet"], count=4, folder=tmp_path)
    assert len(found) == len(calls) == sum(len(settings("shapes-unet", task)) for task in TASKS)
    assert measure(["shapes-unet"], count=4, folder=tmp_path) == found and len(calls) == len(found)
    few = measure(["shapes-unet"], count=4, folder=tmp_path, only="blur of 4 px, psld")
    assert {(row.task, row.method) for row in few} == {("Gaussian blur of 4 px", "psld")}
    assert measure(["shapes-unet", "shapes-dit"], count=4, folder=tmp_path, kept=True) == found
    line = inverse_page.sentences(found)[0]
    assert "best PSLD 29.0 dB (psld, 40 steps, 80 evaluations); STSL is there with 12 % of the evaluations" in line
    monkeypatch.setattr(inverse_page, "PAGE", tmp_path / "page.md")
    page = inverse_page.write(found, 4).read_text()
    assert "## shapes-unet: half inpainting" in page and "90.0 %" in page
    assert len(inverse_page.tables(found)) == len(TASKS)
    assert inverse_page.sentences({row: found[row] for row in found if row.method != "stsl"}) == []


@pytest.mark.parametrize("short", [True, False])
def test_stsl_that_falls_short_is_said(short):
    rows = {Setting("m", "4x downscale", "a", 20): {"psnr": 20.0, "evaluations": 40.0},
            Setting("m", "4x downscale", "b", 20, options=(("method", "psld"),)): {"psnr": 30.0, "evaluations": 40.0},
            Setting("m", "4x downscale", "c", 5, options=(("method", "stsl"),)): {"psnr": 28.0 if short else 30.0,
                                                                                 "evaluations": 10.0}}
    line, = inverse_page.sentences(rows)
    assert ("does not get there: 28.0 dB" if short else "25 % of the evaluations (c, 30.0 dB)") in line
