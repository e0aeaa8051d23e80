"""What Drag does to a thing that it is to take to another place: the figures of its help page, by
`python tests/drag_figures.py [COUNT [KEY=VALUE ...]]`; the values are the node's, of all runs."""
import math
import random
import sys

import conftest  # noqa: F401  loads the checkout as odeon
import torch
from embedded_editing import build, shapes, words

from odeon.models.shapes import RADII, draw, sample_scene

FAR = 32  # px, from one of the places that things stand at to the next
SETTINGS = {"strength": 0.6, "n_pix_step": 60, "lr": 0.05, "steps": 20}
SEEN = 0.2  # of colours from the ground's: a pixel of a thing


def scenes(count, seed=3):
    """Training scenes of one thing on the left or on the right, and how far it is to the middle."""
    rng, found = random.Random(seed), []
    while len(found) < count:
        scene = sample_scene(rng, 1)
        if not scene.held_out and scene.things[0].place in ("left", "right"):
            found.append((scene, FAR if scene.things[0].place == "left" else -FAR))
    return found


def to_the_middle(scene, far):
    thing = scene.things[0]
    return scene._replace(things=(thing._replace(place="middle", center=(thing.center[0] + far, thing.center[1])),))


def dragged(scene, far, kind="shapes-unet", **changes):
    """The picture (128, 128, 3) after the thing's middle was dragged to the middle, under the words of the wanted one;
    what may change is masked."""
    model, clip, vae = shapes(kind)
    (x, y), reach = scene.things[0].center, RADII["large"][1] + 6.0
    mask, ends = torch.zeros(1, 128, 128), sorted((x, x + far))
    mask[:, int(y - reach):int(y + reach), max(int(ends[0] - reach), 0):int(ends[1] + reach)] = 1.0
    with torch.inference_mode():
        out, _ = build("OdeonDrag", model=model, vae=vae, positive=words(clip, to_the_middle(scene, far).caption),
                       image=draw(scene)[None], points=f"{x:.0f},{y:.0f} -> {x + far:.0f},{y:.0f}", mask=mask,
                       **{**SETTINGS, **changes})
    return out[0]


def figures(picture, scene, far):
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


def _middle(picture, ground):
    """(x, y, pixels) of what is not ground."""
    rows, columns = torch.nonzero((picture - ground).abs().amax(-1) > SEEN, as_tuple=True)
    return (columns.float().mean().item(), rows.float().mean().item(), len(rows)) if len(rows) else (64.0, 64.0, 0)


def main(count=16, **changes):
    for radius in (24, 2):
        rows = [figures(dragged(*pair, radius=radius, **changes), *pair) for pair in scenes(count)]
        found = {name: sorted(row[name] for row in rows) for name in rows[0]}
        sys.stdout.write(f"radius {radius}: " + ", ".join(
            f"{name} {sum(of) / count:.2f} (median {of[count // 2]:.2f})" for name, of in found.items()) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    given = dict(value.split("=") for value in sys.argv[2:])
    main(int(sys.argv[1]) if sys.argv[1:] else 16, **{
        key: value if key == "kind" else type(SETTINGS.get(key, 0.0))(value) for key, value in given.items()})
