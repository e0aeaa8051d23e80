"""Schedules for reflowed and segmented flows, and for pieces made one after another."""
from .. import host
from ..samplers.ddim import plan_ddim
from ..samplers.process import FLOW
from ..schedules.reflow import KINDS, reflow_sigmas
from ..schedules.segmented import INNER, restart_history, segment_ends, segmented_sigmas
from ..schedules.step_anneal import STRATEGIES, step_anneal_sigmas
from .inputs import CHOICE, FLOAT, INT, SOCKET, STEPS
from .schedules import ScheduleNode
from .schedules_families import RANGE_MODEL, SIGMA_MAX, SIGMA_MIN, RangedNode


class OdeonSigmasReflow(RangedNode):
    TITLE = "Reflow schedule"
    DESCRIPTION = "Steps close together at both ends, noise and picture: for reflowed, nearly straight flow models."
    SEARCH_ALIASES = ["reflow", "rectified flow", "sigmoid", "u shape", "simple reflow", "instaflow"]
    ALONE, PROCESS = (1.0, 0.001), FLOW
    SCHEDULE = staticmethod(reflow_sigmas)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "steps": STEPS,
            "kind": CHOICE(KINDS, "sigmoid and u_shape: dense at both ends. uniform: even in flow time. edm: Karras "
                           "levels in flow form."),
            "kappa": FLOAT(10.0, 0.0, 50.0, "sigmoid: how dense the ends are; 0 is even.", step=0.1),
            "a": FLOAT(4.0, 0.0, 50.0, "u_shape: how dense the ends are; 0 is even.", step=0.1),
            "sigma_max": SIGMA_MAX, "sigma_min": SIGMA_MIN,
        }, "optional": {"model": RANGE_MODEL}}


class OdeonSigmasSegmented(RangedNode):
    TITLE = "Segmented schedule"
    DESCRIPTION = "Equal pieces of flow time, a few steps in each, and a sampler that starts anew in every piece."
    SEARCH_ALIASES = ["seqrf", "sequential reflow", "piecewise", "segments", "restart history", "perflow"]
    RETURN_TYPES = ("SIGMAS", "SAMPLER")
    OUTPUT_TOOLTIPS = ("Noise levels from high to low: segments times substeps steps.",
                       "The sampler, forgetting its past predictions where a piece ends; Euler if none came in.")
    ALONE, PROCESS = (1.0, 0.001), FLOW
    SCHEDULE = staticmethod(segmented_sigmas)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "segments": INT(4, 1, 1000, "Pieces of equal flow time; as many as the model was straightened in."),
            "substeps": INT(1, 1, 1000, "Steps in each piece; 1 is enough where it is straight."),
            "inner": CHOICE(INNER, "How a piece is divided: evenly, as Karras, or evenly in log sigma."),
            "sigma_max": SIGMA_MAX, "sigma_min": SIGMA_MIN,
        }, "optional": {
            "model": RANGE_MODEL,
            "sampler": SOCKET("SAMPLER", "One of Odeon's that takes its steps from the schedule."),
        }}

    def build(self, segments, sampler=None, **options):
        given = self.spanned(**options)
        ends = segment_ends(segments, sigma_max=given["sigma_max"], process=given["process"])
        restarted = host.replanned(sampler or host.solver(plan_ddim), restart_history, at=ends[1:-1])
        return self.SCHEDULE(segments, **given).float(), restarted


class OdeonSigmasStepAnneal(ScheduleNode):
    TITLE = "Step annealing"
    DESCRIPTION = "DiSA: fewer steps for later frames, tiles or chunks, which the earlier ones leave less open."
    SEARCH_ALIASES = ["disa", "diffusion step annealing", "video extension", "tiles", "chunks", "outpainting"]
    RETURN_TYPES = ("SIGMAS", "INT")
    RETURN_NAMES = ("sigmas", "steps")
    OUTPUT_TOOLTIPS = ("The schedule for this piece.", "Its number of steps.")
    SCHEDULE = staticmethod(step_anneal_sigmas)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "sigmas": SOCKET("SIGMAS", "The schedule to shorten: its range and shape are kept."),
            "segments": INT(8, 1, 100000, "Frames, tiles or chunks that are made one after another."),
            "index": INT(0, 0, 99999, "Which of them this is, from 0."),
            "upper": INT(50, 1, 10000, "Steps for the first one."),
            "lower": INT(5, 1, 10000, "Steps for the last one."),
            "strategy": CHOICE(STRATEGIES, "How steps fall: evenly, as a cosine, at once after half of them, or lower "
                               "for all."),
        }}

    def build(self, sigmas, **options):
        shortened = self.SCHEDULE(sigmas.tolist(), **options).float()
        return shortened, len(shortened) - 1


NODES = (OdeonSigmasReflow, OdeonSigmasSegmented, OdeonSigmasStepAnneal)
