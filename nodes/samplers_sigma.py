"""Samplers that carry the predicted noise along sigma, and DDIM's relatives."""
from functools import partial

from .. import host
from ..editing.bdia_inversion import sample_bdia_back
from ..samplers.accelerated_ddim import plan_accelerated_ddim
from ..samplers.bdia import BASES, plan_bdia
from ..samplers.ddim import plan_ddim
from ..samplers.deis import TABLEAUS, TIME_MAPS, plan_deis
from ..samplers.deis import VARIANTS as DEIS_VARIANTS
from ..samplers.edm_heun import plan_edm_heun
from ..samplers.gradient_estimation import plan_gradient_estimation
from ..samplers.lambda_ddim import plan_lambda_ddim
from ..samplers.momentum import METHODS, plan_momentum
from ..samplers.pfgmpp import pfgmpp_noise
from ..samplers.pndm import VARIANTS as PNDM_VARIANTS
from ..samplers.pndm import plan_pndm
from .inputs import CHOICE, FLOAT, INT, S_NOISE, SEED, SOCKET
from .samplers import SolverNode

LAST = CHOICE(["denoise", "follow"], "The step to sigma 0: return the prediction, or follow the formula as published.",
              advanced=True)


class OdeonSamplerDDIM(SolverNode):
    TITLE = "DDIM"
    DESCRIPTION = "DDIM with eta: 0 is Euler's method, 1 is DDPM. The plain choice, and the base of many methods."
    SEARCH_ALIASES = ["euler", "euler ancestral", "ddpm", "ddim eta", "jiaming song"]
    PLAN = staticmethod(plan_ddim)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "eta": FLOAT(0.0, 0.0, 1.0, "How much of the noise is drawn anew at each step: 0 none, 1 as DDPM does."),
            "s_noise": S_NOISE,
        }}


class OdeonSamplerEDMHeun(SolverNode):
    TITLE = "EDM Heun"
    DESCRIPTION = "Heun's second-order method, two model calls a step, with the EDM churn, on VE and flow models."
    SEARCH_ALIASES = ["heun", "edm", "karras", "churn", "ralston", "midpoint", "stochastic sampler"]
    PLAN = staticmethod(plan_edm_heun)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "s_churn": FLOAT(0.0, 0.0, 1000.0, "Noise added before each step, in all: 0 none; 10 to 40 corrects "
                                               "errors at "
                             "many steps and costs detail at few."),
            "s_min": FLOAT(0.0, 0.0, 1000.0, "Lowest sigma at which noise is added.", advanced=True),
            "s_max": FLOAT(1000.0, 0.0, 1000.0, "Highest sigma at which noise is added.", advanced=True),
            "s_noise": S_NOISE,
            "alpha": FLOAT(1.0, 0.05, 1.0, "Where in a step the second model call lies: 1 Heun, 0.67 Ralston, 0.5 "
                                           "midpoint.",
                           advanced=True),
        }}


class OdeonSamplerPNDM(SolverNode):
    TITLE = "PNDM"
    DESCRIPTION = "Pseudo numerical methods: F-PNDM, S-PNDM, and iPNDM, which needs no extra model call."
    SEARCH_ALIASES = ["plms", "ipndm", "ipndm_v", "pndm", "adams bashforth", "luping liu", "fon"]
    PLAN = staticmethod(plan_pndm)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "variant": CHOICE(PNDM_VARIANTS, "iPNDM starts with low orders; F-PNDM with three steps of four model "
                              "calls; S-PNDM with one of two; iPNDM-V weighs unequal steps exactly; FON is the paper's "
                              "comparison.", default="iPNDM"),
            "max_order": INT(4, 1, 4, "iPNDM and iPNDM-V: past predictions used. 3 or 2 is safer at high CFG."),
            "mid_nodes": CHOICE(["timestep", "log_sigma"], "F-PNDM: where the middle of a first step lies.",
                                advanced=True),
        }}


class OdeonSamplerDEIS(SolverNode):
    TITLE = "DEIS"
    DESCRIPTION = "Exponential integrator: polynomial extrapolation of the predicted noise, or Runge-Kutta steps."
    SEARCH_ALIASES = ["deis", "exponential integrator", "tab", "rhoab", "rhork", "runge kutta", "qinsheng zhang"]
    PLAN = staticmethod(plan_deis)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "variant": CHOICE(DEIS_VARIANTS, "tAB extrapolates in the model's time (the paper's best), rhoAB in "
                                             "sigma; rhoRK "
                              "takes several model calls a step and no history."),
            "ab_order": INT(2, 0, 3, "Degree of the polynomial: past predictions used, less one. 0 is DDIM."),
            "rk": CHOICE(["heun2", "euler", *list(TABLEAUS)[1:]], "rhoRK: the Runge-Kutta method; its number is the "
                                                                  "order and, "
                         "nearly always, the model calls a step."),
            "time_map": CHOICE(TIME_MAPS, "tAB: whose time. model asks the model, linear_vp is the published schedule, "
                                          "edm the one that ComfyUI's deis always takes.", advanced=True),
        }}


class OdeonSamplerGradientEstimation(SolverNode):
    TITLE = "Gradient estimation"
    DESCRIPTION = "DDIM that goes past its last change of direction: less error at few steps, one model call a step."
    SEARCH_ALIASES = ["gradient_estimation", "smalldiffusion", "permenter", "ddim accelerated"]
    PLAN = staticmethod(plan_gradient_estimation)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "gamma": FLOAT(2.0, 1.0, 5.0, "How far to go past the last prediction: 1 is DDIM, 2 the paper's choice."),
            "mu": FLOAT(0.0, 0.0, 0.99, "Share of noise drawn anew: 0 none, 0.5 close to DDPM. Not for flow models."),
            "s_noise": S_NOISE, "last": LAST,
        }}


class OdeonSamplerMomentum(SolverNode):
    TITLE = "Momentum"
    DESCRIPTION = "Adams-Bashforth solvers with momentum: keep high CFG at few steps from breaking the picture."
    SEARCH_ALIASES = ["ghvb", "heavy ball", "nesterov", "plms momentum", "divergence artifacts"]
    PLAN = staticmethod(plan_momentum)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "method": CHOICE(METHODS, "ghvb keeps its order; hb and nesterov damp more and drop to order 1; "
                                      "dpmpp_2m_hb is "
                             "DPM-Solver++(2M) with heavy ball."),
            "order": FLOAT(3.6, 0.1, 5.0, "k - 1 plus the momentum's share: 3.6 is four predictions damped to 0.6; "
                                          "an integer is "
                           "not damped at all."),
            "beta": FLOAT(0.8, 0.05, 1.0, "dpmpp_2m_hb only: 1 is not damped, lower more."),
        }}


class OdeonSamplerAcceleratedDDIM(SolverNode):
    TITLE = "Accelerated DDIM"
    DESCRIPTION = "DDIM with a second-order term in the share of signal, one model call a step. Not for flow models."
    SEARCH_ALIASES = ["accelerated", "provable", "ddim second order", "gen li"]
    PLAN = staticmethod(plan_accelerated_ddim)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"last": LAST}}


class OdeonSamplerBDIA(SolverNode):
    TITLE = "BDIA"
    DESCRIPTION = "DDIM with bi-directional integration: every step can be undone exactly."
    SEARCH_ALIASES = ["bdia", "exact inversion", "bidirectional", "leapfrog", "reversible"]
    PLAN = staticmethod(plan_bdia)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "gamma": FLOAT(0.5, 0.0, 1.0, "Weight of the step run backwards: 0 is DDIM; 1 is of second order but "
                                          "lets errors "
                           "ring at few steps and high CFG."),
            "scaling": CHOICE(["vp", "ve"], "Which state is meant: of unit size as in the paper, or as ComfyUI holds "
                                            "it.",
                              advanced=True),
            "last": CHOICE(["denoise", "exact"], "The step to sigma 0: return the prediction, or keep to the "
                                                 "formula, which an "
                           "exact inversion needs.", advanced=True),
        }, "optional": {"noise_maps": SOCKET("ODEON_NOISE_MAPS", "From BDIA inversion: goes back from there exactly, "
                                                                 "with its gamma and scaling. No noise is added."),
                        "base": CHOICE(BASES, "What is integrated both ways. edm_heun: two model calls a step. dpmpp: "
                                              "DPM-Solver++ 2M, at one. Inversions are undone by ddim alone.",
                                       advanced=True)}}

    def build(self, noise_maps=None, **options):
        if noise_maps is not None:
            return (host.sampler(sample_bdia_back, noise_maps=noise_maps),)
        return super().build(**options)


class OdeonSamplerLambdaDDIM(SolverNode):
    TITLE = "Lambda-DDIM"
    DESCRIPTION = "DDIM in coordinates that decay in time: less error at few steps if lambda fits. Not for flow models."
    SEARCH_ALIASES = ["conjugate integrator", "lambda ddim", "pandey"]
    PLAN = staticmethod(plan_lambda_ddim)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "lam": FLOAT(-1.0, -5.0, 5.0, "0 is DDIM; -0.5 to -2 suits, more so the more steps."),
            "time_map": CHOICE(["linear_vp", "model"], "Whose time the decay counts in.", advanced=True),
        }}


class OdeonPFGMppNoise:
    TITLE = "PFGM++ noise"
    DESCRIPTION = "The heavy-tailed starting noise of PFGM++, for models trained that way; sample with EDM Heun."
    SEARCH_ALIASES = ["pfgm", "poisson flow", "heavy tailed", "student t", "random noise", "yilun xu"]
    RETURN_TYPES = ("NOISE",)
    OUTPUT_TOOLTIPS = ("Connect to SamplerCustomAdvanced.",)
    FUNCTION = "build"
    CATEGORY = "Odeon/samplers/ode"
    RULE = staticmethod(pfgmpp_noise)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "noise_seed": SEED,
            "extra_dims": INT(128, 3, 2 ** 24, "D, the dimensions that the model was trained with: few make strong and "
                              "weak noises, very many are ordinary noise."),
        }}

    def build(self, noise_seed, extra_dims):
        return (host.noise(noise_seed, partial(pfgmpp_noise, extra_dims=extra_dims)),)


NODES = (OdeonSamplerDDIM, OdeonSamplerEDMHeun, OdeonSamplerPNDM, OdeonSamplerDEIS, OdeonSamplerGradientEstimation,
         OdeonSamplerMomentum, OdeonSamplerAcceleratedDDIM, OdeonSamplerBDIA, OdeonSamplerLambdaDDIM, OdeonPFGMppNoise)
