"""How good pictures of the Shapes world are: what the judge reads in them, held against captions and the truth."""
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .judge import Reading, ShapesJudge, agreement, kernel_distance, parse_caption
from .shapes import JITTER, PLACES, RADII, Scene, Thing, draw
from .train.scenes import scenes_of

SIZE = 128
SHARES = ("shape", "colour", "size", "place", "object", "ground", "scene")
PERCENT = (*SHARES, "sharpness", "place_spread", "radius_spread", "diversity")
ENOUGH = 32  # pictures below which distances between distributions say nothing


class Judgement(NamedTuple):
    """Figures of every picture, figures of all together, and what was read in each."""
    rows: list[dict[str, float]]
    together: dict[str, float]
    readings: list[Reading]


def judge_pictures(judge: ShapesJudge, pictures: Tensor, captions: list[str], *,
                   reference: Tensor | None = None) -> Judgement:
    """What the judge says of pictures (B, 3, 128, 128) in [-1, 1] that B captions asked for.

    reference: the converged pictures of the same noises, likewise. Of every picture: the shares of what its caption
    asks for that is there (`agreement`), and
    drawing_error: rms distance, in 255ths, to the drawing of exactly what was read;
    sharpness: gradient along that drawing's edges, as a share of the drawing's own;
    off_centre, off_radius: pixels that things lie or reach beyond what the world allows for their place and size;
    to_reference: rms distance to the reference, in 255ths.
    Of all: the means, and from 32 pictures on place_spread and radius_spread, how much where things lie and how large
    they are varies, as shares of the world's own; kernel_distance and frechet_distance of judge features (of mean
    square 1) from 256 true scenes never trained on, and diversity, the mean distance of two pictures' features as a
    share of the true scenes'.
    Raises ValueError for pictures of another size and captions that the world has not.
    """
    if tuple(pictures.shape[1:]) != (3, SIZE, SIZE):
        raise ValueError(f"the judge reads pictures of {SIZE} x {SIZE} px, got {pictures.shape[3]} x "
                         f"{pictures.shape[2]}")
    if len(captions) != len(pictures):
        raise ValueError(f"need one caption for each of the {len(pictures)} pictures, got {len(captions)}")
    if reference is not None and reference.shape != pictures.shape:
        raise ValueError(f"need one reference for each of the {len(pictures)} pictures, all of {SIZE} x {SIZE} px, got "
                         f"{len(reference)} of {reference.shape[3]} x {reference.shape[2]}")
    readings = [reading for part in pictures.split(64) for reading in judge.read(part)]
    rows = [{**agreement(reading, caption), **_drawing(picture, reading), **_places(reading, caption)}
            for picture, reading, caption in zip(pictures, readings, captions)]
    if reference is not None:
        for row, distance in zip(rows, _rms(pictures, reference).tolist()):
            row["to_reference"] = distance
    together = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
    if len(pictures) >= ENOUGH:
        together |= {**_spreads(readings), **_distances(judge, pictures)}
    return Judgement(rows, together, readings)


def _rms(a: Tensor, b: Tensor) -> Tensor:
    return 127.5 * (a - b).square().mean((-3, -2, -1)).sqrt()


def _drawing(picture: Tensor, reading: Reading) -> dict[str, float]:
    things = [Thing(shape, colour, size, place, (x, y), min(max(radius, 4.0), 32.0))
              for place, (shape, colour, size, x, y, radius) in reading.things.items()]
    drawn = draw(Scene(tuple(things), reading.ground), SIZE).movedim(-1, 0).to(picture) * 2.0 - 1.0
    own, seen = _slopes(drawn), _slopes(picture)
    edges = own > 0.2
    return {"drawing_error": _rms(picture, drawn).item(),
            "sharpness": (seen[edges].sum() / own[edges].sum().clamp(min=1e-6)).item()}


def _slopes(picture: Tensor) -> Tensor:
    """Length of the gradient (127, 127) over all colours."""
    down, right = picture[:, 1:, :-1] - picture[:, :-1, :-1], picture[:, :-1, 1:] - picture[:, :-1, :-1]
    return (down.square() + right.square()).sum(0).sqrt()


def _places(reading: Reading, caption: str) -> dict[str, float]:
    centre, reach = [], []
    asked = {thing.place: thing.size for thing in parse_caption(caption)[0]}
    for place, (_, _, size, x, y, radius) in reading.things.items():
        offsets = (abs(x - 64.0 - PLACES[place][0]), abs(y - 64.0 - PLACES[place][1]))
        centre.append(max(*offsets, JITTER) - JITTER)
        low, high = RADII[asked.get(place) or size]
        reach.append(max(low - radius, radius - high, 0.0))
    return {"off_centre": sum(centre) / max(len(centre), 1), "off_radius": sum(reach) / max(len(reach), 1)}


def _spreads(readings: list[Reading]) -> dict[str, float]:
    """Deviation of where things lie in their places, and of how large they are within their sizes' ranges, as shares
    of the world's own."""
    offsets, sizes = [], []
    for reading in readings:
        for place, (_, _, size, x, y, radius) in reading.things.items():
            offsets += [x - 64.0 - PLACES[place][0], y - 64.0 - PLACES[place][1]]
            low, high = RADII[size]
            sizes.append((radius - low) / (high - low))
    even = 12.0 ** -0.5  # of a uniform density on [0, 1]
    if len(sizes) < 2:
        return {"place_spread": 0.0, "radius_spread": 0.0}
    return {"place_spread": torch.tensor(offsets).std().item() / (2.0 * JITTER * even),
            "radius_spread": torch.tensor(sizes).std().item() / even}


@torch.no_grad()
def _distances(judge: ShapesJudge, pictures: Tensor) -> dict[str, float]:
    features = torch.cat([judge(part)[2] for part in pictures.split(64)]).double().cpu()
    true = true_features(judge)
    unit = true.square().mean().sqrt()
    features, true = features / unit, true / unit
    return {"kernel_distance": kernel_distance(features, true), "frechet_distance": frechet_distance(features, true),
            "diversity": (torch.pdist(features).mean() / torch.pdist(true).mean()).item()}


@lru_cache(maxsize=1)
@torch.no_grad()
def true_features(judge: ShapesJudge) -> Tensor:
    scenes = scenes_of(256, 23, held_out=True)
    device = next(judge.parameters()).device
    pixels = torch.stack([draw(scene).movedim(-1, 0) for scene in scenes]).to(device) * 2.0 - 1.0
    return torch.cat([judge(part)[2] for part in pixels.split(64)]).double().cpu()


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Squared Wasserstein distance of the normal distributions with the moments of features (N, d), (M, d).

    Biased upwards for few samples. Source: Heusel et al. 2017, arXiv 1706.08500, eq. 6.
    """
    first, second = torch.cov(a.T), torch.cov(b.T)
    root = torch.linalg.eigvals(first @ second).real.clamp(min=0.0).sqrt().sum()
    return ((a.mean(0) - b.mean(0)).square().sum() + first.trace() + second.trace() - 2.0 * root).item()


def as_table(together: dict[str, float]) -> str:
    """The figures of all pictures, a line each: shares in percent, the rest with three digits."""
    return "\n".join(f"{key:16} {100.0 * value:7.1f} %" if key in PERCENT
                     else f"{key:16} {value:9.3f}" for key, value in together.items())


def labelled(images: Tensor, captions: list[str], rows: list[dict[str, float]], readings: list[Reading]) -> Tensor:
    """One picture (1, H, W, 3) of images (B, 128, 128, 3) in [0, 1], what was read in each below it.

    A line names one thing or the ground, red where the caption asks for something else.
    """
    import numpy as np
    from PIL import Image, ImageDraw

    columns, margin, line = min(len(images), 6), 8, 11
    width, height = SIZE + 2 * margin + 24, SIZE + margin + 6 * line
    sheet = Image.new("RGB", (columns * width, -(-len(images) // columns) * height), (24, 24, 28))
    pen = ImageDraw.Draw(sheet)
    for i, (image, caption, row, reading) in enumerate(zip(images, captions, rows, readings)):
        left, top = i % columns * width + margin, i // columns * height + margin
        pixels = (image[..., :3].clamp(0.0, 1.0) * 255.0).round().byte().cpu().numpy()
        sheet.paste(Image.fromarray(np.ascontiguousarray(pixels)), (left, top))
        for j, (text, right) in enumerate(_lines(reading, caption)):
            pen.text((left, top + SIZE + 2 + j * line), text, fill=(150, 230, 150) if right else (255, 120, 110))
        error = f"error {row['drawing_error']:.0f}/255  sharp {100.0 * row['sharpness']:.0f} %"
        pen.text((left, top + SIZE + 2 + 4 * line), error, fill=(200, 200, 205))
    return torch.from_numpy(np.array(sheet)).float()[None] / 255.0


def _lines(reading: Reading, caption: str) -> list[tuple[str, bool]]:
    asked, ground = parse_caption(caption)
    wanted = {thing.place: thing for thing in asked}
    lines = []
    for place in sorted({*reading.things, *wanted}):
        seen, want = reading.things.get(place), wanted.get(place)
        if seen is None:
            lines.append((f"{place}: nothing", False))
        else:
            right = want is not None and seen[:2] == want[:2] and want.size in (None, seen[2])
            lines.append((f"{place}: {seen[2]} {seen[1]} {seen[0]}", right))
    return lines[:3] + [(f"on {reading.ground}", ground in (None, reading.ground))]
