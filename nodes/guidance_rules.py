"""Guidance nodes about when and against what to guide: intervals, schedules, frequencies, other models."""
import torch

from .. import host
from ..guidance.autoguidance import auto_guidance
from ..guidance.carried import Carried
from ..guidance.frequency import frequency_guidance
from ..guidance.momentum import momentum_guidance
from ..guidance.scale_schedule import CURVES, UNITS, edm_sigma, interval_scale, numbers_of, points_of, scheduled_scale
from ..guidance.zero_star import zero_star_guidance
from ..samplers.process import FLOW
from .guidance import GuidanceNode
from .inputs import CHOICE, FLOAT, INT, MODEL, SOCKET

SIGMA_LO = FLOAT(0.28, 0.0, 1000.0, "Guidance ends below this noise level; 0 goes to the end. As sigma_hi.")


class OdeonGuidanceInterval(GuidanceNode):
    TITLE = "Guidance interval"
    DESCRIPTION = "Guides only at the noise levels where it helps: more variety, cleaner detail, fewer model calls."
    SEARCH_ALIASES = ["limited interval", "cfg interval", "skip cfg", "faster", "variety", "kynkaanniemi"]
    OUTPUT_TOOLTIPS = ("The model with its CFG limited; the log tells how many evaluations were saved.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": MODEL,
            "sigma_hi": FLOAT(5.42, -1.0, 1000.0, "Guidance starts at this noise level, -1 from the start. SDXL 5.42, "
                              "EDM2 2.9; on flow models the same numbers, meaning t = sigma / (1 + sigma)."),
            "sigma_lo": SIGMA_LO,
            "outside_scale": FLOAT(1.0, 0.0, 100.0, "The CFG elsewhere; at 1 the negative isn't evaluated there, which "
                                   "saves half of the work.", step=0.1),
            "curve": CHOICE(CURVES, "Inside: constant, or rising from outside_scale to the sampler's CFG, or by the "
                            "table."),
            "table": ("STRING", {"default": "", "tooltip": "For curve table: factors on the CFG, evenly placed from "
                                 "sigma_hi to sigma_lo, such as 0.3, 1, 0.5."}),
        }}

    def patch(self, model, **options):
        if options["curve"] == "table":
            numbers_of(options["table"])
        interval_scale(1.0, 1.0, **options)  # says now what is wrong with the numbers
        flow = host.process_of(model) is FLOW

        def start():
            return lambda scale, sigma: interval_scale(scale, edm_sigma(sigma, flow), **options)

        return (host.patch_scale(model, start),)


class OdeonScaleSchedule(GuidanceNode):
    TITLE = "CFG schedule"
    DESCRIPTION = "Any CFG at any noise level, for the sampler and every node that reads it."
    SEARCH_ALIASES = ["cfg schedule", "guidance schedule", "dynamic cfg", "scheduled cfg", "cfg curve"]
    OUTPUT_TOOLTIPS = ("The model with its CFG scheduled; where it is 1 the negative isn't evaluated.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": MODEL,
            "table": ("STRING", {"default": "10: 0.5, 2: 1, 0.3: 0.5", "multiline": True, "tooltip":
                                 "sigma: value, highest sigma first; between two it moves evenly in log sigma. On flow "
                                 "models sigma stands for t = sigma / (1 + sigma)."}),
            "unit": CHOICE(UNITS, "Values as factors on the sampler's CFG, or as the CFG itself. Without effect where "
                           "the sampler's CFG is 1."),
        }}

    def patch(self, model, table, unit):
        points, flow = points_of(table), host.process_of(model) is FLOW

        def start():
            return lambda scale, sigma: scheduled_scale(scale, edm_sigma(sigma, flow), points, unit=unit)

        return (host.patch_scale(model, start),)


class OdeonCFGZeroStar(GuidanceNode):
    TITLE = "CFG-Zero*"
    DESCRIPTION = "Guidance for flow models: fits the negative to the prompt before pushing away, and waits a step."
    SEARCH_ALIASES = ["cfg zero star", "cfg-zero", "flow matching", "zero init", "flux", "sd3", "wan"]

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": MODEL,
            "zero_init_steps": INT(1, 0, 20, "So many first steps stand still: about 4 % of the steps. Only in runs "
                                   "from pure noise; 0 for few-step schedules."),
        }}

    def patch(self, model, zero_init_steps):
        top = float(host.levels_of(model).sigma_max)

        def start():
            def rule(cond, uncond, call):
                guided = zero_star_guidance(cond, uncond, call.x, call.sigma, scale=call.scale)
                if zero_init_steps == 0 or not call.sigmas or call.sigmas[0] < 0.99 * top:
                    return guided
                moving = call.sigmas[min(zero_init_steps, len(call.sigmas) - 1)]
                still = call.sigma.reshape(-1, *[1] * (cond.ndim - 1)) > moving * (1.0 + 1e-6)
                return torch.where(still, call.x, guided)

            return rule

        return (host.patch_guidance(model, start),)


class OdeonFDG(GuidanceNode):
    TITLE = "Frequency-decoupled guidance"
    DESCRIPTION = "One CFG for composition and colour, another for fine detail: sharp at high CFG without burning."
    SEARCH_ALIASES = ["fdg", "frequency guidance", "laplacian pyramid", "detail", "high cfg", "sadat"]

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": MODEL,
            "w_high": FLOAT(10.0, 0.0, 100.0, "CFG of the finest detail; 0 takes the sampler's. SDXL 10 to 12.",
                            step=0.1),
            "w_low": FLOAT(0.0, 0.0, 100.0, "CFG of the coarsest structure; 0 takes the sampler's. SDXL 5.",
                           step=0.1),
            "levels": INT(2, 2, 6, "Sizes of structure told apart, each half as fine as the one before; between the "
                          "finest and the coarsest the CFG moves evenly."),
            "parallel_high": FLOAT(1.0, 0.0, 1.0, "Share kept of the part along the prediction in the finest detail; 0 "
                                   "drops it, as APG does.", advanced=True),
            "parallel_low": FLOAT(1.0, 0.0, 1.0, "The same in the coarsest structure.", advanced=True),
        }}

    def patch(self, model, w_high, w_low, levels, parallel_high, parallel_low):
        def start():
            def rule(cond, uncond, call):
                scales = _even(w_high or call.scale, w_low or call.scale, levels)
                return frequency_guidance(cond, uncond, scales=scales,
                                          parallel=_even(parallel_high, parallel_low, levels))

            return rule

        return (host.patch_guidance(model, start),)


def _even(first: float, last: float, count: int) -> list[float]:
    return [first + (last - first) * i / (count - 1) for i in range(count)]


class OdeonMomentumGuidance(GuidanceNode):
    TITLE = "Momentum guidance"
    DESCRIPTION = "Pushes each prediction on from where it was in earlier steps: stronger pictures, no model call."
    SEARCH_ALIASES = ["momentum", "extrapolation", "free guidance", "cfg 1"]
    OUTPUT_TOOLTIPS = ("The model with this rule, at any CFG.",)
    RULE = staticmethod(momentum_guidance)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": MODEL,
            "strength": FLOAT(0.5, -2.0, 2.0, "How far to push; 0 is off."),
            "decay": FLOAT(0.6, 0.0, 0.99, "How long earlier steps count: 0 compares with the last step alone."),
        }}

    def patch(self, model, **options):
        def start():
            carried = Carried()

            def change(denoised, call):
                pushed, average = momentum_guidance(denoised, carried.at(call.sigma, denoised), **options)
                carried.keep(average)
                return pushed

            return change

        return (host.patch_prediction(model, start),)


class OdeonAutoGuidance(GuidanceNode):
    TITLE = "Autoguidance"
    DESCRIPTION = "Guides a model away from a worse version of itself: better pictures without losing variety."
    SEARCH_ALIASES = ["autoguidance", "bad model", "weak model", "guide with a bad version", "karras"]
    OUTPUT_TOOLTIPS = ("The model with both loaded, at any CFG; at CFG 1 it is autoguidance alone.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": MODEL,
            "bad_model": SOCKET("MODEL", "The worse one: smaller, less trained, an earlier checkpoint, of the same "
                                "family. Its attention patches count, its guidance nodes don't."),
            "weight": FLOAT(2.0, 0.0, 20.0, "How far from the worse one: 1 is off."),
            "sigma_hi": FLOAT(-1.0, -1.0, 1000.0, "Only below this noise level, -1 from the start; on flow models "
                              "sigma stands for t = sigma / (1 + sigma)."),
            "sigma_lo": FLOAT(0.0, 0.0, 1000.0, "Only above this noise level; 0 goes to the end."),
        }, "optional": {
            "bad_positive": SOCKET("CONDITIONING", "The prompt in the worse model's own words, where it has another "
                                   "text encoder; else the sampler's."),
        }}

    def patch(self, model, bad_model, weight, sigma_hi, sigma_lo, bad_positive=None):
        patched, beside = host.with_model(model, bad_model, bad_positive)
        flow, limited = host.process_of(model) is FLOW, sigma_hi >= 0.0 or sigma_lo > 0.0
        limits = {"sigma_hi": sigma_hi, "sigma_lo": sigma_lo, "outside_scale": 1.0}
        interval_scale(1.0, 1.0, **limits)  # says now what is wrong with the numbers

        def start():
            def change(denoised, call):
                level = edm_sigma(float(call.sigma[0]), flow) if limited else 1.0
                here = interval_scale(weight, level, **limits) if limited else weight
                if here == 1.0:
                    return denoised
                bad, = call.predict("cond", model=beside)
                return auto_guidance(denoised, call.cond, bad, weight=here)

            return change

        return (host.patch_prediction(patched, start),)


NODES = (OdeonGuidanceInterval, OdeonScaleSchedule, OdeonCFGZeroStar, OdeonFDG, OdeonMomentumGuidance,
         OdeonAutoGuidance)
