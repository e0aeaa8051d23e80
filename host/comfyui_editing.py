"""A run's MODEL under other CONDITIONING, in ComfyUI."""
import inspect

import comfy.model_patcher
import comfy.sampler_helpers
import comfy.samplers

from .comfyui_attention import fresh_conditions
from .comfyui_guidance import fresh_run

_NOT_LOADED = {"control": "a ControlNet", "gligen": "GLIGEN boxes", "hooks": "hooks", "additional_models": "a model"}


def prompting(run, extra_args: dict, positive: list, negative: list | None, cfg: float):
    """denoise(x, sigma (B,)) of the MODEL of a run (a KSamplerX0Inpaint), its mask included, under other CONDITIONING.

    It is a guider of its own: patches and guidance rules hold, with states of their own. Raises ValueError for
    CONDITIONING that brings what only a guider can load.
    """
    outer = run.inner_model
    guider = comfy.samplers.CFGGuider(outer.model_patcher)
    guider.set_conds(positive, negative or [])
    guider.set_cfg(cfg)
    guider.inner_model = outer.inner_model
    conds = {name: entries for name, entries in guider.original_conds.items() if entries}
    for what in {key for entries in conds.values() for entry in entries for key in entry} & set(_NOT_LOADED):
        raise ValueError(f"the source's CONDITIONING brings {_NOT_LOADED[what]}, which only works on the target's; "
                         "take it from a node before that one")
    shapes = {"latent_shapes": [run.noise.shape]} if "latent_shapes" in inspect.signature(
        comfy.samplers.process_conds).parameters else {}
    guider.conds = comfy.samplers.process_conds(
        guider.inner_model, run.noise, conds, run.noise.device, run.latent_image, extra_args.get("denoise_mask"),
        extra_args.get("seed"), **shapes)
    options = comfy.model_patcher.create_model_options_clone(extra_args["model_options"])
    guider.model_options = fresh_conditions(fresh_run(options, guider, run), run.noise)
    own = comfy.samplers.KSamplerX0Inpaint(guider, run.sigmas)
    own.noise, own.latent_image = run.noise, run.latent_image
    return lambda x, sigma: own(x, sigma, **{**extra_args, "model_options": guider.model_options})
