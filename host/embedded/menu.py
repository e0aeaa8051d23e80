"""The embedded runner's menus of samplers and schedulers, and a run of one of them that can be watched."""
import torch

from ...schedules.classic import SCHEDULERS
from . import patch_prediction
from .context import current
from .core_sampling import SAMPLERS, model_sigmas, named_sampler
from .files import PreviewImage
from .sampling import Guider, Noise

__all__ = ["followed", "named_sampler", "named_sigmas", "preview", "sampler_names", "scheduler_names"]


def sampler_names() -> list[str]:
    """The samplers of KSampler's menu."""
    return list(SAMPLERS)


def scheduler_names() -> list[str]:
    """The schedulers of KSampler's menu."""
    return list(SCHEDULERS)


def named_sigmas(model, name: str, steps: int) -> torch.Tensor:
    """The SIGMAS of scheduler_names for a MODEL, as BasicScheduler gives them."""
    return model_sigmas(model, name, steps)


def followed(model, positive, negative, cfg: float, *, sampler, sigmas, latent: dict, seed: int, watch=None,
             done: int = 0, total: int = 0) -> tuple[torch.Tensor, int]:
    """(the samples that SamplerCustom would give, how often the sampler called the model).

    watch(step, denoised, calls so far) after each step; done, total: steps before this run, and of all that the
    progress bar stands for.
    """
    calls, total = 0, total or len(sigmas) - 1

    def count(denoised, _call):
        nonlocal calls
        calls += 1
        return denoised

    def follow(step, denoised, _x, _total):
        if watch is not None:
            watch(step, denoised, calls)
        current().progress(min(done + step + 1, total), total)

    samples = model.fix_empty_latent_channels(latent["samples"])
    guider = Guider(patch_prediction(model, lambda: count), positive, negative, cfg)
    made = guider.sample(Noise(seed).generate_noise({**latent, "samples": samples}), samples, sampler, sigmas,
                         seed=seed, denoise_mask=latent.get("noise_mask"), callback=follow)
    return made, calls


def preview(images: torch.Tensor, prompt, extra_pnginfo) -> dict:
    """What a node returns as "ui" to show pictures on itself: they are saved as previews of the run, with its graph."""
    return PreviewImage().save_images(images)["ui"]
