"""The recipe of shapes-unet: a latent UNet that predicts noise, with its text encoder."""
from pathlib import Path

import torch
from torch import Tensor, nn

from ...samplers.exponential_adams import plan_exponential_adams
from ...samplers.linear import run
from ...schedules.power import power_sigmas
from ..judge import agreement
from ..levels import DiscreteLevels
from ..shapes import RADII
from ..text import TOKENS, ShapesTextEncoder, ShapesTokenizer
from ..unet import ShapesUNet
from ..weights import shapes_autoencoder, shapes_judge
from .scenes import pictures_of, scenes_of, to_unit

POOL = 24000
MIXTURE = (1, 1, 2, 2, 3)
EMPTY_SHARE, OPEN_SIZE_SHARE = 0.1, 0.15
MIN_SNR, MAX_BOOST = 5.0, 25.0


class UNetRecipe:
    """Noise prediction on Stable Diffusion's levels. The weight of a level is min-SNR's, min(SNR, 5) / SNR, times
    min(1 + 1 / SNR, 25): without it the noisiest levels, which bind colours to things, count for nothing.

    folder: where the autoencoder and the judge are.
    """
    name, steps, rate, ema, batch = "shapes-unet", 2600, 1e-3, 0.998, 32

    def __init__(self, folder: Path):
        self.folder = folder

    @torch.no_grad()
    def build(self) -> nn.ModuleDict:
        autoencoder = shapes_autoencoder(self.folder)
        scenes = scenes_of(POOL, 21, held_out=False, objects=MIXTURE)
        self.captions = [scene.caption for scene in scenes]
        self.latents = torch.cat([autoencoder.encode(to_unit(pictures_of(scenes[i:i + 100])))
                                  for i in range(0, POOL, 100)])
        self.levels, self.tokenizer = DiscreteLevels(), ShapesTokenizer()
        return nn.ModuleDict({"unet": ShapesUNet(), "text": ShapesTextEncoder()})

    def loss(self, model: nn.ModuleDict, generator: torch.Generator) -> dict[str, Tensor]:
        device = next(model.parameters()).device
        picks = torch.randint(POOL, (self.batch,), generator=generator)
        latents = self.latents[picks].to(device)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        timesteps = torch.randint(1000, (self.batch,), generator=generator)
        sigma = self.levels.sigmas[timesteps].to(device)
        wide = sigma[:, None, None, None]
        x = (latents + wide * noise) / (1.0 + wide.square()).sqrt()
        numbers = self.numbers([self.captions[i] for i in picks.tolist()], generator).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            predicted = model["unet"](x, timesteps.to(device), model["text"](numbers))
        error = (predicted.float() - noise).square().mean((1, 2, 3))
        snr = sigma.pow(-2)
        weight = (MIN_SNR / snr).clamp(max=1.0) * (1.0 + 1.0 / snr).clamp(max=MAX_BOOST)
        return {"loss": (weight * error).mean(), "error": error.mean()}

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

    @torch.no_grad()
    def finish(self, model: nn.ModuleDict) -> dict[str, float]:
        """Agreement of pictures of held-out captions, read by the judge, at CFG 3 and 24 steps, by number of things."""
        device = next(model.parameters()).device
        autoencoder, judge = shapes_autoencoder(self.folder).to(device), shapes_judge(self.folder).to(device)
        quality = {}
        for objects in (1, 2, 3):
            captions = [scene.caption for scene in scenes_of(96, 22, held_out=True, objects=(objects,))]
            latents = self.sample(model, captions, cfg=3.0, steps=24)
            pictures = torch.cat([autoencoder.decode(part) for part in latents.split(32)]).clamp(-1.0, 1.0)
            rows = [agreement(reading, caption) for reading, caption in zip(judge.read(pictures), captions)]
            quality[f"things_{objects}"] = {key: round(sum(row[key] for row in rows) / len(rows), 3) for key in rows[0]}
        return quality

    def sample(self, model: nn.ModuleDict, captions: list[str], *, cfg: float, steps: int) -> Tensor:
        """Latents (B, 4, 16, 16) for captions, by exponential Adams of order 2 on a Karras schedule."""
        device = next(model.parameters()).device
        context = model["text"](torch.stack([self.row(caption) for caption in captions]).to(device))
        empty = model["text"](torch.zeros(1, TOKENS, dtype=torch.long, device=device)).expand_as(context)
        start = torch.randn(len(captions), 4, 16, 16, generator=torch.Generator("cpu").manual_seed(5)).to(device)

        def denoise(x: Tensor, sigma: float) -> Tensor:
            level = x.new_full((len(x),), sigma)
            scaled, times = x / (1.0 + sigma ** 2) ** 0.5, self.levels.timestep(level)
            cond, uncond = (model["unet"](scaled, times, words) for words in (context, empty))
            return x - sigma * (uncond + cfg * (cond - uncond))

        return run(denoise, start * 14.65, plan_exponential_adams(power_sigmas(steps).tolist(), order=2))


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
