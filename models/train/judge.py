"""The recipe of the Shapes judge."""
import torch
from torch import Tensor
from torch.nn import functional

from ..judge import _SPLIT, NOTHING, ShapesJudge, agreement, targets
from .scenes import pictures_of, scenes_of, to_unit

POOL = 12000


class JudgeRecipe:
    """Cross-entropies for shape, colour, size and ground, absolute error of centre and radius; half of the pictures
    blurred and noised a little, as a decoder's are."""
    name, steps, rate, ema, batch = "shapes-judge", 1500, 2e-3, 0.998, 64

    def build(self) -> ShapesJudge:
        scenes = scenes_of(POOL, 11, held_out=False)
        self.pictures, self.targets = pictures_of(scenes), targets(scenes)
        return ShapesJudge()

    def loss(self, model: ShapesJudge, generator: torch.Generator) -> dict[str, Tensor]:
        device = next(model.parameters()).device
        picks = torch.randint(POOL, (self.batch,), generator=generator)
        pictures = _worn(to_unit(self.pictures[picks]), generator).to(device)
        classes, where, grounds = (part[picks].to(device) for part in self.targets)
        with torch.autocast(device.type, torch.bfloat16):
            things, ground, _ = model(pictures)
        shape, colour, size, place = things.float().split(_SPLIT, dim=2)
        there = classes[..., 0] != NOTHING
        parts = {"shape": functional.cross_entropy(shape.flatten(0, 1), classes[..., 0].flatten()),
                 "colour": functional.cross_entropy(colour[there], classes[..., 1][there]),
                 "size": functional.cross_entropy(size[there], classes[..., 2][there]),
                 "ground": functional.cross_entropy(ground.float(), grounds),
                 "where": (place[there] - where[there]).abs().mean()}
        return {"loss": sum(parts.values()), **parts}

    def matrices(self, model: ShapesJudge) -> list:
        return []

    @torch.no_grad()
    def finish(self, model: ShapesJudge) -> dict[str, float]:
        """Agreement with the captions of 1200 true held-out scenes, and errors of centre and radius in pixels."""
        scenes = scenes_of(1200, 12, held_out=True)
        readings = [reading for part in to_unit(pictures_of(scenes)).split(64)
                    for reading in model.read(part.to(next(model.parameters()).device))]
        rows = [agreement(reading, scene.caption) for reading, scene in zip(readings, scenes)]
        quality = {name: round(sum(row[name] for row in rows) / len(rows), 4) for name in rows[0]}
        errors = [(abs(seen[3] - thing.center[0]), abs(seen[4] - thing.center[1]), abs(seen[5] - thing.radius))
                  for reading, scene in zip(readings, scenes) for thing in scene.things
                  if (seen := reading.things.get(thing.place))]
        x, y, radius = (sum(values) / len(values) for values in zip(*errors))
        return {**quality, "centre_px": round((x + y) / 2.0, 2), "radius_px": round(radius, 2)}


def _worn(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the pictures with a little blur and noise."""
    half = len(pictures) // 2
    blurred = functional.avg_pool2d(functional.pad(pictures[:half], (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    share = torch.rand(half, 1, 1, 1, generator=generator)
    worn = torch.lerp(pictures[:half], blurred, share)
    worn += 0.1 * torch.rand(half, 1, 1, 1, generator=generator) * torch.randn(worn.shape, generator=generator)
    return torch.cat([worn, pictures[half:]])
