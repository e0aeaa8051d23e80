"""The Shapes judge as classifiers: one question each, with named answers."""
import copy

import torch
from torch import Tensor, nn

from .judge import NOTHING, ShapesJudge
from .shapes import COLOURS, GROUNDS, PLACES, RADII, SHAPES

ANSWERS = {"shape": (*SHAPES, "nothing"), "colour": tuple(COLOURS), "size": tuple(RADII), "ground": tuple(GROUNDS)}
_STARTS = {"shape": 0, "colour": NOTHING + 1, "size": NOTHING + 1 + len(COLOURS)}


class Question(nn.Module):
    """Pictures (B, 3, 128, 128) in [-1, 1] -> logits (B, K) of what is asked of them, K = len(ANSWERS[about])."""

    def __init__(self, judge: ShapesJudge, about: str, place: str = "middle"):
        super().__init__()
        if about not in ANSWERS or place not in PLACES:
            raise ValueError(f"a question is about {', '.join(ANSWERS)} in one of {', '.join(PLACES)}, "
                             f"got {about!r} in {place!r}")
        with torch.inference_mode(False):
            self.judge = copy.deepcopy(judge)
        self.about, self.place = about, list(PLACES).index(place)

    def forward(self, pictures: Tensor) -> Tensor:
        things, ground, _ = self.judge(pictures)
        if self.about == "ground":
            return ground
        return things[:, self.place].narrow(1, _STARTS[self.about], len(ANSWERS[self.about]))
