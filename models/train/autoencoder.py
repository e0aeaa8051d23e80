"""The recipe of the Shapes autoencoder."""
import math

import torch
from torch import Tensor

from ..autoencoder import ShapesAutoencoder
from .scenes import pictures_of, scenes_of, to_unit

POOL = 4000  # scenes drawn once; batches are crops of them
CROP = 64
KL_WEIGHT = 2e-4


class AutoencoderRecipe:
    """Squared and absolute error on crops of 64 px, and a small KL term that keeps latents near unit size."""
    name, steps, rate, ema, batch = "shapes-vae", 9000, 2e-3, 0.999, 24

    def build(self) -> ShapesAutoencoder:
        self.pool = pictures_of(scenes_of(POOL, 1, held_out=False))
        return ShapesAutoencoder()

    def loss(self, model: ShapesAutoencoder, generator: torch.Generator) -> dict[str, Tensor]:
        pixels = self._crops(generator).to(next(model.parameters()).device)
        with torch.autocast(pixels.device.type, torch.bfloat16):
            mean, log_variance = model.moments(pixels)
            noise = torch.randn(mean.shape, generator=generator).to(mean)
            out = model.decode(mean + (0.5 * log_variance).exp() * noise)
        error = out.float() - pixels
        kl = 0.5 * (mean.float().square() + log_variance.float().exp() - 1.0 - log_variance.float()).mean()
        squared = error.square().mean()
        return {"loss": squared + 0.25 * error.abs().mean() + KL_WEIGHT * kl, "squared": squared, "kl": kl}

    def _crops(self, generator: torch.Generator) -> Tensor:
        picks = torch.randint(len(self.pool), (self.batch,), generator=generator).tolist()
        corners = torch.randint(128 - CROP + 1, (self.batch, 2), generator=generator).tolist()
        return to_unit(torch.stack([self.pool[i, :, y:y + CROP, x:x + CROP] for i, (y, x) in zip(picks, corners)]))

    def matrices(self, model: ShapesAutoencoder) -> list:
        return []

    @torch.no_grad()
    def finish(self, model: ShapesAutoencoder) -> dict:
        """Standardizes the latents on training pictures; peak signal to noise ratio on held-out ones."""
        device = next(model.parameters()).device
        latents = torch.cat([model.encode(to_unit(part).to(device)) for part in self.pool[:1000].split(50)])
        model.standardize(latents.mean((0, 2, 3)), latents.std((0, 2, 3)))
        pixels = to_unit(pictures_of(scenes_of(256, 2, held_out=True))).to(device)
        out = torch.cat([model.decode(model.encode(part)) for part in pixels.split(32)]).clamp(-1.0, 1.0)
        error = (out - pixels).square().mean((1, 2, 3)) / 4.0
        return {"preview": _preview(model, pixels[:128]),
                "psnr_db_held_out": round(-10.0 * math.log10(error.mean().item()), 2),
                "psnr_db_worst_of_256": round(-10.0 * math.log10(error.max().item()), 2)}


def _preview(model: ShapesAutoencoder, pixels: Tensor) -> list[list[float]]:
    """Least-squares weights from the latent channels, and a constant, to the mean colour of each place: (5, 3)."""
    latents = model.encode(pixels).movedim(1, -1).flatten(0, -2)
    known = torch.cat([latents, torch.ones(len(latents), 1, device=latents.device)], dim=1)
    colours = torch.nn.functional.avg_pool2d(pixels, 8).movedim(1, -1).flatten(0, -2)
    return [[round(value, 4) for value in row] for row in torch.linalg.lstsq(known, colours).solution.tolist()]
