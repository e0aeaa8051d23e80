"""Guider, masks, noise and sampler objects of the embedded runner: what happens around a sampler function."""
import math

import torch
from torch import Tensor

from ..common import require_finite
from .model import Model
from .rules import Rules


class Noise:
    """NOISE from a seed; None is no noise. Drawn as ComfyUI draws it, so a seed means the same picture in both.

    change(noise) makes other noise of it.
    """

    def __init__(self, seed: int | None, change=None):
        self.seed = seed or 0
        self.enabled = seed is not None
        self.change = change

    def generate_noise(self, latent: dict) -> Tensor:
        if not self.enabled:
            return torch.zeros_like(latent["samples"], device="cpu")
        noise = self._drawn(latent)
        return noise if self.change is None else self.change(noise)

    def _drawn(self, latent: dict) -> Tensor:
        samples = latent["samples"]
        generator = torch.Generator("cpu").manual_seed(self.seed)
        indices = latent.get("batch_index")
        if indices is None:
            return torch.randn(samples.shape, dtype=samples.dtype, generator=generator)
        drawn = [torch.randn(1, *samples.shape[1:], dtype=samples.dtype, generator=generator)
                 for _ in range(max(indices) + 1)]
        return torch.cat([drawn[i] for i in indices])


class Guider:
    """GUIDER: conditions, scale and one run of a sampler on a MODEL."""

    def __init__(self, model: Model, positive: list, negative: list | None = None, cfg: float = 1.0):
        self.model_patcher = model
        self.positive, self.negative, self.cfg = positive, negative, cfg

    def sample(self, noise: Tensor, latent: Tensor, sampler: "Sampler", sigmas: Tensor, *,
               denoise_mask: Tensor | None = None, callback=None, seed: int = 0) -> Tensor:
        """One run from noise added to latent at sigmas[0]. callback(step, denoised, x, total)."""
        if len(sigmas) < 2:
            raise ValueError(f"SIGMAS needs at least 2 values (1 step), got {len(sigmas)}; raise steps or denoise, "
                             "or move the split")
        require_finite(latent, "the LATENT to start from has NaN or infinite values",
                       "check the node that made it")
        if noise.shape != latent.shape:
            raise ValueError(f"noise and latent need one shape, got {tuple(noise.shape)} and {tuple(latent.shape)}")
        if denoise_mask is not None:
            denoise_mask = _fit_mask(denoise_mask, latent.shape)
        run = _Run(self, sigmas, noise, latent)
        extra_args = {"model_options": {}, "seed": seed, "denoise_mask": denoise_mask}
        total = len(sigmas) - 1
        inform = None if callback is None else lambda step: callback(step["i"], step["denoised"], step["x"], total)
        result = sampler.sample(run, sigmas, extra_args, inform)
        run.rules.report()
        return result


class _Run:
    """The model that a sampler function calls, for one run: guidance rules with their state, and the mask.

    Has the attributes that sampler functions find on ComfyUI's: inner_model, sigmas, noise, latent_image.
    """

    def __init__(self, guider: Guider, sigmas: Tensor, noise: Tensor, latent: Tensor):
        self.inner_model = guider
        self.sigmas, self.noise, self.latent_image = sigmas, noise, latent
        self.rules = Rules(guider, sigmas, noise)

    def __call__(self, x: Tensor, sigma: Tensor, denoise_mask: Tensor | None = None, model_options=None,
                 seed: int | None = None) -> Tensor:
        self.rules.mask = denoise_mask
        if denoise_mask is None:
            return self.rules.guided(x, sigma, model_options or {})
        level = sigma.reshape(-1, *[1] * (x.ndim - 1))
        sampling = self.inner_model.model_patcher.model_sampling
        kept = sampling.noise_scaling(level, self.noise, self.latent_image)
        denoised = self.rules.guided(x * denoise_mask + kept * (1.0 - denoise_mask), sigma, model_options or {})
        return denoised * denoise_mask + self.latent_image * (1.0 - denoise_mask)


def prompting(run: _Run, extra_args: dict, positive: list, negative: list | None, cfg: float):
    """denoise(x, sigma (B,)) of the MODEL of a run, its mask included, under other CONDITIONING."""
    other = _Run(Guider(run.inner_model.model_patcher, positive, negative, cfg), run.sigmas, run.noise,
                 run.latent_image)
    return lambda x, sigma: other(x, sigma, extra_args.get("denoise_mask"))


class Sampler:
    """SAMPLER: a sampler function, run between noising the latent and undoing the model's own scaling.

    fresh_mask_noise: the kept part of a masked run is noised from seed + 1 (ComfyUI's ddim does so).
    """

    def __init__(self, sampler_function, *, fresh_mask_noise: bool = False):
        self.sampler_function = sampler_function
        self.fresh_mask_noise = fresh_mask_noise

    def sample(self, run: _Run, sigmas: Tensor, extra_args: dict, callback) -> Tensor:
        sampling = run.inner_model.model_patcher.model_sampling
        top, first = float(sampling.sigma_max), float(sigmas[0])
        from_top = math.isclose(top, first, rel_tol=1e-5) or first > top
        x = sampling.noise_scaling(sigmas[0], run.noise, run.latent_image, from_top)
        if self.fresh_mask_noise:
            generator = torch.Generator("cpu").manual_seed(extra_args["seed"] + 1)
            run.noise = torch.randn(run.noise.shape, generator=generator).to(run.noise)
        x = self.sampler_function(run, x, sigmas, extra_args=extra_args, callback=callback, disable=True)
        return sampling.inverse_noise_scaling(sigmas[-1], x)


def _fit_mask(mask: Tensor, shape: torch.Size) -> Tensor:
    """A mask (B or 1, ..., H, W) brought to a latent's (B, C, h, w)."""
    mask = mask.reshape(-1, 1, *mask.shape[-2:])
    mask = torch.nn.functional.interpolate(mask, size=shape[2:], mode="bilinear")
    repeats = -(-shape[0] // mask.shape[0])
    return mask.repeat(repeats, 1, 1, 1)[:shape[0]].expand(shape)
