"""Sampler nodes: each builds a SAMPLER from a plan."""
from .. import host
from ..samplers.dpm_solver_pp import plan_dpm_solver_pp
from ..samplers.exponential_adams import plan_exponential_adams
from .inputs import CHOICE, ETA, INT, S_NOISE


class SolverNode:
    """A node whose inputs are exactly the options of PLAN."""
    RETURN_TYPES = ("SAMPLER",)
    OUTPUT_TOOLTIPS = ("Connect to SamplerCustom or SamplerCustomAdvanced.",)
    FUNCTION = "build"
    CATEGORY = "Odeon/samplers/ode"

    def build(self, **options):
        return (host.solver(self.PLAN, **options),)


class OdeonSamplerExponentialAdams(SolverNode):
    TITLE = "Exponential Adams"
    DESCRIPTION = "Multistep solver in log-SNR, order 1 to 4, one model call a step. Order 1 is DDIM."
    SEARCH_ALIASES = ["exponential integrator", "adams bashforth", "multistep", "ddim", "res", "etd"]
    PLAN = staticmethod(plan_exponential_adams)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "order": INT(3, 1, 4, "Past predictions used. 3 suits 10 to 30 steps; 2 is safer at high CFG; 1 is DDIM."),
            "eta": ETA, "s_noise": S_NOISE,
        }}


class OdeonSamplerDPMSolverPP(SolverNode):
    TITLE = "DPM-Solver++"
    DESCRIPTION = "DPM-Solver++ multistep: 2M or 3M, one model call a step, no added noise."
    SEARCH_ALIASES = ["dpmpp", "dpm++", "2m", "3m", "dpm solver", "dpmpp_2m", "cheng lu"]
    PLAN = staticmethod(plan_dpm_solver_pp)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "order": INT(2, 1, 3, "2 is the paper's choice with CFG (2M); 3 (3M) is finer at low CFG; 1 is DDIM."),
            "solver_type": CHOICE(["midpoint", "taylor"], "How order 2 weighs the change since the last step: midpoint "
                                  "is the paper's default (and ComfyUI's dpmpp_2m), taylor the exact integral "
                                  "(ComfyUI's res_multistep)."),
            "lower_order_below": INT(10, 0, 100, "Schedules with fewer steps than this end on lower orders, which "
                                     "keeps few-step pictures stable. 10 is the reference; 0 never (ComfyUI's "
                                     "dpmpp_2m).", advanced=True),
            "third_order_term": CHOICE(["exact", "reference"], "Order 3 only: reference repeats the published code, "
                                       "whose last term is half of what it should be; exact is third order.",
                                       advanced=True),
        }}


NODES = (OdeonSamplerExponentialAdams, OdeonSamplerDPMSolverPP)
