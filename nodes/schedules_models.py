"""Schedules read off a MODEL's own levels, and what changes those levels or what its network is told of them."""
import logging

from .. import host
from ..measure.plot import draw_lines
from ..measure.spectrum import change_curves, fit_beta, spectral_changes
from ..samplers.clock import clock_of_table
from ..samplers.dc_solver import numbers_of_text
from ..schedules.beta import REPEATS, SPACES, beta_sigmas
from ..schedules.conditioning import told_levels
from ..schedules.spacing import SPACINGS, spaced_sigmas
from ..schedules.timesteps import KINDS, counts_places, sigmas_from_timesteps, timesteps_of_sigmas
from ..schedules.zero_snr import TERMINAL_SIGMA, zero_terminal_sigmas
from .inputs import BOOLEAN, CHOICE, DENOISE, FLOAT, INT, MODEL, SOCKET, STEPS
from .samplers import MeasuringNode
from .schedules import ScheduleNode

LEVELS_OF = SOCKET("MODEL", "The model whose noise levels are meant.")
KIND = CHOICE(KINDS, "index: as the network counts (SD 0 to 999, Flux 0 to 1, SD3 and Wan 0 to 1000). "
              "index_continuous: the same of SD, read as DPM-Solver's code reads it. t01: 0 to 1, before a flow's "
              "shift. logsnr: log(alpha^2 / sigma^2). sigma: the level itself.")
ALPHA = FLOAT(0.6, 0.05, 20.0, "Below 1 gathers steps at low noise, above 1 thins them out there.", step=0.0001)
BETA = FLOAT(0.6, 0.05, 20.0, "Below 1 gathers steps at high noise, above 1 thins them out there.", step=0.0001)


class ModelScheduleNode(ScheduleNode):
    """A schedule node whose SCHEDULE also wants the levels of a MODEL."""

    def build(self, model, **options):
        return super().build(levels=host.levels_of(model), **options)


class OdeonSigmasFromTimesteps(ScheduleNode):
    TITLE = "Sigmas from timesteps"
    DESCRIPTION = "Turns a list of timesteps, log-SNRs or levels from a paper or program into SIGMAS for your model."
    SEARCH_ALIASES = ["timesteps to sigmas", "custom timesteps", "manual sigmas", "diffusers timesteps", "convert"]
    SCHEDULE = staticmethod(sigmas_from_timesteps)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": LEVELS_OF,
            "timesteps": ("STRING", {"default": "999, 850, 736, 645, 545, 455, 343, 233, 124, 24", "multiline": True,
                                     "tooltip": "Numbers between commas, from high noise to low."}),
            "kind": KIND,
            "append_zero": BOOLEAN(True, "Ends with a step to 0, the finished picture."),
        }}

    def build(self, model, timesteps, **options):
        values = numbers_of_text(timesteps.strip().rstrip(","), "timesteps must be numbers between commas")
        return super().build(timesteps=list(values), levels=host.levels_of(model), process=host.process_of(model),
                             **options)


class OdeonSigmasToTimesteps:
    TITLE = "Sigmas to timesteps"
    DESCRIPTION = "Writes SIGMAS as timesteps or log-SNRs of your model, to read, keep or use elsewhere."
    SEARCH_ALIASES = ["sigmas to timesteps", "show sigmas", "export schedule", "convert"]
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("timesteps",)
    OUTPUT_TOOLTIPS = ("Numbers between commas; Sigmas from timesteps reads the same levels out of them.",)
    FUNCTION = "write"
    CATEGORY = "Odeon/schedules"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": LEVELS_OF,
            "sigmas": SOCKET("SIGMAS", "A schedule for this model. A 0 at its end is left out."),
            "kind": KIND,
        }}

    def write(self, model, sigmas, kind):
        values = timesteps_of_sigmas(sigmas.tolist(), host.levels_of(model), host.process_of(model), kind=kind)
        text = ", ".join(f"{value:.12g}" for value in values)
        return {"ui": {"text": [text]}, "result": (text,)}


class OdeonConditioningSigmas:
    TITLE = "Conditioning sigmas"
    DESCRIPTION = "Tells the network other noise levels than the sampler steps through, as LD3 and TimeTuner learn."
    SEARCH_ALIASES = ["decoupled timesteps", "ld3", "timetuner", "time shift sampler", "t_c", "label shift"]
    RETURN_TYPES = ("MODEL",)
    OUTPUT_TOOLTIPS = ("The model for the sampler; make schedules from the unchanged one.",)
    FUNCTION = "patch"
    CATEGORY = "Odeon/schedules"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": MODEL,
            "sigmas": SOCKET("SIGMAS", "The schedule that the sampler runs."),
            "cond_sigmas": SOCKET("SIGMAS", "What the network is told at each of them, as many. The same as sigmas "
                                            "changes nothing."),
            "mode": CHOICE(["label_only", "whole_denoiser"], "label_only: only the network's timestep changes "
                           "(TimeTuner; LD3 with Euler and iPNDM). whole_denoiser: its prediction is read at that "
                           "level too (LD3 with DPM-Solver++ and UniPC); not for masks."),
        }}

    def patch(self, model, sigmas, cond_sigmas, mode):
        told = told_levels(sigmas.double().tolist(), cond_sigmas.double().tolist())
        return (host.relabel(model, told, whole=mode == "whole_denoiser"),)


class OdeonSigmasBeta(ModelScheduleNode):
    TITLE = "Beta schedule"
    DESCRIPTION = "Steps gathered at both ends of the noise levels, or wherever two numbers say: Beta sampling."
    SEARCH_ALIASES = ["beta scheduler", "beta sampling", "alpha beta", "beta57", "spectral"]
    SCHEDULE = staticmethod(beta_sigmas)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": LEVELS_OF, "steps": INT(20, 1, 10000, STEPS[1]["tooltip"]), "alpha": ALPHA, "beta": BETA,
            "denoise": DENOISE,
            "repeats": CHOICE(REPEATS, "Where steps fall on the same level: drop gives fewer steps (as ComfyUI), "
                                       "spread moves them apart.", advanced=True),
            "space": CHOICE(SPACES, "What is spread: index, places in the model's table (ComfyUI), or sigma itself "
                                    "(diffusers).", advanced=True),
        }}


class OdeonFitBeta(MeasuringNode):
    TITLE = "Fit Beta schedule"
    DESCRIPTION = "Watches when your model settles coarse shapes and fine detail, and fits Beta sampling to it."
    SEARCH_ALIASES = ["spectral analysis", "beta sampling", "frequency", "optimize steps", "beta fit"]
    RETURN_TYPES = ("SIGMAS", "FLOAT", "FLOAT", "IMAGE", "STRING")
    RETURN_NAMES = ("sigmas", "alpha", "beta", "plot", "report")
    OUTPUT_TOOLTIPS = ("The fitted schedule.", "For a Beta schedule of any number of steps.", "The other number of it.",
                       "The share of all change done at each level, by frequency, and the fit.", "The fit in words.")
    CATEGORY = "Odeon/schedules/optimize"

    @classmethod
    def INPUT_TYPES(cls):
        return cls.inputs(
            "A fine schedule to watch the model along, 40 steps or more, from its highest level.",
            steps=INT(10, 1, 10000, "Of the schedule to make."),
            samples=INT(8, 1, 1024, "Pictures to average over, all at once."),
            bins=INT(16, 2, 256, "Rings of frequencies; each counts alike.", advanced=True))

    def measure(self, model, positive, negative, sigmas, latent, cfg, start_seed, steps, samples, bins):
        fine, levels = sigmas.tolist(), host.levels_of(model)

        def start(denoise, x, *, state, process, clock):
            return spectral_changes(denoise, x, fine, bins=bins, process=process, state=state)

        state, _ = host.measure(
            model, positive, negative, cfg, what="spectral changes", latent=latent, count=samples, sigmas=sigmas,
            seed=start_seed, options={"bins": bins}, start=start, cost=len(fine) - 1)
        curves, table = change_curves(state["changes"]), levels.sigmas.tolist()
        place_of = clock_of_table(table).time_of
        places = [min(max(place_of(sigma) / (len(table) - 1), 0.0), 1.0) if sigma else 0.0 for sigma in fine]
        alpha, beta = fit_beta(places, curves["all"])
        report = f"alpha {alpha:.4f}, beta {beta:.4f}: least squares on {len(fine)} levels, {samples} pictures"
        made = beta_sigmas(levels, steps, alpha, beta).float()
        return {"ui": {"text": [report]}, "result": (made, alpha, beta, _plot(places, curves, alpha, beta), report)}


def _plot(places: list[float], curves: dict, alpha: float, beta: float):
    from scipy.special import betainc

    named = {"low frequencies": "low", "high frequencies": "high", "all": "all"}
    lines = {name: list(zip(places, curves[key])) for name, key in named.items()}
    lines["fit"] = [(i / 200, 1.0 - betainc(alpha, beta, i / 200)) for i in range(201)]
    return draw_lines(lines, title=f"Share of the change that is done: Beta({alpha:.3g}, {beta:.3g})",
                      x_label="place among the model's levels, noise on the right", y_label="share done")


class OdeonZeroSNR:
    TITLE = "Zero terminal SNR"
    DESCRIPTION = "Stretches a model's noise levels so that the last is pure noise: truly dark and bright pictures."
    SEARCH_ALIASES = ["zsnr", "ztsnr", "zero terminal snr", "rescale betas", "v-prediction", "brightness"]
    RETURN_TYPES = ("MODEL",)
    OUTPUT_TOOLTIPS = ("The model with its new levels; make the schedule from this one, with trailing spacing.",)
    FUNCTION = "patch"
    CATEGORY = "Odeon/schedules"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": MODEL,
            "prediction": CHOICE(["keep", "v_prediction"], "v_prediction: read the network as one that predicts "
                                 "velocity, if that is what it was trained for and ComfyUI took it for another."),
            "top_sigma": FLOAT(round(TERMINAL_SIGMA, 4), 100.0, 1e6, "The level that stands for pure noise, in place "
                               "of infinity; ComfyUI's is 4518.76.", step=0.0001, advanced=True),
        }}

    def patch(self, model, prediction, top_sigma):
        levels = host.levels_of(model)
        if not counts_places(levels):
            raise ValueError("zero terminal SNR rescales a table of levels as Stable Diffusion has it, and this model "
                             "has none; flow models start from pure noise as they are")
        velocity = prediction == "v_prediction"
        if velocity and not host.predicts_eps(model):
            velocity = False
        elif not velocity and host.predicts_eps(model):
            logging.warning("Odeon: this model is read as one that predicts noise, which says nothing of pure noise; "
                            "with zero terminal SNR set prediction to v_prediction if it was trained for that")
        return (host.with_table(model, zero_terminal_sigmas(levels.sigmas, top_sigma), v_prediction=velocity),)


class OdeonSigmasTimestepSpacing(ModelScheduleNode):
    TITLE = "Timestep spacing"
    DESCRIPTION = "Whole timesteps spread over the model's levels as in diffusers: trailing, leading or linspace."
    SEARCH_ALIASES = ["trailing", "leading", "linspace", "timestep_spacing", "zsnr", "diffusers"]
    SCHEDULE = staticmethod(spaced_sigmas)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": LEVELS_OF, "steps": STEPS,
            "spacing": CHOICE(SPACINGS, "trailing starts at the highest level, as it should. leading leaves it out, "
                              "as SD1 was published. linspace is even from end to end; linspace_fractional is not "
                              "rounded."),
            "offset": INT(1, 0, 1000, "Added to each timestep of leading; 1 for SD1 and SDXL.", advanced=True),
        }}


NODES = (OdeonSigmasFromTimesteps, OdeonSigmasToTimesteps, OdeonConditioningSigmas, OdeonSigmasBeta, OdeonFitBeta,
         OdeonZeroSNR, OdeonSigmasTimestepSpacing)
