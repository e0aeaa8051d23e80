"""The Shapes judge: reads a picture of the world back into things and ground, and compares that with its caption."""
import re
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .shapes import COLOURS, GROUNDS, PLACES, RADII, RELATIONS, SHAPES, Scene

NOTHING = len(SHAPES)
FEATURES = 192
_SPLIT = (len(SHAPES) + 1, len(COLOURS), len(RADII), 3)  # shape or nothing, colour, size, (x, y, radius)


class Asked(NamedTuple):
    """One thing a caption asks for; size is None where the caption leaves it open."""
    shape: str
    colour: str
    size: str | None
    place: str


class Reading(NamedTuple):
    """What the judge sees: things by place, with centre and radius in pixels of a 128 px picture, and the ground."""
    things: dict[str, tuple[str, str, str, float, float, float]]  # place -> shape, colour, size, x, y, radius
    ground: str


class ShapesJudge(nn.Module):
    """Pictures (B, 3, 128, 128) in [-1, 1] -> logits and places (B, 5, 20), ground logits (B, 4), features (B, 192)."""

    def __init__(self):
        super().__init__()

        def layer(channels: int, out: int, stride: int = 1) -> list[nn.Module]:
            return [nn.Conv2d(channels, out, 3, stride=stride, padding=1), nn.GroupNorm(8, out), nn.SiLU()]

        self.body = nn.Sequential(
            nn.PixelUnshuffle(2), *layer(12, 32), *layer(32, 64, 2), *layer(64, 64), *layer(64, 96, 2), *layer(96, 96),
            *layer(96, 128, 2), nn.Conv2d(128, 32, 1), nn.Flatten(), nn.Linear(32 * 64, FEATURES), nn.SiLU())
        self.things = nn.Linear(FEATURES, len(PLACES) * sum(_SPLIT))
        self.ground = nn.Linear(FEATURES, len(GROUNDS))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.body(pictures)
        return self.things(features).unflatten(1, (len(PLACES), -1)), self.ground(features), features

    @torch.no_grad()
    def read(self, pictures: Tensor) -> list[Reading]:
        """Readings of pictures (B, 3, 128, 128) in [-1, 1]."""
        things, ground, _ = self(pictures)
        shape, colour, size, where = things.split(_SPLIT, dim=2)
        kinds = zip(shape.argmax(2).tolist(), colour.argmax(2).tolist(), size.argmax(2).tolist(), where.tolist(),
                    ground.argmax(1).tolist())
        return [_reading(*picture) for picture in kinds]


def _reading(shapes: list, colours: list, sizes: list, where: list, ground: int) -> Reading:
    things = {}
    for i, place in enumerate(PLACES):
        if shapes[i] != NOTHING:
            x, y, radius = where[i]
            offset_x, offset_y = PLACES[place]
            things[place] = (SHAPES[shapes[i]], list(COLOURS)[colours[i]], list(RADII)[sizes[i]],
                             64.0 + offset_x + 4.0 * x, 64.0 + offset_y + 4.0 * y, 16.0 + 8.0 * radius)
    return Reading(things, list(GROUNDS)[ground])


def targets(scenes: list[Scene]) -> tuple[Tensor, Tensor, Tensor]:
    """What the judge should answer: classes (B, 5, 3), places (B, 5, 3), ground (B,); absent things are NOTHING, 0."""
    classes = torch.zeros(len(scenes), len(PLACES), 3, dtype=torch.long)
    classes[..., 0] = NOTHING
    where = torch.zeros(len(scenes), len(PLACES), 3)
    for b, scene in enumerate(scenes):
        for thing in scene.things:
            i = list(PLACES).index(thing.place)
            classes[b, i] = torch.tensor([SHAPES.index(thing.shape), list(COLOURS).index(thing.colour),
                                          list(RADII).index(thing.size)])
            offset_x, offset_y = PLACES[thing.place]
            where[b, i] = torch.tensor([(thing.center[0] - 64.0 - offset_x) / 4.0,
                                        (thing.center[1] - 64.0 - offset_y) / 4.0, (thing.radius - 16.0) / 8.0])
    grounds = torch.tensor([list(GROUNDS).index(scene.ground) for scene in scenes])
    return classes, where, grounds


def parse_caption(caption: str) -> tuple[list[Asked], str | None]:
    """The things and the ground that a caption of the world asks for; ground None where it names none.

    Raises ValueError for a caption without any shape and colour.
    """
    words = re.findall(r"[a-z]+", caption.lower())
    found = [(i, word) for i, word in enumerate(words) if word in SHAPES]
    asked = [_asked(words, i, shape) for i, shape in found]
    if not asked or any(colour is None for _, colour, _ in asked):
        raise ValueError("the judge needs captions like 'a small red star left of a blue ring on sand', "
                         f"got {caption!r}")
    ground = next((word for word in reversed(words) if word in GROUNDS), None)
    return [Asked(*thing, place) for thing, place in zip(asked, _places(words, found))], ground


def is_caption(text: str) -> bool:
    """Whether the judge can tell what a text asks for."""
    try:
        parse_caption(text)
    except ValueError:
        return False
    return True


def _asked(words: list[str], i: int, shape: str) -> tuple[str, str | None, str | None]:
    before = words[max(i - 2, 0):i]
    colour = next((word for word in reversed(before) if word in COLOURS), None)
    return shape, colour, next((word for word in before if word in RADII), None)


def _places(words: list[str], found: list[tuple[int, str]]) -> list[str]:
    """Where each shape stands: a pair by its relation, others by the place named after them, else the middle."""
    ends = [*(i for i, _ in found[1:]), len(words)]
    named = []
    for (start, _), end in zip(found, ends):
        between = words[start + 1:end]
        named.append(next((word for word in between if word in PLACES), "middle"))
    if len(found) > 1:
        between = " ".join(words[found[0][0] + 1:found[1][0]])
        for pair, relation in RELATIONS.items():
            if relation in between:
                named[:2] = pair
    return named


def agreement(reading: Reading, caption: str) -> dict[str, float]:
    """Shares of what the caption asks for that the reading has: shape, colour, size, place, object (all of one
    thing), scene (every thing and the ground, and nothing else), ground."""
    asked, ground = parse_caption(caption)
    seen = [(reading.things.get(thing.place), thing) for thing in asked]
    shape = [there is not None and there[0] == thing.shape for there, thing in seen]
    colour = [there is not None and there[1] == thing.colour for there, thing in seen]
    size = [there is not None and thing.size in (None, there[2]) for there, thing in seen]
    whole = [all(parts) for parts in zip(shape, colour, size)]
    right_ground = ground in (None, reading.ground)
    scene = all(whole) and right_ground and len(reading.things) == len(asked)
    return {"shape": _mean(shape), "colour": _mean(colour), "size": _mean(size),
            "place": _mean([there is not None for there, _ in seen]), "object": _mean(whole),
            "ground": float(right_ground), "scene": float(scene)}


def _mean(values: list[bool]) -> float:
    return sum(values) / len(values)


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy of two sets of features (N, d), (M, d), cubic polynomial kernel.

    0 for two samples of one distribution, on average. Source: Binkowski et al. 2018, arXiv 1801.01401.
    """
    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1.0) ** 3

    within = [(kernel(x, x).sum() - kernel(x, x).diagonal().sum()) / (len(x) * (len(x) - 1)) for x in (a, b)]
    return (within[0] + within[1] - 2.0 * kernel(a, b).mean()).item()
