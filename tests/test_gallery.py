"""The gallery: every workflow has a thumbnail that it drew, pages show them, and no picture is without a page."""
import io
import re

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from typer.testing import CliRunner

from odeon import NODE_CLASS_MAPPINGS as NODES
from odeon.bench import gallery
from odeon.bench.__main__ import app
from odeon.bench.gallery_pictures import EDGE, GROUND, curve, sheet

NAMES = gallery.names()
HELP = sorted((ROOT / "web" / "docs").glob("*.md"))
KILO = 1024


def pixels(picture):
    return np.asarray(picture.convert("RGB")).astype(int)


def squares(*colours, size=(128, 128)):
    return [Image.new("RGB", size, colour) for colour in colours]


@pytest.mark.parametrize("name", NAMES)
def test_every_workflow_has_a_thumbnail(name):
    path = ROOT / "workflows" / f"{name}.jpg"
    assert path.exists(), f"run python -m odeon.bench gallery --only {name} --write"
    with Image.open(path) as picture:
        assert picture.format == "JPEG"
        width, height = picture.size
        assert width == EDGE and EDGE / 3 < height <= EDGE
        assert pixels(picture).std() > 5.0, "a picture of one colour"
    assert path.stat().st_size <= gallery.MOST
    title, sentence = gallery.said(name)
    assert title and len(sentence) > 15 and sentence[-1] in ".?!)" and "|" not in title + sentence


def test_there_is_no_thumbnail_without_a_workflow_and_all_are_small():
    thumbnails = [path for path in (ROOT / "workflows").iterdir() if path.suffix != ".json" and path.is_file()]
    assert {path.name for path in thumbnails} == {f"{name}.jpg" for name in NAMES}
    assert sum(path.stat().st_size for path in thumbnails) <= 1500 * KILO
    assert sum(gallery.sizes().values()) <= 4 * KILO * KILO


def test_every_workflow_is_in_the_gallery_once():
    grouped = sorted(name for members in gallery.GROUPS.values() for name in members)
    assert grouped == NAMES, "GROUPS of bench/gallery.py lists every workflow once"
    assert gallery.PARTS.keys() == gallery.GROUPS.keys()
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    for name in NAMES:
        assert page.count(f"../workflows/{name}.jpg") == 1
        assert f"](../workflows/{name}.json)" in page
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"workflows/(\w+)\.jpg", readme) == list(gallery.FRONT)


def test_the_pages_and_their_pictures_are_what_the_command_makes():
    """To the byte, but for curves, whose letters hang on Pillow's version."""
    for path, content in gallery.files().items():
        if path.suffix == ".png":
            ours, theirs = Image.open(io.BytesIO(content)), Image.open(path)
            assert ours.size == theirs.size and np.abs(pixels(ours) - pixels(theirs)).mean() < 5.0, path.name
        else:
            there = path.read_bytes()
            there = there.replace(b"\r\n", b"\n") if path.suffix == ".md" else there
            assert there == content, f"{path.name}: run python -m odeon.bench gallery --pages --write"


def test_pictures_of_help_pages_exist_and_all_are_shown():
    shown = {}
    for page in HELP:
        text = page.read_text(encoding="utf-8")
        for words, place in re.findall(r"!\[(.*?)\]\((.*?)\)", text):
            assert words and re.fullmatch(r"pictures/\w+\.(jpg|png)", place), page.name
            shown.setdefault(place, page.name)
            assert text.split("\n\n")[2].startswith("!["), f"{page.name}: the picture follows the first paragraph"
    there = {f"pictures/{path.name}" for path in gallery.PICTURES.iterdir()}
    assert set(shown) == there and len(there) > 50
    assert all((gallery.HELP / place).stat().st_size <= 10 * KILO for place in there if place.endswith(".png"))


@pytest.mark.parametrize("name", NODES)
def test_every_node_of_a_workflow_has_its_picture(name):
    text = (gallery.HELP / f"{name}.md").read_text(encoding="utf-8")
    levels, workflow = gallery.levels_of(name), gallery.workflow_of(name)
    place = f"pictures/{name}.png" if levels else f"pictures/{workflow}.jpg" if workflow else None
    assert re.findall(r"!\[.*?\]\((.*?)\)", text) == ([place] if place else [])


@pytest.mark.parametrize("node, workflow", [
    ("OdeonAPG", "apg"), ("OdeonDrag", "edit_drag"), ("OdeonSamplerEDMHeun", "solvers_sigma"),
    ("OdeonClassifierGuidance", "guidance_classifier"), ("OdeonSamplerIIA", "iia"), ("OdeonPlotSigmas", "plot_sigmas")])
def test_a_help_page_shows_the_workflow_that_is_named_like_its_node(node, workflow):
    assert gallery.workflow_of(node) == workflow


def test_every_schedule_node_that_needs_no_run_has_a_curve():
    lacking = [name for name, cls in NODES.items() if name.startswith("OdeonSigmas") and "SIGMAS" in cls.RETURN_TYPES
               and not gallery.levels_of(name)]
    assert lacking == []


def test_the_command_makes_the_thumbnail_that_is_there():
    result = CliRunner().invoke(app, ["gallery", "--only", "power_schedule"])
    assert result.exit_code == 0 and re.search(r"power_schedule: [\d.]+ KB", result.output), result.output
    ours = Image.open(io.BytesIO(gallery.thumbnail("power_schedule")))
    theirs = Image.open(ROOT / "workflows" / "power_schedule.jpg")
    assert ours.size == theirs.size
    assert np.abs(pixels(ours) - pixels(theirs)).mean() < 2.0
    assert CliRunner().invoke(app, ["gallery", "--only", "nothing_like_it"]).exit_code != 0


RED, LIME, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def has(picture, colour):
    return (np.abs(pixels(picture) - colour).max(-1) == 0).sum()


@pytest.mark.parametrize("drawn, size", [
    ([("", squares(RED))], 200), ([("", squares(RED, LIME))], 200), ([("", squares(RED, LIME, BLUE))], 150),
    ([("a", squares(RED, WHITE)), ("b", squares(LIME, WHITE)), ("c", squares(BLUE, WHITE))], 100),
    ([("a", squares(RED)), ("b", squares(LIME)), ("c", squares(BLUE))], 150),
    ([("a", squares(RED, size=(64, 96))), ("b", squares(LIME))], 130),
    ([("a", squares(RED)), ("plot", squares(LIME, size=(900, 560)))], 100)])
def test_a_sheet_shows_what_every_name_drew(drawn, size):
    made = sheet(drawn)
    assert made.width == EDGE and made.height <= EDGE
    assert made.getpixel((0, 0)) == tuple(bytes.fromhex(GROUND[1:]))
    for _, images in drawn:
        assert has(made, images[0].getpixel((0, 0))) >= size ** 2, "too small to be seen"


def test_all_of_a_few_pictures_of_one_name_are_shown():
    made = sheet([("", squares(RED, LIME, BLUE, WHITE, RED))])
    assert made.height > 250
    assert has(made, RED) == 2 * has(made, LIME) == 2 * has(made, WHITE) > 2 * 150 ** 2


def test_a_run_that_drew_nothing_says_so():
    with pytest.raises(ValueError, match="drew nothing; add a SaveImage"):
        sheet([("none", [])])


@pytest.mark.parametrize("levels", [[14.6, 3.0, 0.5, 0.03, 0.0], [1.0, 0.7, 0.2, 0.0], [5.0, 0.2], [0.9, 0.4, 0.1]])
def test_a_curve_falls_from_left_to_right(levels):
    made = pixels(curve(levels, "words"))
    line = np.abs(made - np.array((0x2f, 0x6f, 0xde))).sum(-1) < 60
    heights = [np.flatnonzero(line[:, x]).mean() for x in range(60, 380) if line[:, x].any()]
    assert len(heights) > 300 and np.all(np.diff(heights) > -3.5) and heights[-1] - heights[0] > 60
