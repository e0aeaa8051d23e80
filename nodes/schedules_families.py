"""Schedules by formula: the classic families, the cosine, densities of log-SNR, and DM-NonUniform."""
from .. import host
from ..samplers.clock import clock_of_table
from ..samplers.process import VE
from ..schedules.cosine import RESCALES, cosine_sigmas
from ..schedules.dmn import ENDS as DMN_ENDS
from ..schedules.dmn import INITS, WEIGHTS, dmn_sigmas
from ..schedules.family import FAMILIES, family_sigmas
from ..schedules.log_snr_density import ENDS, NAMES, UNITS, log_snr_density_sigmas
from .inputs import BOOLEAN, CHOICE, DENOISE, FLOAT, INT, SOCKET, STEPS
from .schedules import ScheduleNode

RANGE_MODEL = SOCKET("MODEL", "The model to make the levels for: gives the range where that is -1, and tells "
                              "flow models from others.")
SIGMA_MAX = FLOAT(-1.0, -1.0, 5000.0, "Noise level to start from; -1 is the model's highest.", step=0.000001,
                  advanced=True)
SIGMA_MIN = FLOAT(-1.0, -1.0, 5000.0, "Last level before 0; -1 is the model's lowest.", step=0.0000001, advanced=True)


class RangedNode(ScheduleNode):
    """A schedule between two levels, which are those of a MODEL where they are -1.

    ALONE: sigma_max and sigma_min without a model, None where they must be given then; PROCESS: what counts then.
    """
    ALONE = None
    PROCESS = VE

    def build(self, **options):
        return (self.SCHEDULE(**self.spanned(**options)).float(),)

    @classmethod
    def spanned(cls, model=None, sigma_max: float = -1.0, sigma_min: float = -1.0, **options) -> dict:
        """The options with the model replaced by its range and process."""
        alone, process = cls.ALONE, cls.PROCESS
        if model is not None:
            levels, process = host.levels_of(model), host.process_of(model)
            alone = float(levels.sigma_max), float(levels.sigma_min)
        if min(sigma_max, sigma_min) < 0.0 and alone is None:
            raise ValueError("without a MODEL this needs sigma_max and sigma_min above 0; give both, or connect one")
        return {**options, "sigma_max": sigma_max if sigma_max >= 0.0 else alone[0],
                "sigma_min": sigma_min if sigma_min >= 0.0 else alone[1], "process": process}


class OdeonSigmasFamily(ScheduleNode):
    TITLE = "Schedule family"
    DESCRIPTION = "The classic schedules by name, each with its options: Karras, KL-optimal, flow shift and 14 more."
    SEARCH_ALIASES = ["scheduler", "karras", "exponential", "polyexponential", "kl optimal", "simple", "normal",
                      "sgm uniform", "ddim uniform", "linear quadratic", "turbo", "flux shift", "laplace", "vp"]
    RETURN_TYPES = ("SIGMAS", "INT")
    RETURN_NAMES = ("sigmas", "steps")
    OUTPUT_TOOLTIPS = ("Noise levels from high to low, one more than steps.",
                       "How many steps these are: some families drop levels that repeat.")
    SCHEDULE = staticmethod(family_sigmas)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "steps": STEPS,
            "family": CHOICE(FAMILIES, "How the levels are spread. karras suits SD at 8 to 30 steps; flow_shift and "
                             "flux_shift flow models; simple to turbo need a model."),
            "denoise": DENOISE, "sigma_max": SIGMA_MAX, "sigma_min": SIGMA_MIN,
            "comfy_exact": BOOLEAN(True, "On: ComfyUI's very levels, quirks included. Off: always `steps` steps down "
                                   "to 0, and a flow model's shift counted once. Changes normal, sgm_uniform, "
                                   "ddim_uniform and laplace.", advanced=True),
            "rho": FLOAT(0.0, 0.0, 100.0, "karras, edm_time, polyexponential: higher spends more steps on low noise. 0 "
                         "is the usual 7, polyexponential 1.", advanced=True),
            "shift": FLOAT(3.0, 0.01, 100.0, "flow_shift: higher spends more steps on high noise. SD3 3, Wan 5 to 8, 1 "
                           "is even.", advanced=True),
            "mu": FLOAT(1.15, -5.0, 10.0, "flux_shift: the logarithm of shift. Flux at a megapixel 1.15, at 256 pixels "
                        "0.5.", advanced=True),
            "width": INT(0, 0, 16384, "flux_shift: the picture's width in pixels, to work out mu; 0 uses mu.",
                         advanced=True),
            "height": INT(0, 0, 16384, "flux_shift: the picture's height in pixels; 0 uses mu.", advanced=True),
            "terminal": FLOAT(0.0, 0.0, 0.99, "flow_shift, flux_shift: the last level before 0, 0.1 for LTX, 0.02 for "
                              "Qwen-Image; 0 leaves it.", step=0.001, advanced=True),
            "data_std": FLOAT(1.0, 0.01, 100.0, "kl_optimal: how widely the latent's values spread; steps gather at "
                              "this level. 1 is ComfyUI's.", advanced=True),
            "threshold": FLOAT(0.025, 0.001, 0.9, "linear_quadratic: how far down the slow first part goes.",
                               step=0.001, advanced=True),
            "linear_steps": INT(0, 0, 9999, "linear_quadratic: steps of the slow first part; 0 is half of them.",
                                advanced=True),
            "laplace_mu": FLOAT(0.0, -10.0, 10.0, "laplace: the logarithm of the level that steps gather at.",
                                advanced=True),
            "laplace_beta": FLOAT(0.5, 0.01, 10.0, "laplace: how far they spread around it.", advanced=True),
        }, "optional": {"model": RANGE_MODEL}}

    def build(self, model=None, **options):
        known = {} if model is None else {"levels": host.levels_of(model), "process": host.process_of(model)}
        sigmas = self.SCHEDULE(**options, **known).float()
        return sigmas, max(len(sigmas) - 1, 0)


class OdeonSigmasCosine(RangedNode):
    TITLE = "Cosine schedule"
    DESCRIPTION = "The cosine schedule of improved DDPM: even steps in the angle between picture and noise."
    SEARCH_ALIASES = ["cosine", "improved ddpm", "iddpm", "nichol", "arctan"]
    SCHEDULE = staticmethod(cosine_sigmas)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "steps": STEPS,
            "rescale": CHOICE(RESCALES, "model_range: from sigma_max to sigma_min, then 0. none: the cosine's own "
                              "range, far above what SD knows."),
            "s": FLOAT(0.008, 0.0, 1.0, "Keeps the lowest levels apart; 0 is the plain tangent.", step=0.001,
                       advanced=True),
            "t_max": FLOAT(0.9946, 0.01, 0.999, "rescale none: where the schedule starts; 1 would be infinite noise.",
                           step=0.0001, advanced=True),
            "sigma_max": SIGMA_MAX, "sigma_min": SIGMA_MIN,
        }, "optional": {"model": RANGE_MODEL}}


class OdeonSigmasLogSNRDensity(RangedNode):
    TITLE = "Log-SNR density schedule"
    DESCRIPTION = "Puts steps where a curve over the log-SNR is high: Laplace, Cauchy, cosine, normal and others."
    SEARCH_ALIASES = ["laplace", "cauchy", "logit normal", "log snr", "density", "hang", "cosine shifted"]
    SCHEDULE = staticmethod(log_snr_density_sigmas)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "steps": STEPS,
            "density": CHOICE(NAMES, "Shape of the curve: cauchy has the widest ends, laplace the sharpest middle, "
                              "uniform is even."),
            "mu": FLOAT(0.0, -20.0, 20.0, "Where steps gather: 0 is as much noise as picture, below 0 noisier."),
            "width": FLOAT(2.0, 0.01, 100.0, "How far they spread: 2 to 4 to sample with. cosine_shifted and uniform "
                           "have none."),
            "units": CHOICE(UNITS, "What mu and width are counted in: the log of signal to noise power, or "
                            "ComfyUI's log sigma, which is -1/2 of it."),
            "ends": CHOICE(ENDS, "truncate: the part of the curve between the two levels, all steps kept. clamp: the "
                           "whole curve; what falls outside is dropped.", advanced=True),
            "append_zero": BOOLEAN(True, "End with a step to 0. Off stops at sigma_min, after as many steps.",
                                   advanced=True),
            "sigma_max": SIGMA_MAX, "sigma_min": SIGMA_MIN,
        }, "optional": {"model": RANGE_MODEL}}


class OdeonSigmasDMN(RangedNode):
    TITLE = "DM-NonUniform"
    DESCRIPTION = "Steps that make a multistep solver's error bound smallest, found in a moment without the network."
    SEARCH_ALIASES = ["dmn", "optimized time steps", "non uniform", "xue", "unipc steps"]
    RETURN_TYPES = ("SIGMAS", "STRING")
    RETURN_NAMES = ("sigmas", "report")
    OUTPUT_TOOLTIPS = ("Noise levels from high to low, one more than steps.", "How far the bound was lowered.")
    CATEGORY = "Odeon/schedules/optimize"
    LIVE_STEPS = 40  # beyond, the search takes too long to repeat while a value is being changed
    SCHEDULE = staticmethod(dmn_sigmas)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "steps": INT(10, 1, 100, "Steps of the schedule; the search takes seconds at 50."),
            "weight": CHOICE(WEIGHTS, "How wrong a prediction is taken to be at a level: latent for SD, SDXL and flow "
                             "models, pixel for models of pixels."),
            "init": CHOICE(INITS, "Where the search starts: even in the model's time, in log-SNR, as Karras, or in the "
                           "root of time. Hardly matters.", advanced=True),
            "end": CHOICE(DMN_ENDS, "append_zero: the last step goes to 0. sigma_min: stop at the lowest level, as "
                          "published.", advanced=True),
            "sigma_max": SIGMA_MAX, "sigma_min": SIGMA_MIN,
        }, "optional": {"model": RANGE_MODEL}}

    def build(self, model=None, **options):
        given = self.spanned(model=model, **options)
        clock = clock_of_table(host.levels_of(model).sigmas.tolist()) if model and given["process"] is VE else None
        found = self.SCHEDULE(**given, clock=clock)
        report = (f"{len(found.sigmas) - 1} steps from {found.sigmas[0]:.5g}: error bound {found.before:.4g} at the "
                  f"start of the search, {found.after:.4g} at its end")
        return found.sigmas.float(), report


NODES = (OdeonSigmasFamily, OdeonSigmasCosine, OdeonSigmasLogSNRDensity, OdeonSigmasDMN)
