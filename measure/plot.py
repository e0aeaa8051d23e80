"""Small line plots as IMAGEs, drawn with Pillow, which every host has."""
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

COLOURS = ("#2f6fde", "#e0662b", "#2a9d5c", "#b03fb5", "#d4a017", "#5b6470", "#16a0b0", "#c2334d")
WIDTH, HEIGHT = 900, 560
LEFT, RIGHT, TOP, BOTTOM = 90, 30, 60, 64

Curve = list[tuple[float, float]]


def draw_lines(curves: dict[str, Curve], *, title: str, x_label: str = "", y_label: str = "",
               log: bool = False) -> Tensor:
    """An IMAGE (1, H, W, 3) in [0, 1] of curves by name, each a list of points (x, y).

    log: the y axis is logarithmic and leaves out points at or below 0, unless that leaves none.
    Raises ValueError without a point to draw.
    """
    from PIL import Image, ImageDraw, ImageFont

    kept = {name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y) and (y > 0.0 or not log)]
            for name, points in curves.items()}
    points = [point for curve in kept.values() for point in curve]
    if log and not points:
        return draw_lines(curves, title=title, x_label=x_label, y_label=y_label)
    if not points:
        raise ValueError("a plot needs at least one finite point, got none; check what was measured")
    x_axis = _axis([x for x, _ in points], log=False)
    y_axis = _axis([y for _, y in points], log=log)
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(15)
    _frame(draw, font, x_axis, y_axis)
    draw.text((WIDTH / 2, TOP / 2), title, "black", ImageFont.load_default(19), anchor="mm")
    draw.text((WIDTH / 2, HEIGHT - 16), x_label, "black", font, anchor="mm")
    draw.text((LEFT, TOP - 8), y_label, "black", font, anchor="ls")
    for i, (name, curve) in enumerate(kept.items()):
        colour = COLOURS[i % len(COLOURS)]
        places = [(LEFT + x_axis.share(x) * (WIDTH - LEFT - RIGHT),
                   HEIGHT - BOTTOM - y_axis.share(y) * (HEIGHT - TOP - BOTTOM)) for x, y in curve]
        draw.line(places, fill=colour, width=3, joint="curve")
        for x, y in places if len(places) <= 60 else ():
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour)
        draw.text((WIDTH - RIGHT - 8, TOP + 8 + 20 * i), name, colour, font, anchor="ra")
    return torch.from_numpy(np.array(image)).float()[None] / 255.0


class _Axis(NamedTuple):
    """From low to high, in the logarithm where log."""
    low: float
    high: float
    log: bool

    def share(self, value: float) -> float:
        """Where a value lies, 0 at low and 1 at high."""
        return ((math.log10(value) if self.log else value) - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        if self.log and self.high - self.low >= 1.0:
            powers = range(math.ceil(self.low), math.floor(self.high) + 1)
            return [10.0 ** power * part for power in powers for part in ((1,) if len(powers) > 3 else (1, 2, 5))
                    if self.low <= math.log10(10.0 ** power * part) <= self.high]
        low, high = (10.0 ** self.low, 10.0 ** self.high) if self.log else (self.low, self.high)
        size = 10.0 ** math.floor(math.log10(high - low))
        size *= next(part for part in (0.1, 0.2, 0.5, 1.0, 2.0) if (high - low) / (size * part) <= 8.0)
        return [size * i for i in range(math.ceil(low / size), math.floor(high / size) + 1)]


def _axis(values: list[float], *, log: bool) -> _Axis:
    shown = [math.log10(value) for value in values] if log else values
    low, high = min(shown), max(shown)
    pad = 0.05 * (high - low) or 0.5 * max(abs(high), 1.0)
    return _Axis(low - pad, high + pad, log)


def _frame(draw, font, x_axis: _Axis, y_axis: _Axis) -> None:
    for tick in x_axis.ticks():
        x = LEFT + x_axis.share(tick) * (WIDTH - LEFT - RIGHT)
        draw.line((x, TOP, x, HEIGHT - BOTTOM), "#e4e7ec")
        draw.text((x, HEIGHT - BOTTOM + 6), f"{tick:.4g}", "black", font, anchor="ma")
    for tick in y_axis.ticks():
        y = HEIGHT - BOTTOM - y_axis.share(tick) * (HEIGHT - TOP - BOTTOM)
        draw.line((LEFT, y, WIDTH - RIGHT, y), "#e4e7ec")
        draw.text((LEFT - 8, y), f"{tick:.4g}", "black", font, anchor="rm")
    draw.rectangle((LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM), outline="#5b6470")
