"""A stranger's pack, as many are: at import it adds sampler names and puts itself round ComfyUI's own functions; its
node patches models. What it does changes no number, so that whatever else differs is our doing."""
import functools

import comfy.k_diffusion.sampling as k_sampling
import comfy.samplers

CALLS = {"post_cfg": 0, "wrapper": 0, "predict_noise": 0, "calc_cond_batch": 0, "sampler": 0}


def counted(key, function):
    """The function, told of each call in CALLS."""
    @functools.wraps(function)
    def inner(*args, **kwargs):
        CALLS[key] += 1
        return function(*args, **kwargs)

    return inner


def sample_stray(model, x, sigmas, extra_args=None, callback=None, disable=None, **_):
    return k_sampling.sample_euler(model, x, sigmas, extra_args=extra_args, callback=callback, disable=disable)


def add_names():
    for names in (comfy.samplers.KSAMPLER_NAMES, comfy.samplers.SAMPLER_NAMES):
        if "stray" not in names:
            names.append("stray")
    k_sampling.sample_stray = sample_stray


def wrap_core():
    comfy.samplers.calc_cond_batch = counted("calc_cond_batch", comfy.samplers.calc_cond_batch)
    guider = comfy.samplers.CFGGuider
    guider.predict_noise = counted("predict_noise", guider.predict_noise)


def patched(model):
    """A clone of a MODEL with a post-CFG function and a wrapper round its network, which give back what they get."""
    model = model.clone()
    model.set_model_sampler_post_cfg_function(counted("post_cfg", lambda args: args["denoised"]))
    model.set_model_unet_function_wrapper(
        counted("wrapper", lambda apply, args: apply(args["input"], args["timestep"], **args["c"])))
    return model


def patch_every_run():
    """As packs do that want no node: from now on every guider is made with a patched model."""
    guider = comfy.samplers.CFGGuider
    made = guider.__init__

    @functools.wraps(made)
    def __init__(self, model_patcher, *args, **kwargs):
        made(self, patched(model_patcher), *args, **kwargs)

    guider.__init__ = __init__


class StrayPatch:
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "stray"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def patch(self, model):
        return (patched(model),)


NODE_CLASS_MAPPINGS = {"StrayPatch": StrayPatch}
add_names()
wrap_core()
