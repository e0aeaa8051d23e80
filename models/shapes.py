"""A small world of captioned pictures that the pack draws itself: coloured shapes in five places, on four grounds.

A Scene holds everything that is in a picture, to the fraction of a pixel; its drawing and its caption come from it, so
that what a model made of a caption can be held against the truth.
"""
import math
import random
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
COLOURS = {"red": (214, 44, 46), "orange": (240, 138, 32), "yellow": (245, 217, 54), "green": (52, 158, 72),
           "cyan": (60, 196, 212), "blue": (44, 88, 208), "purple": (134, 62, 170), "white": (242, 242, 240)}
RADII = {"small": (9.0, 12.0), "large": (18.0, 23.0)}  # in pixels of a 128 px picture, as are all lengths here
PLACES = {"left": (-32, 0), "right": (32, 0), "top": (0, -32), "bottom": (0, 32), "middle": (0, 0)}
JITTER = 4.0
# name -> colour, colour of the pattern on it
GROUNDS = {"grey": ((118, 120, 124), None), "night": ((24, 28, 52), None),
           "sand": ((202, 176, 136), (190, 162, 120)), "tiles": ((74, 84, 54), (86, 97, 64))}
# name -> corners, inner radius, turn
POLYGONS = {"square": (4, 1.0, math.pi / 4), "triangle": (3, 1.0, 0.0), "star": (5, 0.42, 0.0)}
PICTURE_SIZES = (64, 128)
OVERSAMPLING = 4
RELATIONS = {("left", "right"): "left of", ("right", "left"): "right of",
             ("top", "bottom"): "above", ("bottom", "top"): "below"}
THIRD_PLACES = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom"}


class Thing(NamedTuple):
    """One shape of a scene: what it is, its place by name, its exact centre and radius."""
    shape: str
    colour: str
    size: str
    place: str
    center: tuple[float, float]
    radius: float

    @property
    def words(self) -> str:
        return f"a {self.size} {self.colour} {self.shape}"


class Scene(NamedTuple):
    """One to three things on a ground."""
    things: tuple[Thing, ...]
    ground: str

    @property
    def caption(self) -> str:
        """'a small red star left of a large blue ring on sand'; one thing is 'in the middle', 'on the left', ..."""
        first = self.things[0]
        if len(self.things) == 1:
            where = THIRD_PLACES.get(first.place, "in the middle")
            return f"{first.words} {where} on {self.ground}"
        second = self.things[1]
        text = f"{first.words} {RELATIONS[first.place, second.place]} {second.words}"
        if len(self.things) == 3:
            third = self.things[2]
            text += f" and {third.words} {THIRD_PLACES[third.place]}"
        return f"{text} on {self.ground}"

    @property
    def held_out(self) -> bool:
        """Whether the scene has a combination that is kept from training: a tenth of (shape, colour, place)."""
        return any(_is_held_out(thing) for thing in self.things)


def _is_held_out(thing: Thing) -> bool:
    shape, colour, place = (list(names).index(name) for names, name in (
        (SHAPES, thing.shape), (COLOURS, thing.colour), (PLACES, thing.place)))
    return (shape + colour + 2 * place) % 10 == 0  # 24 of 240: each shape 4 times, each colour 3 times


def draw_shapes(count: int, size: int = 64, seed: int = 0, objects: int = 1) -> tuple[Tensor, list[str]]:
    """Pictures (count, size, size, 3) in [0, 1] and a caption each ("a small red star on the left on sand").

    objects: 1, 2 or 3 things a picture. The first thing goes through every pair of shape and colour once before any
    comes twice; everything else is drawn from the seed. size: 64 or 128. Same arguments, same pictures.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if size not in PICTURE_SIZES:
        raise ValueError(f"size must be 64 or 128, got {size}")
    rng = random.Random(seed)
    kinds = []
    while len(kinds) < count:
        kinds += rng.sample(list(product(SHAPES, COLOURS)), len(SHAPES) * len(COLOURS))
    scenes = [sample_scene(rng, objects, first=kind) for kind in kinds[:count]]
    return torch.stack([draw(scene, size) for scene in scenes]), [scene.caption for scene in scenes]


def sample_scene(rng: random.Random, objects: int, *, first: tuple[str, str] | None = None) -> Scene:
    """A random scene of 1 to 3 things that never touch; first: the (shape, colour) of the first thing.

    Two things face each other (left and right, or top and bottom); a third takes one of the other two sides, and then
    at most one of the three is large.
    """
    if not 1 <= objects <= 3:
        raise ValueError(f"objects must be 1, 2 or 3, got {objects}")
    pair = rng.choice(list(RELATIONS))
    others = [place for place in THIRD_PLACES if place not in pair]
    places = [rng.choice(list(PLACES))] if objects == 1 else [*pair, rng.choice(others)][:objects]
    sizes = [rng.choice(list(RADII)) for _ in places]
    if objects == 3:
        large = rng.randrange(4)  # 3: none of them
        sizes = ["large" if i == large else "small" for i in range(3)]
    things = [_thing(rng, place, size, first if i == 0 else None) for i, (place, size) in enumerate(zip(places, sizes))]
    return Scene(tuple(things), rng.choice(list(GROUNDS)))


def _thing(rng: random.Random, place: str, size: str, kind: tuple[str, str] | None) -> Thing:
    shape, colour = kind or (rng.choice(SHAPES), rng.choice(list(COLOURS)))
    center = tuple(64.0 + offset + rng.uniform(-JITTER, JITTER) for offset in PLACES[place])
    return Thing(shape, colour, size, place, center, rng.uniform(*RADII[size]))


def draw(scene: Scene, size: int = 128) -> Tensor:
    """The picture (size, size, 3) of a scene in [0, 1], drawn larger and averaged down so that edges are smooth."""
    import numpy as np
    from PIL import Image, ImageDraw

    colour, pattern = GROUNDS[scene.ground]
    image = Image.new("RGB", (size * OVERSAMPLING,) * 2, colour)
    pen, unit = ImageDraw.Draw(image), size * OVERSAMPLING / 128.0
    if pattern is not None:
        _draw_pattern(pen, scene.ground, pattern, unit)
    for thing in scene.things:
        _draw_thing(pen, thing, unit)
    pixels = np.asarray(image.reduce(OVERSAMPLING), dtype=np.float32) / 255.0
    return torch.from_numpy(pixels)


def _draw_pattern(pen, ground: str, colour: tuple, unit: float) -> None:
    """Soft ripples on sand, a chequer of low contrast on tiles."""
    if ground == "tiles":
        for x, y in product(range(0, 128, 32), repeat=2):
            if (x + y) // 32 % 2:
                pen.rectangle((x * unit, y * unit, (x + 32) * unit - 1, (y + 32) * unit - 1), fill=colour)
        return
    for y in range(4, 128, 16):
        wave = [(x * unit, (y + 3.0 * math.sin(2.0 * math.pi * x / 64.0)) * unit) for x in range(0, 132, 4)]
        pen.line(wave, fill=colour, width=round(5 * unit), joint="curve")


def _draw_thing(pen, thing: Thing, unit: float) -> None:
    x, y, r = thing.center[0] * unit, thing.center[1] * unit, thing.radius * unit
    fill = COLOURS[thing.colour]
    if thing.shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    elif thing.shape == "ring":
        pen.ellipse((x - r, y - r, x + r, y + r), outline=fill, width=round(0.28 * r))
    elif thing.shape == "cross":
        arm = 0.34 * r
        pen.rectangle((x - r, y - arm, x + r, y + arm), fill=fill)
        pen.rectangle((x - arm, y - r, x + arm, y + r), fill=fill)
    else:
        points, inner, turn = POLYGONS[thing.shape]
        pen.polygon(_corners(x, y, r, points, inner, turn), fill=fill)


def _corners(x: float, y: float, r: float, points: int, inner: float, turn: float) -> list[tuple[float, float]]:
    """Corners of a regular polygon (inner = 1) or star, the first one straight up before the turn."""
    radii = [r] if inner == 1.0 else [r, inner * r]
    total = points * len(radii)
    angles = [turn - math.pi / 2 + 2.0 * math.pi * i / total for i in range(total)]
    return [(x + radii[i % len(radii)] * math.cos(a), y + radii[i % len(radii)] * math.sin(a))
            for i, a in enumerate(angles)]
