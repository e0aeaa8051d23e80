"""Inversion: the noise that leads to a picture, found, kept, and gone back from under other words."""
from pathlib import Path

from .. import host
from ..editing.bdia_inversion import invert_bdia
from ..editing.ddim_inversion import EVAL_AT, sample_ddim_invert
from ..editing.edict import sample_edict
from ..editing.edit_friendly import extract, sample_edit_friendly
from ..editing.noise_maps import NoiseMaps
from ..editing.rf_inversion import TRENDS, sample_rf_edit, sample_rf_invert
from ..editing.sdedit import sample_sdedit
from ..measure.kept import VERSION, load_noise_maps, save_noise_maps
from .editing_prompts import SOURCE, SOURCE_CFG, SOURCE_NEGATIVE
from .files import file_of
from .inputs import BOOLEAN, CHOICE, FLOAT, INT, SOCKET
from .samplers import SolverNode

NOISE_MAPS = "ODEON_NOISE_MAPS"
BACK_TIP = "The sampler for the way back; give it the SIGMAS of the inversion and a latent of that size."
UP_TIP = "For SamplerCustom with rising SIGMAS (FlipSigmas), the encoded picture, no added noise and CFG 1."


class InvertingNode:
    """A node that runs a MODEL over a picture and gives NOISE_MAPS of the kind KIND."""
    RETURN_TYPES = (NOISE_MAPS,)
    RETURN_NAMES = ("noise_maps",)
    FUNCTION = "invert"
    CATEGORY = "Odeon/editing"

    @staticmethod
    def inputs(cfg: float, **own) -> dict:
        return {"required": {
            "model": SOCKET("MODEL", "The model that the way back is sampled with."),
            "positive": SOCKET("CONDITIONING", "Words that describe the picture as it is."),
            "negative": SOCKET("CONDITIONING", "The negative, as it will be on the way back."),
            "latent": SOCKET("LATENT", "The encoded picture. A mask in it does not count here, but on the way back."),
            "sigmas": SOCKET("SIGMAS", "The schedule, from noise to picture as a sampler takes it; the way back needs "
                                       "the same."),
            "cfg": FLOAT(cfg, 0.0, 100.0, "CFG of the words that describe the picture.", step=0.1),
            **own}}

    def found(self, run, model, positive, negative, cfg, *, latent, sigmas, seed, **about):
        """The result of a node: run(denoise, sigmas, clean, noise_of, process, callback) -> (x, z) on the MODEL."""
        kept = {}

        def sample(denoise, x, levels, *, clean, noise_of, process, callback):
            kept["x"], kept["z"] = run(denoise, levels, clean=clean.to(x), noise_of=noise_of, process=process,
                                       callback=callback)
            return x

        sample.__name__ = f"{self.KIND}_inversion"
        host.sampled(model, positive, negative, cfg, sampler=host.sampler(sample), sigmas=sigmas, latent=latent,
                     seed=seed)
        about |= {"what": "noise maps", "model": host.identity(model), "cfg": cfg, "odeon": VERSION}
        return (NoiseMaps(self.KIND, tuple(sigmas.tolist()), kept["x"], kept["z"], about),)


class OdeonEditFriendlyInvert(InvertingNode):
    TITLE = "Edit-friendly inversion"
    DESCRIPTION = "Finds noise maps that lead a sampler to your picture exactly and keep its layout in edits."
    SEARCH_ALIASES = ["ddpm inversion", "edit friendly", "ledits", "noise maps", "invert", "huberman"]
    OUTPUT_TOOLTIPS = ("For Edit-friendly DDPM, on the same SIGMAS, size and model.",)
    KIND = "edit_friendly"

    @classmethod
    def INPUT_TYPES(cls):
        return cls.inputs(3.5, eta=FLOAT(1.0, 0.01, 1.0, "Share of fresh noise in each step. 1 as published; lower "
                                         "holds on to the picture harder.", advanced=True),
                          start_seed=INT(0, 0, 2 ** 32 - 1, "Of the noise; another one gives another edit."),
                          exact_last=BOOLEAN(True, "Also keeps what the last step would miss, so that nothing of the "
                                             "picture is lost; off as published.", advanced=True))

    def invert(self, model, positive, negative, latent, sigmas, cfg, eta, start_seed, exact_last):
        def run(denoise, levels, *, clean, noise_of, process, callback):
            return extract(denoise, clean, levels, eta=eta, exact_last=exact_last, process=process,
                           noise_sampler=noise_of("edit friendly"), callback=callback)

        return self.found(run, model, positive, negative, cfg, latent=latent, sigmas=sigmas, seed=start_seed, eta=eta)


class OdeonSamplerEditFriendly(SolverNode):
    TITLE = "Edit-friendly DDPM"
    DESCRIPTION = "Samples with a picture's noise maps: the picture itself under its own words, its edit by others."
    SEARCH_ALIASES = ["ddpm inversion", "edit friendly", "ledits", "edit by words", "keep layout", "huberman"]
    OUTPUT_TOOLTIPS = (BACK_TIP,)
    CATEGORY = "Odeon/editing"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "noise_maps": SOCKET(NOISE_MAPS, "From Edit-friendly inversion."),
            "skip": FLOAT(0.36, 0.0, 1.0, "Share of the steps left out, from the noisy end: higher keeps more of the "
                          "picture, lower allows larger changes; 1 is the picture."),
        }}

    def build(self, noise_maps, skip):
        return (host.sampler(sample_edit_friendly, noise_maps=noise_maps, skip=skip),)


class OdeonSaveNoiseMaps:
    TITLE = "Save noise maps"
    DESCRIPTION = "Keeps what an inversion found in a file, with the schedule, size and model it belongs to."
    SEARCH_ALIASES = ["save inversion", "noise maps", "export noise"]
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("path",)
    OUTPUT_TOOLTIPS = ("Where the file is.",)
    OUTPUT_NODE = True
    FUNCTION = "save"
    CATEGORY = "Odeon/editing"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "noise_maps": SOCKET(NOISE_MAPS, "From Edit-friendly or BDIA inversion."),
            "name": ("STRING", {"default": "mine", "tooltip": "Of the file, without folder or ending. A file of that "
                                                              "name is replaced."}),
        }}

    def save(self, noise_maps, name):
        path = file_of("noise_maps", name)
        save_noise_maps(path, noise_maps)
        return {"ui": {"text": [str(path)]}, "result": (str(path),)}


class OdeonLoadNoiseMaps:
    TITLE = "Load noise maps"
    DESCRIPTION = "Noise maps from a file, to edit a picture again without inverting it again."
    SEARCH_ALIASES = ["load inversion", "noise maps", "import noise"]
    RETURN_TYPES = (NOISE_MAPS, "SIGMAS", "STRING")
    RETURN_NAMES = ("noise_maps", "sigmas", "report")
    OUTPUT_TOOLTIPS = ("For the sampler of the inversion that made them.", "The schedule they belong to.",
                       "What they are, to read.")
    FUNCTION = "load"
    CATEGORY = "Odeon/editing"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"name": ("STRING", {"default": "mine", "tooltip": "Of the file as it was saved, or its "
                                                                         "path from Save noise maps."})}}

    @classmethod
    def IS_CHANGED(cls, name):
        path = _saved(name)
        return path.stat().st_mtime if path.is_file() else ""

    def load(self, name):
        maps = load_noise_maps(_saved(name))
        text = maps.described()
        return {"ui": {"text": [text]}, "result": (maps, maps.schedule(), text)}


class OdeonSamplerDDIMInvert(SolverNode):
    TITLE = "DDIM inversion"
    DESCRIPTION = "Walks the model's path up from a picture to a noise that leads back near it."
    SEARCH_ALIASES = ["ddim inversion", "invert", "flip sigmas", "unsampler", "null text", "reverse sampling"]
    OUTPUT_TOOLTIPS = (UP_TIP,)
    CATEGORY = "Odeon/editing"
    SAMPLE = staticmethod(sample_ddim_invert)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "fixed_point_iters": INT(0, 0, 20, "Further model calls in each step that make it the exact reverse of "
                                     "DDIM's; 3 to 5 help most."),
            "eval_at": CHOICE(EVAL_AT, "Which level the model is told: the one a step leaves, or the one it goes to, "
                              "as the code of prompt-to-prompt and null-text inversion does.", advanced=True),
        }}

    def build(self, **options):
        return (host.inverter(sample_ddim_invert, **options),)


class OdeonBDIAInvert(InvertingNode):
    TITLE = "BDIA inversion"
    DESCRIPTION = "Goes up from a picture to noise by steps that the BDIA sampler undoes exactly, a call each."
    SEARCH_ALIASES = ["bdia", "exact inversion", "invert", "round trip", "bidirectional"]
    OUTPUT_TOOLTIPS = ("For the BDIA sampler's noise_maps, on the same SIGMAS, size and model.",)
    KIND = "bdia"

    @classmethod
    def INPUT_TYPES(cls):
        return cls.inputs(1.0, gamma=FLOAT(0.96, 0.05, 1.0, "How much a step leans on the state before it. 0.96 to "
                                           "edit in 40 steps or more; lower wears the picture out."),
                          scaling=CHOICE(["vp", "ve"], "Which state is meant: of unit size as in the paper, or as "
                                         "ComfyUI holds it. No effect on flow models.", advanced=True))

    def invert(self, model, positive, negative, latent, sigmas, cfg, gamma, scaling):
        def run(denoise, levels, *, clean, noise_of, process, callback):
            process.lams(levels)  # refuses those that do not fall
            first, second = invert_bdia(denoise, clean, levels, gamma=gamma, scaling=scaling, process=process,
                                        callback=callback)
            pair = first.new_empty(2, *first.shape)
            pair[0], pair[1] = first, second
            return pair.cpu(), pair[:0].cpu()

        return self.found(run, model, positive, negative, cfg, latent=latent, sigmas=sigmas, seed=0, gamma=gamma,
                          scaling=scaling)


class OdeonEDICT(SolverNode):
    TITLE = "EDICT"
    DESCRIPTION = "Inverts a picture exactly with two coupled states and samples it again under your words."
    SEARCH_ALIASES = ["edict", "exact inversion", "coupled transformations", "edit by words", "round trip", "wallace"]
    OUTPUT_TOOLTIPS = ("The sampler. Give the sampling node the encoded picture as its latent; no noise is used.",)
    CATEGORY = "Odeon/editing"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "source": SOURCE,
            "mix": FLOAT(0.93, 0.5, 1.0, "How far the two states stay apart. 0.93 as published; nearer 1 they drift, "
                         "lower they blur.", step=0.001),
            "leapfrog": BOOLEAN(True, "The two states take turns in going first, as published code does.",
                                advanced=True),
            "source_cfg": SOURCE_CFG,
        }, "optional": {"source_negative": SOURCE_NEGATIVE}}

    def build(self, source, source_negative=None, **options):
        return (host.sampler(sample_edict, source=source, source_negative=source_negative, **options),)


class OdeonSamplerRFInvert(SolverNode):
    TITLE = "RF inversion"
    DESCRIPTION = "Flow models: goes up from a picture to a noise that is steered to a usual one, so that edits obey."
    SEARCH_ALIASES = ["rf inversion", "rectified flow", "flux inversion", "invert", "unsampler", "rout"]
    OUTPUT_TOOLTIPS = (UP_TIP,)
    CATEGORY = "Odeon/editing"
    SAMPLE = staticmethod(sample_rf_invert)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "gamma": FLOAT(0.5, 0.0, 1.0, "Pull to a usual noise, drawn from the seed of the node that samples: 0 "
                           "keeps to the model's own path, 1 forgets the picture."),
        }}

    def build(self, **options):
        return (host.inverter(sample_rf_invert, **options),)


class OdeonSamplerRFEdit(SolverNode):
    TITLE = "RF edit"
    DESCRIPTION = "Flow models: samples an inverted picture under new words while pulling it to the picture at first."
    SEARCH_ALIASES = ["rf inversion", "rectified flow", "flux edit", "restyle", "controller guidance", "rout"]
    OUTPUT_TOOLTIPS = ("The sampler. The sampling node's latent is what RF inversion left; add no noise.",)
    CATEGORY = "Odeon/editing"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "reference": SOCKET("LATENT", "The encoded picture that was inverted."),
            "eta": FLOAT(0.9, 0.0, 1.0, "How hard the steps that pull do so; higher keeps more of the picture."),
            "start": FLOAT(0.0, 0.0, 1.0, "The pull begins at this share of the steps."),
            "stop": FLOAT(0.25, 0.0, 1.0, "The pull ends at this share of the steps; later keeps more of the picture."),
            "trend": CHOICE(TRENDS, "How the pull goes from start to stop; power fades over the whole schedule, as "
                            "the authors' decay.", advanced=True),
            "sde": BOOLEAN(False, "Adds fresh noise in every step but the first and the last: more variety, from the "
                           "seed of the node that samples.", advanced=True),
        }, "optional": {
            "power": FLOAT(1.0, 0.0, 10.0, "For trend power: higher fades sooner.", step=0.1, advanced=True),
        }}

    def build(self, reference, **options):
        samples = host.OfModel(lambda patcher: host.of_latent(patcher, reference["samples"]))
        return (host.sampler(sample_rf_edit, reference=samples, **options),)


class OdeonSDEdit(SolverNode):
    TITLE = "SDEdit"
    DESCRIPTION = "Noises a picture part of the way and samples it back: restyles it, or makes a sketch real."
    SEARCH_ALIASES = ["sdedit", "img2img", "image to image", "restyle", "denoise strength", "sketch", "meng"]
    OUTPUT_TOOLTIPS = ("The sampler. Give the sampling node the whole schedule and the encoded picture as its latent.",)
    CATEGORY = "Odeon/editing"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "sampler": SOCKET("SAMPLER", "What goes back from there: one of Odeon's samplers with a plan."),
            "strength": FLOAT(0.75, 0.0, 1.0, "Share of noise where it starts, whatever the scheduler: 0 leaves the "
                              "picture, 1 starts from noise alone."),
            "repeats": INT(1, 1, 20, "Times over, each from the last one's result. 2 or 3 are more real and less like "
                           "the picture."),
        }}

    def build(self, sampler, strength, repeats):
        plan = host.OfModel(lambda patcher: host.plan_for(patcher, sampler))
        host.plan_of(sampler)
        return (host.sampler(sample_sdedit, plan=plan, strength=strength, repeats=repeats,
                             after=sampler.sampler_function.after),)



def _saved(name: str) -> Path:
    """The file of a name, or of its path in the folder of noise maps."""
    return file_of("noise_maps", Path(name).stem if Path(name).parent == host.folder("noise_maps") else name)


NODES = (OdeonEditFriendlyInvert, OdeonSamplerEditFriendly, OdeonSaveNoiseMaps, OdeonLoadNoiseMaps,
         OdeonSamplerDDIMInvert, OdeonBDIAInvert, OdeonEDICT, OdeonSamplerRFInvert, OdeonSamplerRFEdit, OdeonSDEdit)
