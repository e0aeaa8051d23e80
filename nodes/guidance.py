"""Guidance nodes: each returns the MODEL with one more rule."""
import torch

from .. import host
from ..guidance.carried import Carried
from ..guidance.dynamic_threshold import dynamic_threshold
from ..guidance.mimic import MODES, SPREADS, STARTS, mimic_guidance, place_in, scheduled
from ..guidance.projected import projected_guidance
from ..guidance.rescale import SPACES, rescaled_guidance
from .inputs import BOOLEAN, CHOICE, FLOAT, MODEL


class GuidanceNode:
    """A node that returns the MODEL with one more rule: patch(model, ...)."""
    RETURN_TYPES = ("MODEL",)
    OUTPUT_TOOLTIPS = ("The model with this rule; chain further guidance nodes after it.",)
    FUNCTION = "patch"
    CATEGORY = "Odeon/guidance"


class OdeonAPG(GuidanceNode):
    TITLE = "Adaptive projected guidance"
    DESCRIPTION = "Keeps colours from burning at high CFG by damping the part of guidance that only adds contrast."
    SEARCH_ALIASES = ["apg", "oversaturation", "burnt colours", "high cfg", "sadat", "projected guidance"]
    RULE = staticmethod(projected_guidance)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": MODEL,
            "eta": FLOAT(0.0, -2.0, 2.0, "Share kept of the part along the prediction (contrast, saturation): 0 drops "
                         "it, 1 keeps it as plain CFG does."),
            "norm_threshold": FLOAT(15.0, 0.0, 1000.0, "Longest guidance allowed, 0 for no limit. As a norm: SDXL 15, "
                                    "SD 2.1 7.5, DiT 5, EDM2 2.5."),
            "momentum": FLOAT(-0.5, -1.0, 1.0, "Weight of earlier steps' guidance; negative pushes away from what was "
                              "already followed, 0 is off."),
            "threshold_unit": CHOICE(["norm", "rms"], "Unit of norm_threshold: norm grows with the picture, rms is per "
                                     "number (SDXL at 1024 px: 15 as norm is 0.06 as rms).", advanced=True),
            "axes": CHOICE(["sample", "channel"], "Lengths and projection over the whole picture, or for each latent "
                           "channel on its own.", advanced=True),
        }}

    def patch(self, model, **options):
        def start():
            carried = Carried()

            def rule(cond, uncond, call):
                average = carried.at(call.sigma, torch.zeros_like(cond))
                guided, average = projected_guidance(cond, uncond, average, scale=call.scale, **options)
                carried.keep(average)
                return guided

            return rule

        return (host.patch_guidance(model, start),)


class OdeonDynamicThreshold(GuidanceNode):
    TITLE = "Dynamic thresholding"
    DESCRIPTION = "Pulls predictions back into the range of pictures, each as a whole: for pixel models at high CFG."
    SEARCH_ALIASES = ["imagen", "thresholding", "clip denoised", "oversaturation", "high cfg", "saharia"]
    OUTPUT_TOOLTIPS = ("The model with thresholded predictions, at any CFG.",)
    RULE = staticmethod(dynamic_threshold)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": MODEL,
            "ratio": FLOAT(0.995, 0.0, 1.0, "Share of the prediction's numbers that count as its range; the others are "
                           "cut off.", step=0.001),
            "max_val": FLOAT(1.0, 0.1, 100.0, "Predictions whose range is below this are left alone (at 1)."),
            "channelwise": BOOLEAN(False, "A range for each channel instead of one for the picture.", advanced=True),
            "scale": FLOAT(1.0, 0.01, 100.0, "The value that counts as 1: 1 for pixel models, about 4 for SD latents."),
        }}

    def patch(self, model, **options):
        def start():
            return lambda denoised, call: dynamic_threshold(denoised, **options)

        return (host.patch_prediction(model, start),)


class OdeonCFGRescale(GuidanceNode):
    TITLE = "CFG rescale"
    DESCRIPTION = "Brings guided predictions back to the contrast they have unguided: for v models and high CFG."
    SEARCH_ALIASES = ["rescale cfg", "guidance rescale", "overexposure", "zero terminal snr", "high cfg"]

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": MODEL,
            "phi": FLOAT(0.7, 0.0, 1.0, "Share of the rescaled prediction: 0 is plain CFG, 1 keeps the contrast of the "
                         "prompt alone and may look flat."),
            "space": CHOICE(SPACES, "Where contrast is measured: auto is v, on flow models the velocity. eps is what "
                            "diffusers does on SD1.5 and SDXL: it changes less."),
            "per_channel": BOOLEAN(False, "Each latent channel on its own instead of the whole picture.",
                                   advanced=True),
            "mask_stats": BOOLEAN(False, "With a noise mask: measure only where the picture is made.", advanced=True),
        }}

    def patch(self, model, mask_stats, **options):
        def start():
            return lambda cond, uncond, call: rescaled_guidance(
                cond, uncond, call.x, call.sigma, scale=call.scale, process=call.process,
                mask=call.mask if mask_stats else None, **options)

        return (host.patch_guidance(model, start),)


class OdeonMimicScale(GuidanceNode):
    TITLE = "Mimic scale"
    DESCRIPTION = "Follows the prompt as at a high CFG and keeps the colour range of a low one."
    SEARCH_ALIASES = ["dynamic thresholding", "dynthresh", "cfg fix", "mcmonkey", "burnt colours", "high cfg"]

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": MODEL,
            "mimic_scale": FLOAT(7.0, 0.0, 100.0, "The CFG whose colour range to keep; the sampler's own is what the "
                                 "prompt is followed by.", step=0.1),
            "percentile": FLOAT(1.0, 0.0, 1.0, "Share of the numbers that count as the range, under AD; the others are "
                                "cut off."),
            "mimic_mode": CHOICE(MODES, "How mimic_scale moves from the first step to the last."),
            "mimic_min": FLOAT(0.0, 0.0, 100.0, "The lowest that mimic_mode moves to.", step=0.1),
            "cfg_mode": CHOICE(MODES, "How the sampler's CFG moves from the first step to the last."),
            "cfg_min": FLOAT(0.0, 0.0, 100.0, "The lowest that cfg_mode moves to.", step=0.1),
            "sched_val": FLOAT(1.0, 0.0, 100.0, "The power of the Power modes, the turns of the repeating ones.",
                               advanced=True),
            "separate_channels": BOOLEAN(True, "A range for each latent channel; off: one for the whole picture.",
                                         advanced=True),
            "startpoint": CHOICE(STARTS, "MEAN scales what differs from the mean colour, ZERO the whole prediction.",
                                 advanced=True),
            "variability": CHOICE(SPREADS, "Range as the largest deviation (AD) or the standard deviation (STD).",
                                  advanced=True),
            "phi": FLOAT(1.0, 0.0, 1.0, "Share of the result; the rest is plain CFG."),
        }}

    def patch(self, model, mimic_scale, mimic_mode, mimic_min, cfg_mode, cfg_min, sched_val, **options):
        def start():
            def rule(cond, uncond, call):
                place = place_in(call.sigmas, call.sigma).reshape(-1, *[1] * (cond.ndim - 1))
                scale, mimic = (scheduled(mode, full, low, place, value=sched_val) for mode, full, low in (
                    (cfg_mode, call.scale, cfg_min), (mimic_mode, mimic_scale, mimic_min)))
                return mimic_guidance(cond, uncond, scale=scale, mimic=mimic, **options)

            return rule

        return (host.patch_guidance(model, start),)


NODES = (OdeonAPG, OdeonDynamicThreshold, OdeonCFGRescale, OdeonMimicScale)
