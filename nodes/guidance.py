"""Guidance nodes: each returns the MODEL with one more rule."""
from functools import partial

from .. import host
from ..guidance.dynamic_threshold import dynamic_threshold
from ..guidance.projected import projected_guidance
from .inputs import BOOLEAN, CHOICE, FLOAT, MODEL


class OdeonAPG:
    TITLE = "Adaptive projected guidance"
    DESCRIPTION = "Keeps colours from burning at high CFG by damping the part of guidance that only adds contrast."
    SEARCH_ALIASES = ["apg", "oversaturation", "burnt colours", "high cfg", "sadat", "projected guidance"]
    RETURN_TYPES = ("MODEL",)
    OUTPUT_TOOLTIPS = ("The model with this rule; chain further guidance nodes after it.",)
    FUNCTION = "patch"
    CATEGORY = "Odeon/guidance"
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
            average = None

            def rule(cond, uncond, *, scale, sigma):
                nonlocal average
                guided, average = projected_guidance(cond, uncond, average, scale=scale, **options)
                return guided

            return rule

        return (host.patch_guidance(model, start),)


class OdeonDynamicThreshold:
    TITLE = "Dynamic thresholding"
    DESCRIPTION = "Pulls predictions back into the range of pictures, each as a whole: for pixel models at high CFG."
    SEARCH_ALIASES = ["imagen", "thresholding", "clip denoised", "oversaturation", "high cfg", "saharia"]
    RETURN_TYPES = ("MODEL",)
    OUTPUT_TOOLTIPS = ("The model with thresholded predictions, at any CFG.",)
    FUNCTION = "patch"
    CATEGORY = "Odeon/guidance"
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
        threshold = partial(dynamic_threshold, **options)
        return (host.patch_prediction(model, lambda denoised, sigma: threshold(denoised)),)


NODES = (OdeonAPG, OdeonDynamicThreshold)
