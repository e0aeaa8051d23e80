"""The figures of the Shapes judge: right on true scenes, worse where pictures are, and honest about bad input."""
import pytest
import torch
from torch.nn.functional import avg_pool2d

from odeon import NODE_CLASS_MAPPINGS
from odeon.models.quality import as_table, frechet_distance, judge_pictures
from odeon.models.shapes import PLACES
from odeon.models.train.scenes import pictures_of, scenes_of, to_unit
from odeon.models.weights import shapes_judge

SCENES = scenes_of(40, 91, held_out=True)
CAPTIONS = [scene.caption for scene in SCENES]
PICTURES = to_unit(pictures_of(SCENES))


def test_true_scenes_are_right_and_sharp():
    rows, together, readings = judge_pictures(shapes_judge(), PICTURES, CAPTIONS, reference=PICTURES)
    assert len(rows) == len(readings) == 40
    assert together["object"] > 0.97 and together["scene"] > 0.95
    assert together["drawing_error"] < 4.0 and together["sharpness"] > 0.9
    assert together["off_centre"] < 0.1 and together["off_radius"] < 0.1
    assert together["to_reference"] == 0.0
    assert 0.85 < together["place_spread"] < 1.15 and 0.85 < together["radius_spread"] < 1.15
    assert abs(together["kernel_distance"]) < 0.1 and 0.8 < together["diversity"] < 1.2
    assert together["shape"] == pytest.approx(sum(row["shape"] for row in rows) / 40)


def test_every_flaw_has_its_figure():
    judge = shapes_judge()
    true = judge_pictures(judge, PICTURES, CAPTIONS).together
    blurred = avg_pool2d(PICTURES, 5, 1, 2, count_include_pad=False)
    soft = judge_pictures(judge, blurred, CAPTIONS, reference=PICTURES).together
    assert soft["sharpness"] < 0.5 * true["sharpness"] and soft["drawing_error"] > 1.5 * true["drawing_error"]
    assert soft["to_reference"] == pytest.approx(
        (127.5 * (blurred - PICTURES).square().mean((1, 2, 3)).sqrt()).mean().item(), rel=1e-5)
    moved = judge_pictures(judge, PICTURES.roll(7, dims=3), CAPTIONS).together
    assert moved["off_centre"] > true["off_centre"] + 0.5
    others = judge_pictures(judge, PICTURES, CAPTIONS[1:] + CAPTIONS[:1]).together
    assert others["object"] < 0.2 and others["scene"] < 0.1
    same = judge_pictures(judge, PICTURES[:1].repeat(40, 1, 1, 1), CAPTIONS[:1] * 40).together
    centred = [scene._replace(things=tuple(thing._replace(
        center=tuple(64.0 + offset for offset in PLACES[thing.place])) for thing in scene.things)) for scene in SCENES]
    assert judge_pictures(judge, to_unit(pictures_of(centred)), CAPTIONS).together["place_spread"] < 0.15
    assert same["diversity"] < 0.01 and same["kernel_distance"] > true["kernel_distance"] + 0.5
    assert same["frechet_distance"] > 2.0 * true["frechet_distance"]


def test_few_pictures_have_no_distances():
    together = judge_pictures(shapes_judge(), PICTURES[:4], CAPTIONS[:4]).together
    assert "kernel_distance" not in together and "drawing_error" in together
    assert [line.split()[0] for line in as_table(together).splitlines()] == list(together)


def test_frechet_distance_of_two_normals():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(20000, 4, generator=generator, dtype=torch.float64)
    b = 2.0 * torch.randn(20000, 4, generator=generator, dtype=torch.float64) + 3.0
    assert frechet_distance(a, b) == pytest.approx(4 * 9.0 + 4 * 1.0, rel=0.02)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-6)


def test_the_node_gives_a_table_and_a_picture():
    node = NODE_CLASS_MAPPINGS["OdeonShapesJudge"]()
    images = (PICTURES[:8].movedim(1, -1) + 1.0) / 2.0
    table, picture = node.judge(images, "\n".join(CAPTIONS[:8]), reference=images)
    assert "object" in table and "to_reference" in table
    assert picture.shape[0] == 1 and picture.shape[3] == 3 and picture.min() >= 0.0 and picture.max() <= 1.0
    right = node.judge(images[:1], CAPTIONS[0])[1]
    wrong = node.judge(images[:1], "a large white cross in the middle on night")[1]
    red = [((sheet[..., 0] > 0.9) & (sheet[..., 2] < 0.5))[:, 130:].sum() for sheet in (right, wrong)]
    assert red[0] == 0 and red[1] > 20


@pytest.mark.parametrize(("images", "captions", "reference", "message"), [
    (torch.rand(2, 64, 64, 3), "a red star", None, "pictures of 128 x 128 px, got 64 x 64"),
    (torch.rand(2, 128, 128, 3), "a red star\na red ring\na red cross", None, "each of the 2 pictures, got 3"),
    (torch.rand(2, 128, 128, 3), "a house", None, "the judge needs captions like .* got 'a house'"),
    (torch.rand(2, 128, 128, 3), "a red star", torch.rand(3, 128, 128, 3), "one reference for each of the 2 pictures"),
])
def test_what_it_can_t_judge_is_named(images, captions, reference, message):
    with pytest.raises(ValueError, match=message):
        NODE_CLASS_MAPPINGS["OdeonShapesJudge"]().judge(images, captions, reference)
