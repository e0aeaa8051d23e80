"""The exact denoiser of a set of pictures: a diffusion model in closed form, without training or weights."""
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from .levels import DiscreteLevels, FlowLevels

PREDICTIONS = ("eps", "v", "flow")
PATCH = 8  # a latent place holds PATCH x PATCH pixels, as with Stable Diffusion's autoencoder


class PixelCodec(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] to latents (B, 192, H / 8, W / 8) and back: pixels regrouped, nothing lost.

    height, width: of the pictures modelled. Latents are pixels times 8 / sqrt(height width), so that no picture lies
    further than 13.9 from mid-grey, within the top noise level of Stable Diffusion's schedule (14.6): a run that
    starts from plain noise can then reach every picture. Unscaled, only those near mid-grey would come out.
    """
    channels = 3 * PATCH * PATCH

    def __init__(self, height: int, width: int):
        super().__init__()
        self.scale = PATCH / math.sqrt(height * width)

    def encode(self, pixels: Tensor, *_args, **_options) -> Tensor:
        return functional.pixel_unshuffle(pixels * self.scale, PATCH)

    def decode(self, latents: Tensor, *_args, **_options) -> Tensor:
        return functional.pixel_shuffle(latents, PATCH) / self.scale

    def rgb_factors(self) -> list[list[float]]:
        """Weights from the latent channels to red, green and blue: each place's mean colour, for previews."""
        per_colour = PATCH * PATCH
        weight = 1.0 / (per_colour * self.scale)
        return [[weight if channel // per_colour == colour else 0.0 for colour in range(3)]
                for channel in range(self.channels)]


def closed_form_denoise(z: Tensor, sigma: Tensor, pictures: Tensor, *, log_weights: Tensor | None = None,
                        shifts: Tensor | None = None, smoothing: float = 0.0, neighbours: int = 0,
                        extra_order: Tensor | None = None, extra: int = 0) -> Tensor:
    """E[x_0 | z] for z = (1 - sigma) x_0 + sigma eps with x_0 one of the pictures; sigma in (0, 1].

    z: (B, d); sigma: (B,); pictures: (N, d); log_weights: (B, N), -inf leaves a picture out.
    shifts: (M, d) unit noises e_m. With smoothing s > 0 the result is the mean over m of
      sum_i softmax_i(-(|z - (1 - sigma) x_i|^2 - 2 s (1 - sigma) <e_m, x_i>) / (2 sigma^2)) x_i,
    so that sampling ends between pictures instead of on one; s = 0 is the exact posterior mean.
    neighbours K > 0: only the K likeliest pictures and `extra` of the others, taken in extra_order (N,), count; the
    others stand for all the rest by weight. K = N is exact.
    Source: Scarvelis et al. 2023, arXiv 2310.12395 (their t is 1 - sigma), eq. 5, 9 and section 4.
    """
    alpha, sigma = (1.0 - sigma)[:, None, None], sigma[:, None, None]
    fit = z @ pictures.T  # (B, N)
    energy = 0.5 * pictures.square().sum(1)  # (N,)
    logits = alpha * (fit[:, None] - alpha * energy) / sigma.square()  # (B, 1, N)
    if smoothing > 0.0:
        logits = logits + alpha * smoothing * (shifts @ pictures.T) / sigma.square()  # (B, M, N)
    if log_weights is not None:
        logits = logits + log_weights[:, None]
    if 0 < neighbours < len(pictures):
        logits = logits + _neighbour_weights(logits, neighbours, extra_order, extra)
    return torch.softmax(logits, dim=-1).mean(1) @ pictures


def _neighbour_weights(logits: Tensor, neighbours: int, extra_order: Tensor, extra: int) -> Tensor:
    """What to add to logits (..., N): 0 for the nearest, log(rest / extra) for the chosen others, else -inf."""
    allowed = torch.isfinite(logits)
    near = torch.zeros_like(allowed).scatter(-1, logits.topk(neighbours, dim=-1).indices, True) & allowed
    rest = allowed & ~near
    weights = torch.where(near, 0.0, -math.inf).to(logits.dtype)
    if extra == 0:
        return weights
    extra = min(extra, logits.shape[-1])
    rank = torch.where(rest, extra_order.to(logits.dtype), -1.0)
    chosen = torch.zeros_like(allowed).scatter(-1, rank.topk(extra, dim=-1).indices, True) & rest
    stands_for = (rest.sum(-1, keepdim=True) / extra).clamp(min=1.0).log()
    return torch.where(chosen, stands_for.to(logits.dtype), weights)


class ClosedFormNetwork(nn.Module):
    """The closed-form model behind a network's call: the model's own input and timestep in, its prediction out.

    pictures: latents (N, C, h, w). caption_axes: (N, axes), which words each caption has; a prompt keeps the
    pictures whose captions match most of its (weighted) words. prediction: 'eps' and 'v' take
    x / sqrt(1 + sigma^2) and SD's timesteps, 'flow' takes x and 1000 sigma and returns (x - D) / sigma.
    """

    def __init__(self, pictures: Tensor, caption_axes: Tensor, *, prediction: str = "eps", smoothing: float = 0.0,
                 noises: int = 8, neighbours: int = 0, extra: int = 64, seed: int = 0):
        super().__init__()
        if prediction not in PREDICTIONS:
            raise ValueError(f"prediction must be one of {', '.join(PREDICTIONS)}, got {prediction!r}")
        self.prediction, self.smoothing = prediction, smoothing
        self.neighbours, self.extra = neighbours, extra
        self.latent_shape = tuple(pictures.shape[1:])
        self.levels = FlowLevels() if prediction == "flow" else DiscreteLevels()
        flat = pictures.flatten(1).float()
        generator = torch.Generator("cpu").manual_seed(seed)
        self.center = nn.Parameter(flat.mean(0), requires_grad=False)  # pictures are kept around it, for precision
        self.pictures = nn.Parameter(flat - self.center, requires_grad=False)
        self.caption_axes = nn.Parameter(caption_axes.clone(), requires_grad=False)
        self.shifts = nn.Parameter(torch.randn(noises, flat.shape[1], generator=generator), requires_grad=False)
        self.extra_order = nn.Parameter(torch.randperm(len(flat), generator=generator).float(), requires_grad=False)

    @property
    def dtype(self) -> torch.dtype:
        return self.pictures.dtype

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor | None = None, control=None,
                transformer_options=None, **_options) -> Tensor:
        """x (B, C, h, w) as the model's input, timesteps (B,), context (B or 1, tokens, axes) -> (B, C, h, w)."""
        if tuple(x.shape[1:]) != self.latent_shape:
            raise ValueError(self._wrong_shape(tuple(x.shape[1:])))
        sigma = timesteps.float() / 1000.0 if self.prediction == "flow" else self.levels.sigma(timesteps)
        wide = sigma.reshape(-1, 1, 1, 1)
        if self.prediction == "flow":
            return (x - self.denoise(x, sigma, context)) / wide
        x = x * (wide.square() + 1.0).sqrt()
        denoised = self.denoise(x / (1.0 + wide), sigma / (1.0 + sigma), context)
        if self.prediction == "eps":
            return (x - denoised) / wide
        return (x / (wide.square() + 1.0) - denoised) * (wide.square() + 1.0).sqrt() / wide

    def denoise(self, z: Tensor, sigma: Tensor, context: Tensor | None) -> Tensor:
        """The prediction of x_0 from z = (1 - sigma) x_0 + sigma eps."""
        centered = z.flatten(1) - (1.0 - sigma)[:, None] * self.center
        flat = closed_form_denoise(
            centered, sigma, self.pictures, log_weights=None if context is None else self._chosen(context),
            shifts=self.shifts, smoothing=self.smoothing, neighbours=self.neighbours, extra=self.extra,
            extra_order=self.extra_order)
        return (flat + self.center).reshape(z.shape)

    def _chosen(self, context: Tensor) -> Tensor:
        """Log-weights (B, N): 0 for the captions that match the prompt best, -inf for the others."""
        score = context.mean(1) @ self.caption_axes.T
        best = score.amax(1, keepdim=True)
        return torch.where(score >= best - 1e-5 * best.abs() - 1e-9, 0.0, -math.inf)

    def _wrong_shape(self, got: tuple[int, ...]) -> str:
        (_, h, w), own = got[-3:], self.latent_shape
        if got[0] != own[0]:
            return (f"this closed-form model takes latents of {own[0]} channels, got {got[0]}; "
                    "start from EmptyLatentImage or encode with this model's own VAE")
        size = f"{own[2] * PATCH} x {own[1] * PATCH}"
        return (f"this closed-form model was made from {size} px pictures, got a latent of {w * PATCH} x {h * PATCH} "
                f"px; set the empty latent to {size}")
