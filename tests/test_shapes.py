import random
from collections import Counter

import pytest
import torch

from odeon.models.shapes import COLOURS, GROUNDS, PLACES, RADII, SHAPES, draw, draw_shapes, sample_scene


def near(colour, target):
    return (colour - torch.tensor(target) / 255.0).abs().amax(-1)


@pytest.mark.parametrize("objects", [1, 2, 3])
def test_pictures_show_what_the_scene_holds(objects):
    """Pixels tell the colour at the place of each thing, its size, and the ground beside them."""
    rng = random.Random(objects)
    for _ in range(60):
        scene = sample_scene(rng, objects)
        picture = draw(scene, 128)
        ground = torch.stack([near(picture, colour) for colour in GROUNDS[scene.ground] if colour is not None]).amin(0)
        covered = ground > 0.1
        for thing in scene.things:
            x, y = (round(value) for value in thing.center)
            offset = round(0.86 * thing.radius) if thing.shape == "ring" else 0
            middle = near(picture[y - offset - 1:y - offset + 2, x], COLOURS[thing.colour])
            assert middle.min() < 0.05, scene.caption
            reach = round(thing.radius) + 2
            box = covered[max(y - reach, 0):y + reach, max(x - reach, 0):x + reach]
            columns = box.any(0).nonzero()
            width = (columns.max() - columns.min() + 1).item()
            assert 1.4 * thing.radius - 1 < width < 2.0 * thing.radius + 3, scene.caption
            assert RADII[thing.size][0] <= thing.radius <= RADII[thing.size][1]
            covered[max(y - reach, 0):y + reach, max(x - reach, 0):x + reach] = False
        assert not covered.any(), f"something else is in the picture of {scene.caption!r}"


def test_things_never_touch():
    rng = random.Random(0)
    for objects in (2, 3) * 400:
        things = sample_scene(rng, objects).things
        for i, a in enumerate(things):
            for b in things[:i]:
                distance = sum((p - q) ** 2 for p, q in zip(a.center, b.center)) ** 0.5
                assert distance > a.radius + b.radius


@pytest.mark.parametrize(("objects", "words"), [(1, 9), (2, 12), (3, 19)])
def test_captions_name_every_thing(objects, words):
    rng = random.Random(1)
    for _ in range(50):
        scene = sample_scene(rng, objects)
        assert scene.caption.endswith(f" on {scene.ground}")
        assert all(thing.words in scene.caption for thing in scene.things)
        assert len(scene.caption.split()) <= words + 1
    assert len({sample_scene(rng, objects).caption for _ in range(200)}) > 150


def test_held_out_combinations_are_spread_evenly():
    rng = random.Random(2)
    kept = {(thing.shape, thing.colour, thing.place) for scene in (sample_scene(rng, 1) for _ in range(6000))
            for thing in scene.things if scene.held_out}
    assert len(kept) == 24
    assert set(Counter(shape for shape, _, _ in kept).values()) == {4}
    assert set(Counter(colour for _, colour, _ in kept).values()) == {3}
    assert set(Counter(place for _, _, place in kept)) == set(PLACES)
    train = next(scene for scene in iter(lambda: sample_scene(rng, 3), None) if not scene.held_out)
    assert not {(t.shape, t.colour, t.place) for t in train.things} & kept


@pytest.mark.parametrize("size", [64, 128])
def test_every_kind_once_and_the_same_again(size):
    pictures, captions = draw_shapes(48, size, seed=5)
    assert pictures.shape == (48, size, size, 3)
    assert pictures.min() >= 0.0 and pictures.max() <= 1.0
    kinds = {tuple(caption.split()[2:4]) for caption in captions}
    assert kinds == {(colour, shape) for colour in COLOURS for shape in SHAPES}
    again, same = draw_shapes(48, size, seed=5)
    assert torch.equal(pictures, again) and captions == same
    assert draw_shapes(48, size, seed=6)[1] != captions
    assert torch.equal(draw_shapes(10, size, seed=5)[0], pictures[:10])


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        draw_shapes(0)
    with pytest.raises(ValueError, match="size must be 64 or 128, got 100"):
        draw_shapes(1, 100)
    with pytest.raises(ValueError, match="objects must be 1, 2 or 3, got 4"):
        draw_shapes(1, objects=4)
