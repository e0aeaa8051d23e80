"""ComfyUI's core nodes for sampling, with ComfyUI's ids, inputs and results."""
import torch

from ...samplers.dpm_solver_pp import plan_dpm_solver_pp
from ...samplers.exponential_adams import plan_exponential_adams
from ...samplers.process import VE
from ...schedules.classic import SCHEDULERS, classic_sigmas
from ..common import Solver
from . import process_of
from .context import current
from .sampling import Guider, Noise, Sampler

SEED = ("INT", {"default": 0, "min": 0, "max": 2 ** 64 - 1, "control_after_generate": True})
STEPS = ("INT", {"default": 20, "min": 1, "max": 10000})
CFG = ("FLOAT", {"default": 8.0, "min": 0.0, "max": 100.0, "step": 0.1, "round": 0.01})
DENOISE = ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01})

# What ComfyUI's samplers of these names are: their steps as plans, always in the VE form.
SAMPLERS = {
    "euler": (plan_exponential_adams, {"order": 1}),
    "ddim": (plan_exponential_adams, {"order": 1}),
    "dpmpp_2m": (plan_dpm_solver_pp, {"order": 2, "solver_type": "midpoint", "lower_order_below": 0}),
    "res_multistep": (plan_dpm_solver_pp, {"order": 2, "solver_type": "taylor", "lower_order_below": 0}),
}


def named_sampler(name: str) -> Sampler:
    """ComfyUI's sampler of this name."""
    plan_fn, options = SAMPLERS[name]
    return Sampler(Solver(plan_fn, options, process_of=process_of, process=VE), fresh_mask_noise=name == "ddim")


def model_sigmas(model, scheduler: str, steps: int, denoise: float = 1.0) -> torch.Tensor:
    """ComfyUI's SIGMAS for a model: denoise < 1 keeps the last steps of a longer schedule, 0 gives none."""
    if denoise <= 0.0:
        return torch.zeros(0)
    total = steps if denoise >= 1.0 else int(steps / denoise)
    return classic_sigmas(scheduler, model.model_sampling.levels, total).float()[-(steps + 1):]


def sample(guider: Guider, noise: Noise, sampler: Sampler, sigmas: torch.Tensor, latent: dict) -> tuple[dict, dict]:
    """One run: the LATENT it ends with and the last prediction as a LATENT; other keys of the input pass through."""
    samples = guider.model_patcher.fix_empty_latent_channels(latent["samples"])
    latent = {**latent, "samples": samples}
    last = {}

    def follow(step: int, denoised: torch.Tensor, x: torch.Tensor, total: int) -> None:
        last["denoised"] = denoised
        current().progress(step + 1, total)

    out = guider.sample(noise.generate_noise(latent), samples, sampler, sigmas, seed=noise.seed,
                        denoise_mask=latent.get("noise_mask"), callback=follow)
    return {**latent, "samples": out}, {**latent, "samples": last.get("denoised", out)}


class KSampler:
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "sample"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": ("MODEL",), "seed": SEED, "steps": STEPS, "cfg": CFG, "sampler_name": (list(SAMPLERS),),
            "scheduler": (list(SCHEDULERS),), "positive": ("CONDITIONING",), "negative": ("CONDITIONING",),
            "latent_image": ("LATENT",), "denoise": DENOISE}}

    def sample(self, model, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image, denoise=1.0):
        sigmas = model_sigmas(model, scheduler, steps, denoise if denoise <= 0.9999 else 1.0)
        guider = Guider(model, positive, negative, cfg)
        return (sample(guider, Noise(seed), named_sampler(sampler_name), sigmas, latent_image)[0],)


class KSamplerAdvanced:
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "sample"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": ("MODEL",), "add_noise": (["enable", "disable"],), "noise_seed": SEED, "steps": STEPS, "cfg": CFG,
            "sampler_name": (list(SAMPLERS),), "scheduler": (list(SCHEDULERS),), "positive": ("CONDITIONING",),
            "negative": ("CONDITIONING",), "latent_image": ("LATENT",),
            "start_at_step": ("INT", {"default": 0, "min": 0, "max": 10000}),
            "end_at_step": ("INT", {"default": 10000, "min": 0, "max": 10000}),
            "return_with_leftover_noise": (["disable", "enable"],)}}

    def sample(self, model, add_noise, noise_seed, steps, cfg, sampler_name, scheduler, positive, negative,
               latent_image, start_at_step, end_at_step, return_with_leftover_noise):
        sigmas = model_sigmas(model, scheduler, steps)
        if end_at_step < len(sigmas) - 1:
            sigmas = sigmas[:end_at_step + 1].clone()
            if return_with_leftover_noise == "disable":
                sigmas[-1] = 0.0
        if start_at_step >= len(sigmas) - 1:
            raise ValueError(f"start_at_step {start_at_step} leaves no step to do before step {len(sigmas) - 1}; "
                             "lower it, or raise steps or end_at_step")
        guider = Guider(model, positive, negative, cfg)
        noise = Noise(noise_seed)
        noise.enabled = add_noise == "enable"
        return (sample(guider, noise, named_sampler(sampler_name), sigmas[start_at_step:], latent_image)[0],)


class KSamplerSelect:
    RETURN_TYPES = ("SAMPLER",)
    FUNCTION = "select"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"sampler_name": (list(SAMPLERS),)}}

    def select(self, sampler_name):
        return (named_sampler(sampler_name),)


class SamplerCustom:
    RETURN_TYPES = ("LATENT", "LATENT")
    RETURN_NAMES = ("output", "denoised_output")
    FUNCTION = "sample"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": ("MODEL",), "add_noise": ("BOOLEAN", {"default": True}), "noise_seed": SEED, "cfg": CFG,
            "positive": ("CONDITIONING",), "negative": ("CONDITIONING",), "sampler": ("SAMPLER",),
            "sigmas": ("SIGMAS",), "latent_image": ("LATENT",)}}

    def sample(self, model, add_noise, noise_seed, cfg, positive, negative, sampler, sigmas, latent_image):
        noise = Noise(noise_seed)
        noise.enabled = add_noise
        return sample(Guider(model, positive, negative, cfg), noise, sampler, sigmas, latent_image)


class SamplerCustomAdvanced:
    RETURN_TYPES = ("LATENT", "LATENT")
    RETURN_NAMES = ("output", "denoised_output")
    FUNCTION = "sample"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"noise": ("NOISE",), "guider": ("GUIDER",), "sampler": ("SAMPLER",),
                             "sigmas": ("SIGMAS",), "latent_image": ("LATENT",)}}

    def sample(self, noise, guider, sampler, sigmas, latent_image):
        return sample(guider, noise, sampler, sigmas, latent_image)


class BasicScheduler:
    RETURN_TYPES = ("SIGMAS",)
    FUNCTION = "get_sigmas"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "scheduler": (list(SCHEDULERS),), "steps": STEPS, "denoise": DENOISE}}

    def get_sigmas(self, model, scheduler, steps, denoise):
        return (model_sigmas(model, scheduler, steps, denoise),)


class RandomNoise:
    RETURN_TYPES = ("NOISE",)
    FUNCTION = "get_noise"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"noise_seed": SEED}}

    def get_noise(self, noise_seed):
        return (Noise(noise_seed),)


class DisableNoise:
    RETURN_TYPES = ("NOISE",)
    FUNCTION = "get_noise"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def get_noise(self):
        return (Noise(None),)


class CFGGuider:
    RETURN_TYPES = ("GUIDER",)
    FUNCTION = "get_guider"

    @classmethod
    def INPUT_TYPES(cls):
        condition = ("CONDITIONING",)
        return {"required": {"model": ("MODEL",), "positive": condition, "negative": condition, "cfg": CFG}}

    def get_guider(self, model, positive, negative, cfg):
        return (Guider(model, positive, negative, cfg),)


class BasicGuider:
    RETURN_TYPES = ("GUIDER",)
    FUNCTION = "get_guider"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "conditioning": ("CONDITIONING",)}}

    def get_guider(self, model, conditioning):
        return (Guider(model, conditioning),)


class SplitSigmas:
    RETURN_TYPES = ("SIGMAS", "SIGMAS")
    RETURN_NAMES = ("high_sigmas", "low_sigmas")
    FUNCTION = "get_sigmas"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"sigmas": ("SIGMAS",), "step": ("INT", {"default": 0, "min": 0, "max": 10000})}}

    def get_sigmas(self, sigmas, step):
        return (sigmas[:step + 1], sigmas[step:])


class FlipSigmas:
    RETURN_TYPES = ("SIGMAS",)
    FUNCTION = "get_sigmas"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"sigmas": ("SIGMAS",)}}

    def get_sigmas(self, sigmas):
        flipped = sigmas.flip(0)
        if len(flipped) and flipped[0] == 0.0:
            flipped[0] = 1e-4  # ComfyUI's own start of an inversion
        return (flipped,)


SAMPLING_NODES = (KSampler, KSamplerAdvanced, KSamplerSelect, SamplerCustom, SamplerCustomAdvanced, BasicScheduler,
                  RandomNoise, DisableNoise, CFGGuider, BasicGuider, SplitSigmas, FlipSigmas)
