"""Scenes to train on and to measure with, and their drawings."""
import random

import torch
from torch import Tensor

from ..shapes import Scene, draw, sample_scene


def scenes_of(count: int, seed: int, *, held_out: bool, objects: tuple[int, ...] = (1, 2, 3)) -> list[Scene]:
    """Random scenes with a number of things out of `objects`, all of them held out or none."""
    rng, found = random.Random(seed), []
    while len(found) < count:
        scene = sample_scene(rng, rng.choice(objects))
        if scene.held_out == held_out:
            found.append(scene)
    return found


def pictures_of(scenes: list[Scene]) -> Tensor:
    """Drawings (N, 3, 128, 128) as bytes."""
    return torch.stack([(draw(scene) * 255.0).round().byte().movedim(-1, 0) for scene in scenes])


def to_unit(pictures: Tensor) -> Tensor:
    """Bytes to [-1, 1]."""
    return pictures.float() / 127.5 - 1.0
