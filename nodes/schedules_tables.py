"""Schedules from published lists."""
from ..schedules.gits_table import gits_sigmas
from ..schedules.oss_table import TABLES, oss_sigmas
from ..schedules.tables import ENDS
from .inputs import CHOICE, DENOISE, FLOAT, INT, STEPS
from .schedules import ScheduleNode

END = CHOICE(ENDS, "zero: the list's last level becomes 0 (as ComfyUI's node). append_zero: one more step from it to "
                   "0. sigma_min: stop there.", advanced=True)


class OdeonSigmasOSSTable(ScheduleNode):
    TITLE = "OSS table"
    DESCRIPTION = "The schedules that Optimal Stepsize published for Flux, Wan and Chroma."
    SEARCH_ALIASES = ["optimal steps", "optimalsteps", "optimal stepsize", "oss", "flux schedule", "wan schedule"]
    SCHEDULE = staticmethod(oss_sigmas)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "steps": INT(20, 1, 10000, STEPS[1]["tooltip"] + " Made for 10 (FLUX), 20 (Wan), 40 (Chroma)."),
            "table": CHOICE(TABLES, "The model the levels were made for."),
            "denoise": DENOISE, "end": END,
        }}


class OdeonSigmasGITSTable(ScheduleNode):
    TITLE = "GITS table"
    DESCRIPTION = "The schedules that GITS published for Stable Diffusion 1.5, for 2 to 20 steps."
    SEARCH_ALIASES = ["gits", "trajectory regularity", "few steps", "coeff"]
    SCHEDULE = staticmethod(gits_sigmas)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "steps": STEPS,
            "coeff": FLOAT(1.2, 0.8, 1.5, "Higher spends more steps on low noise (fine detail); 1.2 is the authors' "
                                          "choice.", step=0.05),
            "denoise": DENOISE, "end": END,
        }}


NODES = (OdeonSigmasOSSTable, OdeonSigmasGITSTable)
