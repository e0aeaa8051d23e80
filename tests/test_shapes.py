import pytest
import torch

from odeon.models.shapes import COLOURS, GROUNDS, PLACES, SHAPES, draw_shapes


def test_captions_are_true():
    """The ground at the corner and the colour at the middle of the shape are those of the caption."""
    pictures, captions = draw_shapes(96, 128, seed=3)
    for picture, caption in zip(pictures, captions):
        _, size, colour, shape, _, _, place, _, ground = caption.split()
        assert torch.allclose(picture[2, 2], torch.tensor(GROUNDS[ground]) / 255.0, atol=1e-3)
        x, y = (int(64 + offset) for offset in PLACES[place])
        near = picture[y - 8:y + 8, x - 8:x + 8].reshape(-1, 3)
        target = torch.tensor(COLOURS[colour]) / 255.0
        if shape != "ring":
            assert (near - target).abs().max(1).values.min() < 0.01, caption
        painted = ((picture - torch.tensor(COLOURS[colour]) / 255.0).abs().max(-1).values < 0.1).sum().sqrt()
        assert (painted > 26 if size == "large" else painted < 30) or shape in ("ring", "star", "cross", "triangle")


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
