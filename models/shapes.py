"""Captioned pictures the pack draws itself: one coloured shape on a coloured ground."""
import math
import random
from itertools import product

import torch
from torch import Tensor

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
COLOURS = {"red": (214, 44, 46), "orange": (240, 138, 32), "yellow": (245, 217, 54), "green": (52, 158, 72),
           "cyan": (60, 196, 212), "blue": (44, 88, 208), "purple": (134, 62, 170), "white": (242, 242, 240)}
SIZES = {"small": (12.5, 15.0), "large": (21.0, 25.0)}  # radius in pixels of a 128 px picture
PLACES = {"left": (-30, 0), "right": (30, 0), "top": (0, -30), "bottom": (0, 30), "middle": (0, 0)}
GROUNDS = {"grey": (118, 120, 124), "night": (24, 28, 52), "sand": (202, 176, 136), "moss": (74, 84, 54)}
PICTURE_SIZES = (64, 128)
OVERSAMPLING = 4


def draw_shapes(count: int, size: int = 64, seed: int = 0) -> tuple[Tensor, list[str]]:
    """Pictures (count, size, size, 3) in [0, 1] and a caption each ("a small red star at the left on sand").

    Every pair of shape and colour comes once before any comes twice, in an order drawn from the seed, as are size,
    place and ground. size: 64 or 128. The same arguments give the same pictures.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if size not in PICTURE_SIZES:
        raise ValueError(f"size must be 64 or 128, got {size}")
    rng = random.Random(seed)
    kinds = []
    while len(kinds) < count:
        kinds += rng.sample(list(product(SHAPES, COLOURS)), len(SHAPES) * len(COLOURS))
    drawn = [_scene(rng, shape, colour, size) for shape, colour in kinds[:count]]
    return torch.stack([picture for picture, _ in drawn]), [caption for _, caption in drawn]


def _scene(rng: random.Random, shape: str, colour: str, size: int) -> tuple[Tensor, str]:
    scale, place, ground = rng.choice(list(SIZES)), rng.choice(list(PLACES)), rng.choice(list(GROUNDS))
    radius = rng.uniform(*SIZES[scale])
    center = tuple(64 + offset + rng.uniform(-5.0, 5.0) for offset in PLACES[place])
    picture = _draw(shape, COLOURS[colour], GROUNDS[ground], center=center, radius=radius, size=size)
    return picture, f"a {scale} {colour} {shape} at the {place} on {ground}"


def _draw(shape: str, colour: tuple, ground: tuple, *, center: tuple[float, float], radius: float, size: int) -> Tensor:
    """One picture (size, size, 3), drawn larger and averaged down so that edges are smooth."""
    import numpy as np
    from PIL import Image, ImageDraw

    unit = size * OVERSAMPLING / 128.0
    image = Image.new("RGB", (size * OVERSAMPLING,) * 2, ground)
    pen = ImageDraw.Draw(image)
    x, y, r = center[0] * unit, center[1] * unit, radius * unit
    if shape in ("circle", "ring"):
        pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    if shape == "ring":
        inner = 0.62 * r
        pen.ellipse((x - inner, y - inner, x + inner, y + inner), fill=ground)
    if shape == "cross":
        arm = 0.34 * r
        pen.rectangle((x - r, y - arm, x + r, y + arm), fill=colour)
        pen.rectangle((x - arm, y - r, x + arm, y + r), fill=colour)
    corners = {"square": (4, 1.0, math.pi / 4), "triangle": (3, 1.0, 0.0), "star": (5, 0.42, 0.0)}.get(shape)
    if corners is not None:
        pen.polygon(_corners(x, y, r, *corners), fill=colour)
    pixels = np.asarray(image.reduce(OVERSAMPLING), dtype=np.float32) / 255.0
    return torch.from_numpy(pixels)


def _corners(x: float, y: float, r: float, points: int, inner: float, turn: float) -> list[tuple[float, float]]:
    """Corners of a regular polygon (inner = 1) or star, the first one straight up before the turn."""
    radii = [r] if inner == 1.0 else [r, inner * r]
    total = points * len(radii)
    angles = [turn - math.pi / 2 + 2.0 * math.pi * i / total for i in range(total)]
    return [(x + radii[i % len(radii)] * math.cos(a), y + radii[i % len(radii)] * math.sin(a))
            for i, a in enumerate(angles)]
