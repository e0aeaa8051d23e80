"""ComfyUI's side of the seam: samplers, models and patches made of ComfyUI's own classes."""
import math
import os
import time
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.sample
import comfy.samplers
import comfy.utils
import torch

from ..measure.plot import draw_lines
from ..samplers.process import FLOW, VE, Process
from .comfyui_attention import (
    adapter_places,
    attention_layers,
    levels_of_skips,
    network_of,
    own_attention,
    patch_conditions,
    patch_control,
)
from .comfyui_editing import prompting
from .comfyui_guidance import patch_evaluation, patch_guidance, patch_prediction, patch_scale, with_model
from .comfyui_levels import as_latent, colours_of, levels_of, of_latent, predicts_eps, relabel, with_table
from .common import Solver, clock_of
from .denoiser import smooth
from .inverting import upward
from .measuring import Measuring, fingerprint
from .sampling import Sampling

__all__ = ["adapter_places", "as_latent", "attention_layers", "colours_of", "folder", "identity", "inverter",
           "levels_of", "levels_of_skips", "make_clip", "make_model", "make_network", "make_vae", "measured",
           "network_of", "noise", "of_latent", "own_attention", "patch_conditions", "patch_control",
           "patch_evaluation", "patch_guidance", "patch_prediction", "patch_scale", "patches_of", "predicts_eps",
           "process_of", "relabel", "sampled", "sampler", "solver", "with_model", "with_table"]


def solver(plan_fn, **options):
    """A SAMPLER that runs the plan of plan_fn(sigmas, process=..., **options)."""
    return comfy.samplers.KSAMPLER(Solver(plan_fn, options, process_of=process_of, table_of=_table_of))


def sampler(sample_fn, **options):
    """A SAMPLER that runs sample_fn(model, x, sigmas, process=..., callback=..., **options), which picks its steps."""
    return comfy.samplers.KSAMPLER(_sampling(sample_fn, options))


def inverter(sample_fn, **options):
    """A sampler() that runs up rising sigmas, from a clean LATENT to its noise; see upward."""
    class Inverter(comfy.samplers.KSAMPLER):
        def sample(self, model_wrap, sigmas, *args, **kwargs):
            return super().sample(model_wrap, upward(sigmas, process_of(model_wrap.model_patcher)), *args, **kwargs)

    return Inverter(_sampling(sample_fn, options))


def _sampling(sample_fn, options: dict) -> Sampling:
    return Sampling(sample_fn, options, process_of=process_of, table_of=_table_of, identity_of=identity,
                    prompting=prompting, weights_of=lambda model: model.model.diffusion_model,
                    interruptions=(comfy.model_management.InterruptProcessingException,))


def sampled(model, positive, negative, cfg: float, *, sampler, sigmas, latent: dict, seed: int) -> torch.Tensor:
    """The samples that SamplerCustom would give with noise of that seed, for a LATENT whose mask is left out."""
    import latent_preview

    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
    return comfy.sample.sample_custom(model, noise, cfg, sampler, sigmas, positive, negative, samples,
                                      callback=latent_preview.prepare_callback(model, len(sigmas) - 1),
                                      disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=seed)


def process_of(model) -> Process:
    """VE or FLOW, by what the MODEL predicts."""
    flow = isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.CONST)
    return FLOW if flow else VE


def _table_of(model) -> torch.Tensor:
    return levels_of(model).sigmas


def noise(seed: int, change):
    """A NOISE: change(the unit noise (B, ...) of that seed)."""
    class Changed:
        def __init__(self):
            self.seed = seed

        def generate_noise(self, latent: dict) -> torch.Tensor:
            return change(comfy.sample.prepare_noise(latent["samples"], seed, latent.get("batch_index")))

    return Changed()


def folder(kind: str) -> Path:
    """Where files of a kind live: in $ODEON_FOLDER, else in models/odeon, and odeon_schedules in models itself."""
    import folder_paths

    models = Path(folder_paths.models_dir)
    return Path(os.environ.get("ODEON_FOLDER") or (models if kind.startswith("odeon_") else models / "odeon")) / kind


def identity(model) -> str:
    """A name for the weights of a MODEL, whatever patches it has."""
    stem = "diffusion_model."
    originals = {name.removeprefix(stem): getattr(kept, "weight", kept) for name, kept in model.backup.items()}
    return fingerprint(model.model.diffusion_model, originals)


def patches_of(model) -> list:
    """What changes a MODEL: weights (LoRAs) by names and strengths, and its options."""
    weights = [[name, [patch[0] for patch in patches]] for name, patches in sorted(model.patches.items())]
    return [weights, model.model_options, model.object_patches]


class _Prompts(comfy.samplers.CFGGuider):
    """A CFGGuider that can take the entries of its positive one at a time."""

    def set_each(self, positive: list, negative: list) -> None:
        self.inner_set_conds({"positive": positive[:1], "negative": negative,
                              **{f"positive {i}": [entry] for i, entry in enumerate(positive)}})

    def choose(self, prompt: int) -> None:
        self.conds["positive"] = self.conds[f"positive {prompt}"]


def measured(model, positive, negative, cfg: float, *, latent: dict, count: int, sigmas, seed: int, each: bool,
             gradients: bool, told: bool, **measuring) -> Measuring:
    """Runs a measurement (see Measuring) on `count` pictures of the latent's size, guided as a KSampler would."""
    import latent_preview

    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])[:1]
    start = comfy.sample.prepare_noise(samples.expand(count, *samples.shape[1:]), seed)
    show = _Shown(latent_preview.prepare_callback(model, measuring["cost"]), measuring["cost"])
    sampling = None
    if gradients or told:
        model, sampling = model.clone(), smooth(model.get_model_object("model_sampling"))
        model.add_object_patch("model_sampling", sampling)
    guider = _Prompts(model)
    guider.set_cfg(cfg)
    one_by_one = each and len(positive) > 1
    (guider.set_each if one_by_one else guider.set_conds)(positive, negative)
    task = Measuring(report=show, process_of=process_of, sampling=sampling,
                     clock_of=lambda model: clock_of(process_of(model), _table_of(model)),
                     weights_of=(lambda model: model.model.diffusion_model) if gradients else None,
                     prompts=len(positive) if one_by_one else 1, choose=guider.choose if one_by_one else None,
                     check=comfy.model_management.throw_exception_if_processing_interrupted, **measuring)
    guider.sample(start, torch.zeros_like(start), comfy.samplers.KSAMPLER(task), sigmas, disable_pbar=True, seed=seed)
    return task


class _Shown:
    """Progress on the node: the curve of what is being learned, or a preview of the pictures."""

    def __init__(self, show, total: int):
        self.show, self.bar, self.drawn_at = show, comfy.utils.ProgressBar(total), 0.0

    def __call__(self, progress) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        picture, now = None, time.monotonic()
        if len(progress.losses) > 1 and now - self.drawn_at > 2.0:
            from PIL import Image

            curve = draw_lines({"": list(enumerate(progress.losses))}, title="distance to the teacher", log=True)
            picture, self.drawn_at = ("PNG", Image.fromarray((curve[0] * 255.0).byte().numpy()), 512), now
        if progress.preview is not None and not progress.losses:
            self.show(progress.done - 1, progress.preview, None, progress.total)
        else:
            self.bar.update_absolute(progress.done, progress.total, picture)


def make_model(network, *, prediction: str, levels, channels: int, rgb_factors: list[list[float]]):
    """A MODEL (ModelPatcher) around a network; prediction: 'eps', 'v' or 'flow'; latents have `channels`."""
    base = _base_model({"disable_unet_model_creation": True, "dtype": torch.float32}, prediction=prediction,
                       levels=levels, channels=channels, rgb_factors=rgb_factors, rgb_bias=[0.0, 0.0, 0.0])
    if prediction != "flow":
        base.model_sampling = _with_timesteps_of(base.model_sampling, levels)
    base.diffusion_model = network.to(base.device)
    return _patcher(base)


def make_network(config: dict, weights: dict, *, prediction: str, levels, rgb_factors: list[list[float]],
                 rgb_bias: list[float]):
    """A MODEL around ComfyUI's own network with the Shapes weights, in the precision ComfyUI chooses.

    Flux if config has an image_model, UNetModel otherwise.
    """
    device = comfy.model_management.get_torch_device()
    precisions = [torch.float16, torch.bfloat16, torch.float32]
    dtype = comfy.model_management.unet_dtype(model_params=sum(value.numel() for value in weights.values()),
                                              supported_dtypes=precisions)
    manual_cast = comfy.model_management.unet_manual_cast(dtype, device, precisions)
    base = _base_model({**config, "dtype": dtype}, prediction=prediction, levels=levels, channels=4,
                       rgb_factors=rgb_factors, rgb_bias=rgb_bias, manual_cast=manual_cast)
    base.diffusion_model.load_state_dict(weights)
    return _patcher(base)


def _base_model(unet_config: dict, *, prediction: str, levels, channels: int, rgb_factors: list, rgb_bias: list,
                manual_cast: torch.dtype | None = None):
    """ComfyUI's BaseModel for a prediction type and latents of `channels`."""
    import comfy.latent_formats
    import comfy.model_base
    import comfy.supported_models_base

    class LatentFormat(comfy.latent_formats.LatentFormat):
        latent_channels = channels
        latent_rgb_factors = rgb_factors
        latent_rgb_factors_bias = rgb_bias

    class Config(comfy.supported_models_base.BASE):
        unet_extra_config = {}
        latent_format = LatentFormat
        memory_usage_factor = 1.0
        manual_cast_dtype = manual_cast
        sampling_settings = {}

    kinds, base = comfy.model_base.ModelType, comfy.model_base.BaseModel
    kind = {"eps": kinds.EPS, "v": kinds.V_PREDICTION, "flow": kinds.FLOW}[prediction]
    if "image_model" in unet_config:
        import comfy.ldm.flux.model

        base, kind = comfy.model_base.Flux, kinds.FLUX
        if "txt_ids_dims" in comfy.ldm.flux.model.FluxParams.__annotations__:  # since ComfyUI 0.6
            unet_config = {**unet_config, "txt_ids_dims": []}
        Config.sampling_settings = {"shift": math.log(levels.shift)}
    elif prediction == "flow":
        Config.sampling_settings = {"shift": levels.shift}
    elif levels is not None and levels.zero_terminal:
        Config.sampling_settings = {"zsnr": True}
    return base(Config(unet_config), model_type=kind, device=comfy.model_management.unet_offload_device()).eval()


def _patcher(base):
    return comfy.model_patcher.ModelPatcher(base, load_device=comfy.model_management.get_torch_device(),
                                            offload_device=comfy.model_management.unet_offload_device())


def _with_timesteps_of(sampling, levels):
    """The same model_sampling, its timesteps fractional instead of rounded to the table's nearest point."""
    class Fractional(type(sampling)):
        def timestep(self, sigma):
            return levels.timestep(sigma)

    sampling.__class__ = Fractional
    return sampling


def make_clip(tokenizer, encoder):
    """A CLIP from a tokenizer and a text encoder module."""
    import comfy.sd
    import comfy.supported_models_base

    target = comfy.supported_models_base.ClipTarget(lambda **_: tokenizer, lambda **_: encoder)
    return comfy.sd.CLIP(target)


def make_vae(codec, *, ratio: int):
    """A VAE from a codec module (pictures in [-1, 1], `ratio` pixels a latent place).

    ComfyUI's own pixel-space VAE with the codec in place of its identity: every attribute that nodes of any
    version read is set by ComfyUI itself.
    """
    import comfy.sd

    vae = comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)}, dtype=torch.float32)
    vae.first_stage_model = codec.eval().to(vae.device)
    vae.patcher = comfy.model_patcher.ModelPatcher(
        codec, load_device=vae.device, offload_device=comfy.model_management.vae_offload_device())
    vae.latent_channels = codec.channels
    vae.downscale_ratio = vae.upscale_ratio = ratio
    return vae
