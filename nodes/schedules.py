"""Schedule nodes: each gives SIGMAS from a pure function."""
from ..schedules.align_your_steps import TABLES, align_your_steps_sigmas
from ..schedules.power import power_sigmas
from .inputs import CHOICE, DENOISE, FLOAT, STEPS


class ScheduleNode:
    """A node whose inputs are exactly the options of SCHEDULE."""
    RETURN_TYPES = ("SIGMAS",)
    OUTPUT_TOOLTIPS = ("Noise levels from high to low, one more than steps.",)
    FUNCTION = "build"
    CATEGORY = "Odeon/schedules"

    def build(self, **options):
        return (self.SCHEDULE(**options).float(),)


class OdeonSigmasPower(ScheduleNode):
    TITLE = "Power schedule"
    DESCRIPTION = "Levels evenly spaced in a power of sigma: rho 7 is Karras (EDM), 1 is linear."
    SEARCH_ALIASES = ["karras", "edm", "rho", "sigmas", "polynomial"]
    SCHEDULE = staticmethod(power_sigmas)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "steps": STEPS,
            "sigma_max": FLOAT(14.614642, 0.0001, 5000.0, "Noise level to start from. SD and SDXL 14.6146, flow models "
                               "(Flux, SD3) 1, SVD 700.", step=0.000001),
            "sigma_min": FLOAT(0.0291675, 0.0001, 5000.0, "Last level before 0. SD and SDXL 0.0292, flow models about "
                               "0.01.", step=0.0000001),
            "rho": FLOAT(7.0, 0.1, 100.0, "Higher spends more steps on low noise (fine detail): 1 is even, 7 usual.",
                         step=0.0001),
        }}


class OdeonSigmasAlignYourSteps(ScheduleNode):
    TITLE = "Align Your Steps"
    DESCRIPTION = "The published schedules optimized for SD1.5, SDXL, DeepFloyd-IF and SVD; best at 10 steps."
    SEARCH_ALIASES = ["ays", "nvidia", "optimized schedule", "sabour", "10 steps"]
    SCHEDULE = staticmethod(align_your_steps_sigmas)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "steps": STEPS,
            "table": CHOICE(TABLES, "The model the levels were made for."),
            "denoise": DENOISE,
            "end": CHOICE(["zero", "append_zero", "sigma_min"], "zero: the last level becomes 0 (as ComfyUI's node). "
                          "append_zero: one more step from it to 0, as the paper measured. sigma_min: stop there."),
        }}


NODES = (OdeonSigmasPower, OdeonSigmasAlignYourSteps)
