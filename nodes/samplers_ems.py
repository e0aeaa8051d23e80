"""DPM-Solver-v3, and the nodes that measure, save and load the model statistics it needs."""
import torch

from .. import host
from ..measure.ems import ems_cost, ems_of, measure_ems
from ..measure.kept import EMS_FOLDER, load_ems, save_ems
from ..samplers.dpm_solver_v3 import HALVES, SNAPS, sample_dpm_solver_v3
from ..samplers.process import FLOW
from .files import file_of, names_of
from .inputs import BOOLEAN, CHOICE, INT, SOCKET
from .samplers import MeasuringNode


class OdeonSamplerDPMSolverV3:
    TITLE = "DPM-Solver-v3"
    DESCRIPTION = "A solver built around statistics of your model, measured once: less error at few steps if they fit."
    SEARCH_ALIASES = ["dpm solver v3", "empirical model statistics", "ems", "kaiwen zheng"]
    RETURN_TYPES = ("SAMPLER",)
    OUTPUT_TOOLTIPS = ("Connect to SamplerCustom or SamplerCustomAdvanced.",)
    FUNCTION = "build"
    CATEGORY = "Odeon/samplers/ode"
    SAMPLE = staticmethod(sample_dpm_solver_v3)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "ems": SOCKET("ODEON_EMS", "Statistics of the model you sample with, from Measure or Load model "
                          "statistics."),
            "order": INT(2, 1, 3, "Predictions a step uses: 2 with CFG, 3 without."),
            "p_pseudo": BOOLEAN(False, "Divided differences in place of derivatives: steadier at 5 steps.",
                                advanced=True),
            "use_corrector": BOOLEAN(False, "Redo each step with what its end shows, at no model call: sharper, "
                                            "sometimes bent."),
            "c_pseudo": BOOLEAN(True, "The same for the corrector, which then sees one value more.", advanced=True),
            "half": CHOICE(HALVES, "Correct everywhere (off), or only at high or low noise.", advanced=True),
            "lower_order_final": BOOLEAN(True, "End on orders ..., 2, 1: steadier at few steps.", advanced=True),
        }, "optional": {
            "snap": CHOICE(SNAPS, "Where levels lie: moved to the nearest that was measured, as published, or as the "
                                  "schedule has them, with statistics read in between (interpolate).", advanced=True),
        }}

    def build(self, **options):
        return (host.sampler(sample_dpm_solver_v3, **options),)


class OdeonFitEMS(MeasuringNode):
    TITLE = "Measure model statistics"
    DESCRIPTION = "Measures on your model what DPM-Solver-v3 is built around. Takes long; goes on after a stop."
    SEARCH_ALIASES = ["ems", "empirical model statistics", "dpm solver v3", "compute ems"]
    RETURN_TYPES = ("ODEON_EMS",)
    OUTPUT_TOOLTIPS = ("For DPM-Solver-v3; Save model statistics keeps it.",)

    @classmethod
    def INPUT_TYPES(cls):
        return cls.inputs(
            "Its first level and its last above 0 are the range to measure; any schedule within fits afterwards.",
            points=INT(250, 10, 2000, "Levels to measure at, even in log-SNR: 120 for a try, the authors take 250 to "
                       "1200."),
            samples=INT(64, 2, 65536, "Pictures to average over. 64 for a try, the authors take 1024."),
            batch=INT(8, 1, 1024, "Pictures at once: only memory and speed depend on it."),
            spatial=CHOICE(["channel", "full"], "channel: one number a channel, good for every size and with few "
                           "samples. full: one for each place of the latent, as published; wants many samples."),
            jacobian=CHOICE(["finite_diff", "jvp"], "How the model's slope is taken: by a second call, or exactly "
                            "where its operations allow.", advanced=True))

    def measure(self, model, positive, negative, sigmas, latent, cfg, start_seed, points, samples, batch, spatial,
                jacobian):
        process = host.process_of(model)
        process.lams(sigmas.tolist())
        levels = [sigma for sigma in sigmas.tolist() if sigma > 0.0]
        top = min(levels[0], 0.99) if process is FLOW else levels[0]  # at a flow's 1 log-SNR has no number

        def start(denoise, x, *, state, process, clock):
            noise = torch.randn(samples, *x.shape[1:], generator=torch.Generator().manual_seed(start_seed)).to(x)
            return measure_ems(denoise, noise, process=process, sigma_max=top, sigma_min=levels[-1], points=points,
                               batch=batch, jacobian=jacobian, seed=start_seed, state=state)

        state, about = host.measure(
            model, positive, negative, cfg, what="model statistics", latent=latent, count=batch, sigmas=sigmas,
            seed=start_seed, options={"points": points, "samples": samples, "jacobian": jacobian}, start=start,
            cost=ems_cost(samples, points=points, process=process))
        return (ems_of(state, spatial=spatial, about=about),)


class OdeonSaveEMS:
    TITLE = "Save model statistics"
    DESCRIPTION = "Keeps measured model statistics in a file, with what they were measured on."
    SEARCH_ALIASES = ["ems", "dpm solver v3"]
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("path",)
    OUTPUT_TOOLTIPS = ("Where the file is.",)
    OUTPUT_NODE = True
    FUNCTION = "save"
    CATEGORY = "Odeon/samplers/ode"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "ems": SOCKET("ODEON_EMS", "What Measure model statistics gives."),
            "name": ("STRING", {"default": "mine", "tooltip": "Of the file, without folder or ending. A file of that "
                                "name is replaced."}),
        }}

    def save(self, ems, name):
        path = file_of("ems", name)
        save_ems(path, ems)
        return {"ui": {"text": [str(path)]}, "result": (str(path),)}


class OdeonLoadEMS:
    TITLE = "Load model statistics"
    DESCRIPTION = "Model statistics from a file; those of the Shapes models come with the pack."
    SEARCH_ALIASES = ["ems", "dpm solver v3"]
    RETURN_TYPES = ("ODEON_EMS",)
    OUTPUT_TOOLTIPS = ("For DPM-Solver-v3, which refuses those of another model.",)
    FUNCTION = "load"
    CATEGORY = "Odeon/samplers/ode"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"name": CHOICE(
            names_of("ems", EMS_FOLDER) or ["shapes-unet"], "A file of yours, or one of the pack; yours comes first "
            "where both have the name.")}}

    @classmethod
    def IS_CHANGED(cls, name):
        path = file_of("ems", name)
        return path.stat().st_mtime if path.is_file() else ""

    def load(self, name):
        path = file_of("ems", name)
        return (load_ems(path if path.is_file() else EMS_FOLDER / f"{name}.safetensors"),)


NODES = (OdeonSamplerDPMSolverV3, OdeonFitEMS, OdeonSaveEMS, OdeonLoadEMS)
