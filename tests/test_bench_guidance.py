"""The table of guidance nodes: every row's nodes exist with those inputs, rows are kept, the page tells them."""
import json

import pytest
import torch

from odeon import NODE_CLASS_MAPPINGS
from odeon.bench import guidance, guidance_page
from odeon.bench.guidance import MODELS, Setting, best_of, figures, made, measure, plain_settings, settings
from odeon.host.workflow import describe, inputs_of
from odeon.models.shapes import draw
from odeon.models.train.scenes import scenes_of


@pytest.mark.parametrize("model", MODELS)
def test_rows_use_nodes_and_inputs_that_there_are(model):
    rows = [*plain_settings(model), *settings(model, 2.0)]
    assert len({(row.group, row.name) for row in rows}) == len(rows)
    for row in rows:
        for name, changes in row.nodes:
            shown = inputs_of(describe(NODE_CLASS_MAPPINGS[name]))
            assert set(changes) <= set(shown), row
            for key, value in changes.items():
                kind, options, _ = shown[key]
                if kind in ("INT", "FLOAT"):
                    assert options["min"] <= value <= options["max"], row
                assert not isinstance(kind, list) or value in kind, row


def test_figures_of_true_scenes_are_right():
    scenes = scenes_of(32, 23, held_out=True)
    pictures = torch.stack([draw(scene).movedim(-1, 0) for scene in scenes]) * 2.0 - 1.0
    row = figures(pictures, [scene.caption for scene in scenes], reference=pictures)
    assert row["object"] > 0.97 and row["to_reference"] == 0.0
    assert row["saturation"] == pytest.approx(1.0, abs=0.2)
    assert "variety" in figures(pictures, [scene.caption for scene in scenes], seeds=4)


def test_evaluations_are_counted_and_pictures_are_the_same_in_parts():
    captions = ["a small red star on sand", "a large blue ring on night"]
    limited = (("OdeonGuidanceInterval", {}),)
    whole, full = made(Setting("shapes-unet", "x", "x", 3.0), captions)
    single, saved = made(Setting("shapes-unet", "x", "x", 3.0, limited, part=1), captions)
    again, _ = made(Setting("shapes-unet", "x", "x", 3.0, limited), captions)
    assert full == 2 * guidance.STEPS and guidance.STEPS < saved < full
    assert torch.allclose(single, again, atol=0.02) and not torch.allclose(single, whole, atol=1e-4)


def test_rows_are_kept_and_shown(tmp_path, monkeypatch):
    calls = []

    def fake(setting, captions):
        calls.append(setting)
        return torch.zeros(len(captions), 3, 2, 2), 12.0 if setting.group == guidance.ADAPTIVE else 24.0

    monkeypatch.setattr(guidance, "made", fake)
    monkeypatch.setattr(guidance, "figures", lambda pictures, captions, seeds, reference: {
        "object": 0.9 if calls[-1].cfg >= 2.0 else 0.8, "frechet_distance": 1.0, "saturation": 1.0, "diversity": 1.0,
        **({} if reference is None else {"to_reference": reference.abs().max().item()})})
    found = measure(["shapes-unet"], count=32, folder=tmp_path)
    assert best_of({setting: row for setting, row in found.items() if setting.group == "Plain CFG"}) == 2.0
    made_once = len(calls)
    assert len(found) == made_once
    again = measure(["shapes-unet"], count=32, folder=tmp_path)
    only_there = measure(["shapes-unet", "shapes-dit"], count=32, folder=tmp_path, kept=True)
    assert [*only_there.values()] == [*found.values()] and len(calls) == made_once
    assert [*again.values()] == [*found.values()] and len(calls) == made_once
    assert json.loads(next(tmp_path.glob("*.json")).read_text())["frechet_distance"] == 1.0
    lines = guidance_page.sentences(found)
    assert lines[0] == "shapes-unet: best CFG 2."
    assert "50.0 % fewer evaluations, objects +0.0 points" in lines[1]
    monkeypatch.setattr(guidance_page, "PAGE", tmp_path / "page.md")
    page = guidance_page.write(found, 32).read_text()
    assert "## shapes-unet: Three times the best CFG (6)" in page and "90.0 %" in page
    assert len(guidance_page.tables(found)) == len({setting.group for setting in found})
