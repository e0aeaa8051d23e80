"""Editing by words: samplers that compare what two prompts predict, and estimates refined from a plateau."""
from .. import host
from ..editing.ddcm import sample_ddcm
from ..editing.delta_denoise import sample_delta_denoise
from ..editing.flow_edit import sample_flow_edit
from ..editing.plateau import STARTS, sample_plateau_refine
from .inputs import BOOLEAN, CHOICE, FLOAT, INT, SOCKET
from .samplers import SolverNode

SOURCE = SOCKET("CONDITIONING", "Words that describe the picture as it is. What it should become is the positive of "
                "the node that samples.")
SOURCE_CFG = FLOAT(1.0, 0.0, 100.0, "CFG of the words that describe the picture; 1 spares an evaluation. Other values "
                   "need source_negative.", step=0.1, advanced=True)
SOURCE_NEGATIVE = SOCKET("CONDITIONING", "The negative of the words that describe the picture, often the same as the "
                         "sampling node's.")


class PromptEditNode(SolverNode):
    """A sampler that edits the LATENT it is given from the words of `source` to those of the run, by EDIT."""
    CATEGORY = "Odeon/editing"
    OUTPUT_TOOLTIPS = ("The sampler. Give the sampling node the encoded picture as its latent; the noise is drawn here "
                       "from its seed.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"source": SOURCE, **cls.own_inputs(), "source_cfg": SOURCE_CFG},
                "optional": {"source_negative": SOURCE_NEGATIVE}}

    def build(self, source, source_cfg, source_negative=None, **options):
        sample_fn = self.EDIT

        def sample(denoise, x, sigmas, *, prompted, clean, noise_of, **rest):
            if not clean.any():
                raise ValueError("there is no picture to edit: the latent is empty; encode one with VAE Encode")
            return sample_fn(denoise, x, sigmas, source=prompted(source, source_negative, source_cfg), clean=clean,
                             noise_sampler=noise_of(sample.__name__), **rest)

        sample.__name__ = sample_fn.__name__
        return (host.sampler(sample, **options, **self.of_model()),)

    @staticmethod
    def of_model() -> dict:
        """Options of the rule that the MODEL it runs on knows."""
        return {}


class OdeonSamplerDDCM(PromptEditNode):
    TITLE = "InfEdit (DDCM)"
    DESCRIPTION = "Edits a picture by two prompts, without inversion: at every level the whole difference they make."
    SEARCH_ALIASES = ["infedit", "ddcm", "edit by words", "inversion-free", "virtual inversion", "prompt edit", "xu"]
    EDIT = staticmethod(sample_ddcm)

    @staticmethod
    def of_model():
        return {"control": host.OfModel(host.control_of)}

    @staticmethod
    def own_inputs():
        return {"eta": FLOAT(1.0, 0.0, 1.0, "Share of fresh noise at each step. 1 as published; 0 keeps the first "
                             "noise and carries the edit on in it, bolder and less clean.")}


class OdeonSamplerFlowEdit(PromptEditNode):
    TITLE = "FlowEdit"
    DESCRIPTION = "Edits a picture by two prompts, without inversion: walks from it along the difference they make."
    SEARCH_ALIASES = ["flow edit", "edit by words", "inversion-free", "prompt edit", "flux edit", "sd3 edit", "kulikov"]
    EDIT = staticmethod(sample_flow_edit)

    @staticmethod
    def own_inputs():
        return {
            "strength": FLOAT(0.85, 0.0, 1.0, "Share of the schedule that is walked, from its end. Lower keeps more "
                              "of the picture, 0 all of it."),
            "average": INT(1, 1, 16, "Noises over which each step is averaged: steadier, at so many times the cost."),
            "finish": INT(0, 0, 1000, "So many last steps are plain ones on the new prompt alone: sharper, less "
                          "faithful.", advanced=True),
        }


class OdeonDeltaDenoise(PromptEditNode):
    TITLE = "Delta denoising"
    DESCRIPTION = "Edits a picture by two prompts in many small steps at mixed noise levels; the rest stays close."
    SEARCH_ALIASES = ["dds", "delta denoising score", "score distillation", "edit by words", "prompt edit", "hertz"]
    EDIT = staticmethod(sample_delta_denoise)

    @staticmethod
    def own_inputs():
        return {"rate": FLOAT(0.1, 0.001, 10.0, "Size of a step. With more steps in the schedule (50 to 200) a smaller "
                              "one does.", step=0.001)}


class OdeonSamplerPlateauRefine(SolverNode):
    TITLE = "Plateau and refine"
    DESCRIPTION = "Little left to chance: an estimate, noised to one moderate level some times, then plain steps down."
    SEARCH_ALIASES = ["stablenormal", "stable normal", "yoso", "variance reduction", "one-step", "refine", "plateau"]
    OUTPUT_TOOLTIPS = ("The sampler. With start latent, give the sampling node the estimate as its latent.",)
    CATEGORY = "Odeon/editing"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "plateau": FLOAT(0.5, 0.0, 0.99, "Where on the schedule the level lies: 0 its start, 0.5 its middle. "
                             "Later keeps more of the estimate."),
            "repeats": INT(-1, -1, 1000, "Times the picture is predicted and noised anew at that level; -1 for as many "
                           "as steps are left out. 0 keeps most of the estimate."),
            "start": CHOICE(STARTS, "The estimate: what the model predicts at the first level, or the latent given."),
            "average": BOOLEAN(False, "Goes on from the mean of what the plateau predicted: smoother.", advanced=True),
        }}

    def build(self, **options):
        def sample(denoise, x, sigmas, *, noise_of, clean, **rest):
            return sample_plateau_refine(denoise, x, sigmas, clean=clean, noise_sampler=noise_of(sample.__name__),
                                         **rest)

        sample.__name__ = sample_plateau_refine.__name__
        return (host.sampler(sample, **options),)


NODES = (OdeonSamplerDDCM, OdeonSamplerFlowEdit, OdeonDeltaDenoise, OdeonSamplerPlateauRefine)
