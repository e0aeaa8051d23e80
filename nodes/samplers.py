"""Samplers that integrate exactly in log-SNR, and their corrector; the base of all sampler nodes."""
from .. import host
from ..samplers.corrector import VARIANTS, add_corrector
from ..samplers.dpm_solver import ENDS, METHODS, plan_dpm_solver
from ..samplers.dpm_solver_pp import plan_dpm_solver_pp
from ..samplers.dpm_solver_pp_sde import METHODS as SDE_METHODS
from ..samplers.dpm_solver_pp_sde import plan_dpm_solver_pp_sde
from ..samplers.dual_fast import ANCHORS, dual_fast
from ..samplers.exponential_adams import plan_exponential_adams
from ..samplers.jump import jump
from ..samplers.unipc import plan_unipc
from .inputs import BOOLEAN, CHOICE, ETA, FLOAT, INT, LAMBDA_MODE, S_NOISE, SOCKET

METHOD_TIP = ("multistep: one model call a step, from the last steps' predictions. singlestep: `order` calls in "
              "every step. "
              "grouped: one call for each interval of the schedule, `order` of them make a step. fast: as grouped, on "
              "levels of its own.")
THIRD_ORDER_TERM = CHOICE(["exact", "reference"], "Order 3 multistep only: reference repeats the published code, "
                                                  "whose last "
                          "term is half of what it should be; exact is third order.", advanced=True)
R1 = FLOAT(0.0, 0.0, 0.99, "Where singlestep first calls the model inside a step, as a share of the step in log-SNR; "
                           "0 is the "
           "paper's 1/2 (order 2) or 1/3.", advanced=True)
R2 = FLOAT(0.0, 0.0, 0.99, "Where order 3 singlestep calls it again; 0 is 2/3.", advanced=True)


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
        }, "optional": {"lambda_mode": LAMBDA_MODE}}


class OdeonSamplerDPMSolverPP(SolverNode):
    TITLE = "DPM-Solver++"
    DESCRIPTION = "DPM-Solver++ of order 1 to 3, multistep (2M, 3M) or singlestep (2S, 3S), no added noise."
    SEARCH_ALIASES = ["dpmpp", "dpm++", "2m", "3m", "2s", "dpm solver", "dpmpp_2m", "cheng lu"]
    PLAN = staticmethod(plan_dpm_solver_pp)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "order": INT(2, 1, 3, "2 is the paper's choice with CFG (2M); 3 (3M) is finer at low CFG; 1 is DDIM."),
            "solver_type": CHOICE(["midpoint", "taylor", "midpoint_stages"], "How order 2 weighs the change since the "
                                  "last step: midpoint is the paper's default (and ComfyUI's dpmpp_2m), taylor the "
                                  "exact integral (ComfyUI's res_multistep). midpoint_stages: inside a step of order 3 "
                                  "(3S) too, steadier at few steps."),
            "lower_order_below": INT(10, 0, 100, "Schedules with fewer steps than this end on lower orders, which "
                                     "keeps few-step pictures stable. 10 is the reference; 0 never (ComfyUI's "
                                     "dpmpp_2m).", advanced=True),
            "third_order_term": THIRD_ORDER_TERM,
        }, "optional": {  # later than the rest: prompts saved before have none of these
            "method": CHOICE(METHODS, METHOD_TIP), "r1": R1, "r2": R2, "lambda_mode": LAMBDA_MODE,
        }}


class OdeonSamplerDPMSolverPPSDE(SolverNode):
    TITLE = "SDE-DPM-Solver++"
    DESCRIPTION = "DPM-Solver++ with fresh noise in every step, order 1 to 3: corrects errors, at 15 steps or more."
    SEARCH_ALIASES = ["dpmpp sde", "dpmpp_2m_sde", "dpmpp_3m_sde", "dpmpp_2s_ancestral", "dpm++ sde", "stochastic"]
    CATEGORY = "Odeon/samplers/stochastic"
    PLAN = staticmethod(plan_dpm_solver_pp_sde)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "order": INT(2, 1, 3, "Predictions used by a step; 3 with multistep only."),
            "method": CHOICE(SDE_METHODS, "multistep: one model call a step (2M SDE, 3M SDE). singlestep: two, the "
                             "second on a state that has its noise (ComfyUI's dpmpp_sde). ancestral: two, noise comes "
                             "after them (dpmpp_2s_ancestral)."),
            "eta": FLOAT(1.0, 0.0, 4.0, "How much fresh noise each step adds: 0 none, 1 the full reverse SDE."),
            "s_noise": S_NOISE,
            "solver_type": CHOICE(["midpoint", "taylor"], "Multistep of order 2: taylor is the exact integral, "
                                  "ComfyUI's heun."),
            "third_order_term": THIRD_ORDER_TERM,
            "r": FLOAT(0.5, 0.05, 0.95, "Singlestep and ancestral: where the second call lies, as a share of the step "
                                        "in log-SNR.", advanced=True),
            "stage_noise": CHOICE(["shared", "fresh"], "Singlestep: shared makes the second call's noise part of the "
                                  "step's, as the SDE has it; fresh draws another, as the published formula reads.",
                                  advanced=True),
        }}


class OdeonSamplerDPMSolver(SolverNode):
    TITLE = "DPM-Solver"
    DESCRIPTION = "DPM-Solver of order 1 to 3 in the noise prediction: for models without guidance, or at low CFG."
    SEARCH_ALIASES = ["dpm solver", "dpm_2", "dpm fast", "dpm_fast", "exponential integrator", "cheng lu"]
    PLAN = staticmethod(plan_dpm_solver)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "order": INT(2, 1, 3, "Model calls that one step combines; 1 is DDIM."),
            "method": CHOICE(METHODS, METHOD_TIP, default="singlestep"),
            "solver_type": CHOICE(["dpmsolver", "taylor", "midpoint_stages"], "Weightings of the same order; dpmsolver "
                                  "is the paper's, midpoint_stages what diffusers makes of it at order 3."),
            "lower_order_below": INT(10, 0, 100, "Multistep: schedules with fewer steps than this end on lower orders. "
                                     "10 is the reference, 0 never.", advanced=True),
            "third_order_term": THIRD_ORDER_TERM, "r1": R1, "r2": R2,
        }, "optional": {
            "lambda_mode": LAMBDA_MODE,
            "lower_order_end": CHOICE(ENDS, "What counts as the last of the low orders: the step to 0, or the one "
                                      "before it, which can be steadier at few steps.", advanced=True),
        }}


class OdeonSamplerUniPC(SolverNode):
    TITLE = "UniPC"
    DESCRIPTION = "Predictor and corrector of order 1 to 4 with one model call a step: strong at 5 to 10 steps."
    SEARCH_ALIASES = ["uni_pc", "uni_pc_bh2", "unified predictor corrector", "unip", "unic", "wenliang zhao"]
    PLAN = staticmethod(plan_unipc)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "order": INT(2, 1, 4, "Predictions the predictor uses; the corrector adds one order. 2 with CFG, 3 "
                                  "without."),
            "variant": CHOICE(VARIANTS, "Weight of a single difference: bh2 and bh1 as published, vary_coeff exactly. "
                              "They differ at orders 1 and 2 only."),
            "prediction": CHOICE(["data", "noise"], "What is extrapolated: the predicted picture, steady at high "
                                                    "CFG, or "
                                 "the predicted noise."),
            "use_corrector": BOOLEAN(True, "Redo each step with the prediction at its end, at no extra model call."),
            "lower_order_final": BOOLEAN(True, "End on orders ..., 2, 1: steadier at few steps, order 2 at many.",
                                         advanced=True),
            "uncorrected": INT(0, 0, 100, "So many first steps are not redone; 1 helps at very high CFG.",
                               advanced=True),
        }, "optional": {"lambda_mode": LAMBDA_MODE}}


class WrapNode:
    """A node whose inputs are a SAMPLER and exactly the options of WRAP, a function of steps to steps."""
    RETURN_TYPES = ("SAMPLER",)
    FUNCTION = "build"
    CATEGORY = "Odeon/samplers/wrappers"

    def build(self, sampler, **options):
        return (host.wrapped(sampler, self.WRAP, **options),)


class MeasuringNode:
    """A node that measures on a MODEL under its conditioning."""
    FUNCTION = "measure"
    CATEGORY = "Odeon/samplers/ode"

    @staticmethod
    def inputs(sigmas: str, **own) -> dict:
        return {"required": {
            "model": SOCKET("MODEL", "The model to measure, with the patches it will be sampled with."),
            "positive": SOCKET("CONDITIONING", "What the pictures to measure on show."),
            "negative": SOCKET("CONDITIONING", "As it will be in the sampler."),
            "sigmas": SOCKET("SIGMAS", sigmas),
            "latent": SOCKET("LATENT", "An empty latent of the size to sample at."),
            "cfg": FLOAT(3.0, 1.0, 100.0, "As it will be in the sampler.", step=0.1),
            "start_seed": INT(0, 0, 2 ** 32 - 1, "Of the noises to measure on; the same number, the same result."),
            **own}}


class OdeonWrapUniC(WrapNode):
    TITLE = "UniC corrector"
    DESCRIPTION = "Raises a sampler's order by one at no extra model call: each step is redone with what its end shows."
    SEARCH_ALIASES = ["unic", "corrector", "unipc", "predictor corrector"]
    OUTPUT_TOOLTIPS = ("The sampler with its corrector.",)
    WRAP = staticmethod(add_corrector)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "sampler": SOCKET("SAMPLER", "One of Odeon's that calls the model once a step and adds no noise."),
            "order": INT(2, 1, 4, "Of the corrector: the sampler's own order is enough to gain one."),
            "variant": CHOICE(VARIANTS, "Weight of a single difference at order 1: bh2, bh1 or exactly (vary_coeff)."),
            "uncorrected": INT(0, 0, 100, "So many first steps are not redone.", advanced=True),
        }, "optional": {"lambda_mode": LAMBDA_MODE}}


class OdeonWrapODEJump(WrapNode):
    TITLE = "ODE-Jump"
    DESCRIPTION = "Ends a sampler early, at a level you choose, with the prediction, which settles before the state."
    SEARCH_ALIASES = ["ode jump", "early stop", "denoising trajectory", "skip last steps"]
    OUTPUT_TOOLTIPS = ("The sampler that ends early.",)
    WRAP = staticmethod(jump)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "sampler": SOCKET("SAMPLER", "One of Odeon's that has steps from the schedule."),
            "jump_sigma": FLOAT(0.5, 0.001, 1000.0, "At the first level at or below this the prediction is the "
                                                    "result. 0.3 to 1 "
                                "suits SD, 0.1 to 0.3 flow models.", step=0.001),
        }}


class OdeonWrapDualFast(WrapNode):
    TITLE = "DualFast"
    DESCRIPTION = "Pushes each step's noise prediction away from an earlier one: less error with DDIM at few steps."
    SEARCH_ALIASES = ["dual fast", "dual speedup", "approximation error", "extrapolation"]
    OUTPUT_TOOLTIPS = ("The sampler with corrected predictions.",)
    WRAP = staticmethod(dual_fast)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "sampler": SOCKET("SAMPLER", "One of Odeon's that calls the model once a step: DDIM gains most."),
            "c_start": FLOAT(0.0, 0.0, 1.0, "How far to push at the first step; 0 not at all."),
            "c_end": FLOAT(0.2, 0.0, 1.0, "How far at the last step, evenly in between. Less with more steps."),
            "anchor": CHOICE(ANCHORS, "Which earlier prediction: that of a step before, or the first one."),
            "lag": INT(1, 1, 8, "previous: how many steps before.", advanced=True),
            "keep_last": BOOLEAN(True, "Leave the last step as it is.", advanced=True),
        }}


NODES = (OdeonSamplerExponentialAdams, OdeonSamplerDPMSolverPP, OdeonSamplerDPMSolver, OdeonSamplerUniPC,
         OdeonSamplerDPMSolverPPSDE, OdeonWrapUniC, OdeonWrapODEJump, OdeonWrapDualFast)
