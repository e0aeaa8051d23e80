"""The table of editors: true edits, what the judge says of right and wrong ones, rows that are kept and shown."""
import pytest
import torch

from odeon.bench import editing, editing_page
from odeon.bench.editing import MODELS, Setting, figures, made, measure, settings
from odeon.bench.editing_edits import ATTRIBUTES, edits_of, judged, pictures_of
from odeon.bench.editing_ways import NODES, WAYS
from odeon.models.judge import parse_caption
from odeon.models.weights import shapes_judge

EDITS = edits_of(48, 7, held_out=True)


def test_every_edit_changes_one_attribute_of_one_thing_in_scene_and_caption():
    for i, edit in enumerate(EDITS):
        assert edit.scene.held_out and edit.attribute == ATTRIBUTES[i % 3]
        changed = [(j, name) for j, (a, b) in enumerate(zip(edit.scene.things, edit.wanted.things))
                   for name in ("shape", "colour", "size", "place", "radius") if getattr(a, name) != getattr(b, name)]
        assert changed == [(edit.thing, edit.attribute)] and edit.scene.ground == edit.wanted.ground
        (before, ground), (after, same_ground) = (parse_caption(caption) for caption in edit.captions)
        assert len(before) == len(after) and ground == same_ground
        assert sum(a != b for x, y in zip(before, after) for a, b in zip(x, y)) == 1
    assert not any(edit.scene.held_out for edit in edits_of(12, 7, held_out=False))
    assert edits_of(48, 7, held_out=True) == EDITS != edits_of(48, 8, held_out=True)


def test_true_edits_are_right_and_keep_all_and_untouched_pictures_are_wrong():
    originals, wanted = (pictures_of(scenes) for scenes in zip(*((edit.scene, edit.wanted) for edit in EDITS)))
    row = figures(wanted, originals, EDITS)
    assert row["right"] == row["kept"] == 1.0 and row["background"] < 0.1 and row["drift"] < 0.5
    same = figures(originals, originals, EDITS)
    assert same["right"] == 0.0 and same["kept"] == 1.0 and same["background"] == 0.0


def test_what_else_changes_is_seen():
    edit = next(edit for edit in EDITS if edit.attribute == "colour" and len(edit.scene.things) == 2)
    other = edit.wanted.things[1 - edit.thing]
    original = pictures_of([edit.scene])

    def said(things, ground=edit.scene.ground):
        scene = edit.wanted._replace(things=things, ground=ground)
        row, = judged(shapes_judge(), pictures_of([scene]), original, [edit])
        return row["right"], row["kept"]

    wanted = list(edit.wanted.things)
    place = wanted.index(other)
    assert said(tuple(wanted)) == (1.0, 1.0)
    for change in ({"shape": "star" if other.shape != "star" else "ring"},
                   {"center": (other.center[0], other.center[1] + 3.0)}):
        wanted[place] = other._replace(**change)
        assert said(tuple(wanted)) == (1.0, 0.0)
    wanted[place] = other
    assert said(tuple(wanted), "sand" if edit.scene.ground != "sand" else "night") == (1.0, 0.0)
    assert said(tuple(thing for thing in wanted if thing != other)) == (1.0, 0.0)
    assert said((other,)) == (0.0, 0.0)


@pytest.mark.parametrize("model", MODELS)
def test_rows_have_ways_and_names_of_their_own(model):
    rows = settings(model)
    assert len({(row.group, row.name, row.cfg, row.steps) for row in rows}) == len(rows) > 8
    assert all(row.way in WAYS or row.way == "drawn" for row in rows) and set(NODES) <= set(WAYS)


def test_a_row_is_made_and_its_cost_counted():
    edits = EDITS[:2]
    originals = pictures_of(edit.scene for edit in edits)
    same, cost = made(Setting("shapes-unet", "x", "x", "nothing"), edits, originals)
    assert (same - originals).square().mean().sqrt() < 0.03 and cost["evaluations"] == 0.0
    out, cost = made(Setting("shapes-unet", "x", "x", "ddcm", 2.0, 4), edits, originals)
    assert cost["evaluations"] == 12.0 and cost["seconds"] > 0.0 and not torch.allclose(out, same, atol=0.1)


def test_rows_are_kept_and_shown(tmp_path, monkeypatch):
    calls = []

    def fake(setting, edits, originals):
        calls.append(setting)
        wanted = pictures_of(edit.wanted for edit in edits)
        return wanted if setting.way == "ddcm" else originals, {"evaluations": 24.0, "seconds": 0.5}

    monkeypatch.setattr(editing, "made", fake)
    found = measure(["shapes-unet"], count=6, folder=tmp_path)
    made_once = len(calls)
    assert measure(["shapes-unet"], count=6, folder=tmp_path) == found and len(calls) == made_once
    assert list(measure(["shapes-unet"], count=6, folder=tmp_path, only="ddcm")) == [
        row for row in found if "DDCM" in row.name]
    assert measure(["shapes-unet", "shapes-dit"], count=6, folder=tmp_path, kept=True) == found
    line, = editing_page.sentences(found)
    assert line.startswith("shapes-unet: InfEdit (DDCM), CFG") and "100.0 %" in line and " 2 of " in line
    monkeypatch.setattr(editing_page, "PAGE", tmp_path / "page.md")
    page = editing_page.write(found, 6).read_text()
    assert "## shapes-unet: img2img (SDEdit)" in page and "| nothing changed" in page
    assert len(editing_page.tables(found)) == len({row.group for row in found})
