"""What the recipes of all captioned networks share: scenes and their latents, captions, and how pictures are measured.

Beside its own loss a network learns to name, from its middle features, what lies at every latent place (shape, colour,
size), which sends the words to the right things early. The heads that read the names are thrown away after training.
"""
import re
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...samplers.exponential_adams import plan_exponential_adams
from ...samplers.linear import run
from ..judge import agreement
from ..shapes import COLOURS, RADII, SHAPES, Scene
from ..text import TOKENS, ShapesTextEncoder, ShapesTokenizer
from ..weights import shapes_autoencoder, shapes_judge
from .scenes import pictures_of, scenes_of, to_unit

POOL = 24000
MIXTURE = (1, 1, 2, 2, 3)
EMPTY_SHARE, OPEN_SIZE_SHARE = 0.1, 0.15
NAMES = (len(SHAPES) + 1, len(COLOURS) + 1, len(RADII) + 1)  # of what lies at a place; the last one is "ground"
BLOCKS = r"text\.layers|blocks|middle_block"
LAYOUT_WEIGHT, GROUND_WEIGHT = 0.5, 0.2


class Batch(NamedTuple):
    """Latents and noise (B, 4, 16, 16), word numbers (B, TOKENS), names of places (B, 3, 16, 16)."""
    latents: Tensor
    noise: Tensor
    numbers: Tensor
    layout: Tensor


class CaptionedRecipe:
    """Base of the recipes: build() and loss() are the subclass's, the pool and finish() are here.

    folder: where the autoencoder and the judge are.
    """
    name, steps, rate, ema, batch = "", 1, 1e-3, 0.998, 32

    measured_at, order = {"cfg": 3.0, "steps": 24}, 2
    measured_count = 96

    def __init__(self, folder: Path):
        self.folder = folder

    def parts(self, network: nn.Module, channels: int, cells: int = 1) -> nn.ModuleDict:
        """The network with its text encoder and the heads that name places; draws the pool of scenes.

        channels: of the features that the heads read; cells: places a side that one feature vector stands for.
        """
        self.draw_pool()
        heads = nn.Sequential(nn.Conv2d(channels, sum(NAMES) * cells ** 2, 1), nn.PixelShuffle(cells))
        return nn.ModuleDict({"network": network, "text": ShapesTextEncoder(), "layout": heads})

    @torch.no_grad()
    def draw_pool(self) -> None:
        autoencoder, self.tokenizer = shapes_autoencoder(self.folder), ShapesTokenizer()
        scenes = scenes_of(POOL, 21, held_out=False, objects=MIXTURE)
        self.captions = [scene.caption for scene in scenes]
        self.latents = torch.cat([autoencoder.encode(to_unit(pictures_of(scenes[i:i + 100])))
                                  for i in range(0, POOL, 100)])
        self.layouts = torch.stack([layout_of(scene) for scene in scenes])

    def draw(self, generator: torch.Generator, device: torch.device) -> Batch:
        """A batch of the pool with fresh noise."""
        picks = torch.randint(POOL, (self.batch,), generator=generator)
        noise = torch.randn(self.batch, *self.latents.shape[1:], generator=generator)
        numbers = self.numbers([self.captions[i] for i in picks.tolist()], generator)
        return Batch(*(value.to(device) for value in (self.latents[picks], noise, numbers, self.layouts[picks])))

    def even(self, generator: torch.Generator) -> Tensor:
        """One number in each of `batch` equal parts of [0, 1), so that a batch has levels of every kind."""
        return (torch.arange(self.batch) + torch.rand(self.batch, generator=generator)) / self.batch

    def numbers(self, captions: list[str], generator: torch.Generator) -> Tensor:
        """Word numbers (B, TOKENS); some captions emptied, some sizes left open."""
        rows = torch.zeros(len(captions), TOKENS, dtype=torch.long)
        chances = torch.rand(len(captions), 4, generator=generator).tolist()
        for row, caption, (empty, *open_sizes) in zip(rows, captions, chances):
            if empty >= EMPTY_SHARE:
                row.copy_(self.row(_with_open_sizes(caption, open_sizes)))
        return rows

    def row(self, caption: str) -> Tensor:
        """Word numbers (TOKENS,) of one caption."""
        found = [number for number, _ in self.tokenizer.tokenize_with_weights(caption)["odeon"]]
        return torch.tensor(found + [0] * (TOKENS - len(found)))

    def answer(self, model: nn.ModuleDict, x: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        """What the network answers for states x (B, 4, 16, 16) at levels (B,)."""
        raise NotImplementedError

    def denoised(self, model: nn.ModuleDict, x: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        """x_0 as the network predicts it; here for an answer that is the noise (VE) or the velocity (flow)."""
        return x - sigma[:, None, None, None] * self.answer(model, x, sigma, context)

    def matrices(self, model: nn.ModuleDict) -> list[nn.Parameter]:
        """All weights of layers within blocks."""
        return [weight for name, weight in model.named_parameters() if weight.ndim > 1 and re.search(BLOCKS, name)]

    @torch.no_grad()
    def finish(self, model: nn.ModuleDict) -> dict:
        """Throws the naming heads away; agreement of pictures of held-out captions, by number of things."""
        model.pop("layout")
        return {**self.measured_at, **{f"things_{n}": self.quality(model, n, **self.measured_at) for n in (1, 2, 3)}}

    @torch.no_grad()
    def quality(self, model: nn.ModuleDict, objects: int, *, cfg: float, steps: int) -> dict[str, float]:
        """What the judge reads in pictures of held-out captions of so many things."""
        device = next(model.parameters()).device
        autoencoder, judge = shapes_autoencoder(self.folder).to(device), shapes_judge(self.folder).to(device)
        captions = [scene.caption for scene in scenes_of(self.measured_count, 22, held_out=True, objects=(objects,))]
        latents = self.sample(model, captions, cfg=cfg, steps=steps)
        pictures = torch.cat([autoencoder.decode(part) for part in latents.split(32)]).clamp(-1.0, 1.0)
        rows = [agreement(reading, caption) for reading, caption in zip(judge.read(pictures), captions)]
        return {key: round(sum(row[key] for row in rows) / len(rows), 3) for key in rows[0]}

    def sample(self, model: nn.ModuleDict, captions: list[str], *, cfg: float, steps: int) -> Tensor:
        """Latents (B, 4, 16, 16) for captions, by exponential Adams of the recipe's order."""
        device = next(model.parameters()).device
        context = model["text"](torch.stack([self.row(caption) for caption in captions]).to(device))
        empty = model["text"](torch.zeros(1, TOKENS, dtype=torch.long, device=device)).expand_as(context)
        start = torch.randn(len(captions), 4, 16, 16, generator=torch.Generator("cpu").manual_seed(5)).to(device)
        sigmas, process = self.schedule(steps)

        def denoise(x: Tensor, sigma: float) -> Tensor:
            level = x.new_full((len(x),), sigma)
            cond, uncond = (self.denoised(model, x, level, words) for words in (context, empty))
            return uncond + cfg * (cond - uncond)

        return run(denoise, start * sigmas[0], plan_exponential_adams(sigmas, process=process, order=self.order))

    def schedule(self, steps: int) -> tuple:
        """Levels (steps + 1) from the top to 0, and the process they belong to."""
        raise NotImplementedError


def naming_loss(logits: Tensor, layout: Tensor) -> Tensor:
    """Cross-entropy of logits (B, sum(NAMES), 16, 16) on the names of places (B, 3, 16, 16)."""
    losses = [functional.cross_entropy(part.float(), names.long(), reduction="none")
              for part, names in zip(logits.split(NAMES, dim=1), layout.unbind(1))]
    is_ground = layout[:, 0] == NAMES[0] - 1
    return (sum(losses) * torch.where(is_ground, GROUND_WEIGHT, 1.0)).mean()


def layout_of(scene: Scene) -> Tensor:
    """What lies at every latent place (3, 16, 16), as bytes: shape, colour, size; the last of each is the ground."""
    layout = torch.tensor(NAMES, dtype=torch.uint8)[:, None, None].repeat(1, 16, 16) - 1
    centres = torch.arange(16) * 8.0 + 4.0
    for thing in scene.things:
        x, y = thing.center
        inside = (centres[None, :] - x).square() + (centres[:, None] - y).square() < (thing.radius + 1.0) ** 2
        names = SHAPES.index(thing.shape), list(COLOURS).index(thing.colour), list(RADII).index(thing.size)
        for i, name in enumerate(names):
            layout[i][inside] = name
    return layout


def _with_open_sizes(caption: str, chances: list[float]) -> str:
    """The caption with size words dropped where the chance of their thing falls below OPEN_SIZE_SHARE."""
    words, thing = [], 0
    for word in caption.split():
        if word in RADII:
            thing += 1
            if chances[thing - 1] < OPEN_SIZE_SHARE:
                continue
        words.append(word)
    return " ".join(words)
