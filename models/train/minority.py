"""The recipe of a classifier that tells, from a noisy latent, how rare shapes-unet finds the picture in it."""
import copy
import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...guidance.minority import difference, quantile_bins
from ...measure.pictures import measure_scores
from ...samplers.process import VE
from ..text import TOKENS
from ..unet import ShapesUNet
from ..weights import shapes_autoencoder, shapes_network
from .scenes import pictures_of, scenes_of, to_unit

POOL, HELD_OUT = 1500, 300
BINS = 4
PLACE, REPEATS = 0.6, 2  # of the scores: how far up the model's levels, and how many noises
MEASURED = (0, 200, 400, 600, 800)  # timesteps at which the trained classifier is asked
WIDTH, DEPTH, FREQUENCIES = 64, 3, 16


class NoisyClassifier(nn.Module):
    """logits (B, bins) of latents (B, 4, h, w) noised and brought to unit variance, at timesteps (B,) 0 to 999."""

    def __init__(self, bins: int = BINS):
        super().__init__()
        self.first = nn.Conv2d(4, WIDTH, 3, padding=1, stride=2)
        self.norms = nn.ModuleList(nn.GroupNorm(8, WIDTH) for _ in range(DEPTH))
        self.layers = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(DEPTH))
        self.level = nn.Sequential(nn.Linear(2 * FREQUENCIES, WIDTH), nn.SiLU())
        self.gains = nn.ModuleList(nn.Linear(WIDTH, 2 * WIDTH) for _ in range(DEPTH))
        self.last = nn.Sequential(nn.Linear(2 * WIDTH + 8, WIDTH), nn.SiLU(), nn.Linear(WIDTH, bins))
        self.register_buffer("frequencies", math.pi * torch.arange(1, FREQUENCIES + 1) / 2.0)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        angles = timestep.to(x.dtype)[:, None] / 1000.0 * self.frequencies
        level = self.level(torch.cat([angles.cos(), angles.sin()], dim=1))
        before, x = x, self.first(x)
        for norm, layer, gain in zip(self.norms, self.layers, self.gains):
            factor, shift = gain(level)[:, :, None, None].chunk(2, dim=1)
            x = x + layer(functional.silu(norm(x) * (1.0 + factor) + shift))
        x = functional.silu(x)
        return self.last(torch.cat([before.mean((2, 3)), before.square().mean((2, 3)), x.mean((2, 3)),
                                    x.square().mean((2, 3))], dim=1))


class MinorityRecipe:
    """Cross-entropy on bins of the minority score of true scenes, at timesteps even over the model's 1000.

    folder: where the autoencoder and shapes-unet are; the classifier goes there as TorchScript too, weights in fp16.
    Source: Um et al. 2023, arXiv 2301.12334, section 4.
    """
    name, steps, rate, ema, batch = "shapes-unet-minority", 1200, 4e-3, 0.98, 48

    def __init__(self, folder: Path):
        self.folder = folder

    def build(self) -> NoisyClassifier:
        trained = shapes_network("shapes-unet", self.folder)
        self.network, self.levels = ShapesUNet(), trained.levels
        self.network.load_state_dict(trained.weights)
        self.context = trained.text(torch.zeros(1, TOKENS, dtype=torch.long))
        self.latents, scores = self.scored(POOL, 31, held_out=False)
        self.bins = quantile_bins(scores, BINS)
        self.edges = torch.stack([scores[self.bins == i].max() for i in range(BINS - 1)])
        return NoisyClassifier()

    @torch.no_grad()
    def scored(self, count: int, seed: int, *, held_out: bool) -> tuple[Tensor, Tensor]:
        """Latents (count, 4, 16, 16) of random scenes, and what shapes-unet without a prompt scores them (count,)."""
        autoencoder, sigma = shapes_autoencoder(self.folder), float(self.levels.sigmas[int(PLACE * 999)])
        scenes = scenes_of(count, seed, held_out=held_out)
        latents = torch.cat([autoencoder.encode(to_unit(pictures_of(scenes[i:i + 100])))
                             for i in range(0, count, 100)])
        *_, last = measure_scores(self.denoised, latents, sigma=sigma, repeats=REPEATS, process=VE,
                                  distance=difference)
        return latents, last.state["scores"]

    def denoised(self, x: Tensor, sigma: float) -> Tensor:
        """The prediction without a prompt."""
        made = []
        for part in x.split(50):
            timestep = self.levels.timestep(part.new_full((len(part),), sigma))
            with torch.autocast("cpu", torch.bfloat16):
                eps = self.network(part / math.sqrt(1.0 + sigma * sigma), timestep,
                                   self.context.expand(len(part), -1, -1))
            made.append(part - sigma * eps.float())
        return torch.cat(made)

    def noised(self, latents: Tensor, timestep: Tensor, generator: torch.Generator) -> Tensor:
        """Latents (B, 4, 16, 16) at timesteps (B,), brought to unit variance."""
        sigma = self.levels.sigmas[timestep][:, None, None, None]
        noise = torch.randn(latents.shape, generator=generator)
        return (latents + sigma * noise) / (1.0 + sigma.square()).sqrt()

    def loss(self, model: NoisyClassifier, generator: torch.Generator) -> dict[str, Tensor]:
        device = next(model.parameters()).device
        picks = torch.randint(POOL, (self.batch,), generator=generator)
        even = (torch.arange(self.batch) + torch.rand(self.batch, generator=generator)) / self.batch
        timestep = (1000.0 * even).long()
        x = self.noised(self.latents[picks], timestep, generator)
        logits = model(x.to(device), timestep.to(device))
        return {"loss": functional.cross_entropy(logits, self.bins[picks].to(device))}

    def matrices(self, model: NoisyClassifier) -> list:
        return [layer.weight for layer in (model.first, *model.layers)]

    @torch.no_grad()
    def finish(self, model: NoisyClassifier) -> dict:
        """Writes the TorchScript file; the share of held-out scenes in the right bin and in it or the next, by sigma,
        and by how many bins the answers are off on average."""
        saved = torch.jit.script(copy.deepcopy(model).cpu().half())
        saved.save(self.folder / f"{self.name}.pt")
        latents, scores = self.scored(HELD_OUT, 32, held_out=True)
        truth, quality = torch.bucketize(scores, self.edges), {"bins": BINS}
        for place in MEASURED:
            timestep = torch.full((len(latents),), place)
            x = self.noised(latents, timestep, torch.Generator().manual_seed(33))
            device = next(model.parameters()).device
            off = (model(x.to(device), timestep.to(device)).argmax(1).cpu() - truth).abs().float()
            quality[f"sigma_{self.levels.sigmas[place]:.3g}"] = {
                "right": round((off == 0).float().mean().item(), 3),
                "near": round((off <= 1).float().mean().item(), 3), "off": round(off.mean().item(), 2)}
        return quality
