"""Edits of one attribute each, and what the judge says of a picture that was to be edited so."""
import math
import random
from typing import NamedTuple

import torch
from torch import Tensor

from ..models.judge import Reading, ShapesJudge
from ..models.shapes import COLOURS, JITTER, PLACES, RADII, SHAPES, Scene, Thing, draw, sample_scene

ATTRIBUTES = ("colour", "shape", "place")
KINDS = ("shape", "colour", "size")  # as readings have them
STILL = 2.0  # pixels; the judge reads true drawings to 0.2, at most 1.3
REACH, MARGIN = 1.06, 3.0  # how far a thing's corners may lie, in radii (a cross's do), and pixels of soft edges
_OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}


class Edit(NamedTuple):
    """A scene, the scene wanted, which of its things differs (first, second, ...) and in what."""
    scene: Scene
    wanted: Scene
    thing: int
    attribute: str

    @property
    def captions(self) -> tuple[str, str]:
        return self.scene.caption, self.wanted.caption


def edits_of(count: int, seed: int, *, held_out: bool) -> list[Edit]:
    """Random edits of scenes of one to three things, attributes in turn; held_out: scenes kept from training, or none.

    A place is changed of a lone thing, or of the third of three to the other side, so that nothing else moves.
    """
    rng, found = random.Random(seed), []
    while len(found) < count:
        attribute = ATTRIBUTES[len(found) % len(ATTRIBUTES)]
        scene = sample_scene(rng, rng.choice((1, 3) if attribute == "place" else (1, 2, 3)))
        if scene.held_out == held_out:
            found.append(_edit(rng, scene, attribute))
    return found


def _edit(rng: random.Random, scene: Scene, attribute: str) -> Edit:
    place = rng.randrange(len(scene.things))
    if attribute == "place" and len(scene.things) == 3:
        place = 2
    thing = scene.things[place]
    if attribute == "place":
        others = [name for name in PLACES if name != thing.place]
        new = rng.choice(others) if len(scene.things) == 1 else _OPPOSITE[thing.place]
        offsets = zip(thing.center, PLACES[thing.place], PLACES[new])
        changed = thing._replace(place=new, center=tuple(at - old + to for at, old, to in offsets))
    else:
        names = SHAPES if attribute == "shape" else list(COLOURS)
        changed = thing._replace(**{attribute: rng.choice([name for name in names
                                                           if name != getattr(thing, attribute)])})
    things = (*scene.things[:place], changed, *scene.things[place + 1:])
    return Edit(scene, scene._replace(things=things), place, attribute)


def pictures_of(scenes) -> Tensor:
    """Drawings (B, 128, 128, 3) in [0, 1]."""
    return torch.stack([draw(scene) for scene in scenes])


def judged(judge: ShapesJudge, pictures: Tensor, originals: Tensor, edits: list[Edit]) -> list[dict[str, float]]:
    """What the judge says of each picture (B, 128, 128, 3) in [0, 1] made of an original.

    right: 1 if the edited attribute is as asked. kept: 1 if everything else is as it was: the edited thing's other
    attributes, all other things, where they stand and how large they are to within STILL pixels, the ground. both: 1
    if right and kept. drift: pixels that the middle of a thing moved which got another colour or shape where it stands
    (not given where it is gone or was to move). background: the rms change of pixels outside the edited thing, where it
    was and where it is to be, in 255ths.
    """
    pixels = pictures.movedim(-1, 1) * 2.0 - 1.0
    readings = [reading for part in pixels.split(64) for reading in judge.read(part)]
    rows = []
    for picture, original, reading, edit in zip(pictures, originals, readings, edits):
        right, kept = _right(reading, edit), _kept(reading, edit)
        change = (picture - original)[_outside(edit)].square().mean().sqrt().item() * 255.0
        rows.append({"right": float(right), "kept": float(kept), "both": float(right and kept), "background": change})
        thing = edit.scene.things[edit.thing]
        if edit.attribute != "place" and thing.place in reading.things:
            rows[-1]["drift"] = math.dist(reading.things[thing.place][3:5], thing.center)
    return rows


def _right(reading: Reading, edit: Edit) -> bool:
    wanted, before = edit.wanted.things[edit.thing], edit.scene.things[edit.thing]
    seen = reading.things.get(wanted.place)
    if edit.attribute == "place":
        return seen is not None and before.place not in reading.things
    return seen is not None and seen[KINDS.index(edit.attribute)] == getattr(wanted, edit.attribute)


def _kept(reading: Reading, edit: Edit) -> bool:
    before, wanted = (scene.things[edit.thing] for scene in (edit.scene, edit.wanted))
    others = [thing for thing in edit.scene.things if thing is not before]
    if reading.ground != edit.scene.ground or not all(_same(reading, thing, still=True) for thing in others):
        return False
    if not set(reading.things) <= {before.place, wanted.place, *(thing.place for thing in others)}:
        return False
    return any(_same(reading, thing, but=edit.attribute) for thing in (before, wanted))


def _same(reading: Reading, thing: Thing, *, but: str = "", still: bool = False) -> bool:
    """Whether a thing is in its place as it was, but for one attribute; still: and has not moved there."""
    seen = reading.things.get(thing.place)
    if seen is None or any(seen[i] != getattr(thing, name) for i, name in enumerate(KINDS) if name != but):
        return False
    x, y, radius = seen[3:]
    return not still or max(math.dist((x, y), thing.center), abs(radius - thing.radius)) <= STILL


def _outside(edit: Edit) -> Tensor:
    """Pixels (128, 128) that are of neither the thing as it was nor as it may come to be."""
    before, wanted = (scene.things[edit.thing] for scene in (edit.scene, edit.wanted))
    reach = REACH * RADII[before.size][1] + MARGIN
    discs = [(before.center, reach)]
    if edit.attribute == "place":
        discs.append((tuple(64.0 + offset for offset in PLACES[wanted.place]), reach + 2.0 ** 0.5 * JITTER))
    y, x = torch.meshgrid(torch.arange(128) + 0.5, torch.arange(128) + 0.5, indexing="ij")
    outside = torch.ones(128, 128, dtype=torch.bool)
    for (center_x, center_y), radius in discs:
        outside &= (x - center_x).square() + (y - center_y).square() > radius ** 2
    return outside
