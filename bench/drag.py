"""What Drag does to a thing that it is to take to another place: the figures of its help page."""
import math
import random
from collections.abc import Iterator

import torch
from rich.table import Table
from torch import Tensor

from ..models.shapes import RADII, Scene, draw, sample_scene
from .shapes import encoded, load, node

FAR = 32  # px, from one of the places that things stand at to the next
SETTINGS = {"strength": 0.6, "n_pix_step": 60, "lr": 0.05, "steps": 20}
SEEN = 0.2  # of colours from the ground's: a pixel of a thing


def scenes(count: int, seed: int = 3) -> list[tuple[Scene, int]]:
    """Training scenes of one thing on the left or on the right, and how far it is to the middle."""
    rng, found = random.Random(seed), []
    while len(found) < count:
        scene = sample_scene(rng, 1)
        if not scene.held_out and scene.things[0].place in ("left", "right"):
            found.append((scene, FAR if scene.things[0].place == "left" else -FAR))
    return found


def to_the_middle(scene: Scene, far: int) -> Scene:
    thing = scene.things[0]
    return scene._replace(things=(thing._replace(place="middle", center=(thing.center[0] + far, thing.center[1])),))


def dragged(scene: Scene, far: int, model: str, **changes) -> Tensor:
    """The picture (128, 128, 3) after the thing's middle was dragged to the middle, under the words of the wanted one;
    what may change is masked."""
    network, clip, vae = load(model)
    (x, y), reach = scene.things[0].center, RADII["large"][1] + 6.0
    mask, ends = torch.zeros(1, 128, 128), sorted((x, x + far))
    mask[:, int(y - reach):int(y + reach), max(int(ends[0] - reach), 0):int(ends[1] + reach)] = 1.0
    with torch.inference_mode():
        out, _ = node("OdeonDrag", model=network, vae=vae, positive=encoded(clip, [to_the_middle(scene, far).caption]),
                      image=draw(scene)[None], points=f"{x:.0f},{y:.0f} -> {x + far:.0f},{y:.0f}", mask=mask,
                      **{**SETTINGS, **changes})
    return out[0]


def figures(picture: Tensor, scene: Scene, far: int) -> dict[str, float]:
    """off: px between the middle of what is seen and where it was to be; size: its area as a share of what it was;
    left behind, elsewhere: rms in 255ths from plain ground where the thing was, from the picture outside of both."""
    before, wanted, thing = draw(scene), draw(to_the_middle(scene, far)), scene.things[0]
    ground = draw(scene._replace(things=()))
    (x, y, area), (to_x, to_y, full) = (_middle(shown, ground) for shown in (picture, wanted))
    rows, columns = torch.meshgrid(torch.arange(128) + 0.5, torch.arange(128) + 0.5, indexing="ij")
    near = [(columns - center).square() + (rows - thing.center[1]).square() < (1.06 * thing.radius + 3.0) ** 2
            for center in (thing.center[0], thing.center[0] + far)]

    def rms(one, other, where):
        return 255.0 * (one - other)[where].square().mean().sqrt().item()

    return {"off": math.hypot(x - to_x, y - to_y), "size": area / full,
            "left behind": rms(picture, ground, near[0] & ~near[1]),
            "elsewhere": rms(picture, before, ~near[0] & ~near[1])}


def _middle(picture: Tensor, ground: Tensor) -> tuple[float, float, int]:
    """(x, y, pixels) of what is not ground."""
    rows, columns = torch.nonzero((picture - ground).abs().amax(-1) > SEEN, as_tuple=True)
    return (columns.float().mean().item(), rows.float().mean().item(), len(rows)) if len(rows) else (64.0, 64.0, 0)


def tables(model: str, count: int) -> Iterator[Table]:
    """Mean and median of the figures of so many scenes, by radius."""
    for radius in (24, 2):
        rows = [figures(dragged(*pair, model, radius=radius), *pair) for pair in scenes(count)]
        table = Table("figure", "mean", "median", title=f"{model}, {count} scenes, radius {radius}")
        for name in rows[0]:
            found = sorted(row[name] for row in rows)
            table.add_row(name, f"{sum(found) / count:.2f}", f"{found[count // 2]:.2f}")
        yield table
