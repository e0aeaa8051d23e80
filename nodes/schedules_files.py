"""Learned steps as files: saved with what they were made for, loaded like a LoRA."""
import logging

import torch

from .. import host
from ..measure.kept import SCHEDULE_FOLDER, VERSION, load_plan, load_sigmas, save_plan, save_sigmas
from ..samplers.learned import LearnedPlan, plan_learned
from ..schedules.interpolate import interpolated_sigmas
from .files import file_of, found_file, names_of
from .inputs import CHOICE, INT, SOCKET

NAME_TIP = "Of the file, without folder or ending. A file of that name is replaced."
DIFFERS_TIP = "What the file was made for, and what differs here."
MODEL_TIP = "The model you sample with: you are told where it is not the one the file was made for."


class OdeonSaveSigmas:
    TITLE = "Save sigmas"
    DESCRIPTION = "Keeps learned steps in a small file, with what they were made for, to load and to share."
    SEARCH_ALIASES = ["save schedule", "learned steps", "export sigmas"]
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("path",)
    OUTPUT_TOOLTIPS = ("Where the file is.",)
    OUTPUT_NODE = True
    FUNCTION = "save"
    CATEGORY = "Odeon/schedules"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "sigmas": SOCKET("SIGMAS", "The steps to keep."),
            "name": ("STRING", {"default": "mine", "tooltip": NAME_TIP}),
        }, "optional": {"about": SOCKET("ODEON_ABOUT", "What they were made for, from the node that found them.")}}

    def save(self, sigmas, name, about=None):
        path = file_of(host.SCHEDULES, name)
        save_sigmas(path, sigmas, {**(about or {"what": "steps"}), "steps": len(sigmas) - 1, "odeon": VERSION})
        return {"ui": {"text": [str(path)]}, "result": (str(path),)}


class OdeonLoadSigmas:
    TITLE = "Load sigmas"
    DESCRIPTION = "Learned steps from a file; those of the Shapes models come with the pack."
    SEARCH_ALIASES = ["load schedule", "learned steps", "import sigmas"]
    RETURN_TYPES = ("SIGMAS", "STRING")
    RETURN_NAMES = ("sigmas", "report")
    OUTPUT_TOOLTIPS = ("The steps, for the sampler they were made for.", DIFFERS_TIP)
    FUNCTION = "load"
    CATEGORY = "Odeon/schedules"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "name": CHOICE(names_of(host.SCHEDULES, SCHEDULE_FOLDER) or ["none yet"], "A file of yours, or one of the "
                           "pack; yours comes first where both have the name."),
            "steps": INT(0, 0, 1000, "Another number of steps, read between the learned ones; 0 takes them as they "
                         "are, which is best."),
        }, "optional": {"model": SOCKET("MODEL", MODEL_TIP)}}

    @classmethod
    def IS_CHANGED(cls, name, steps, model=None):
        return _changed(name)

    def load(self, name, steps, model=None):
        sigmas, about = load_sigmas(found_file(host.SCHEDULES, SCHEDULE_FOLDER, name))
        lines = described(about, model)
        if steps and steps != len(sigmas) - 1:
            lines.append(f"read at {steps} steps: learned for {len(sigmas) - 1}, and less good elsewhere")
            sigmas = torch.tensor(interpolated_sigmas(sigmas.tolist(), steps), dtype=torch.float64)
        text = "\n".join(lines)
        return {"ui": {"text": [text]}, "result": (sigmas.float(), text)}


class OdeonSavePlan:
    TITLE = "Save plan"
    DESCRIPTION = "Keeps a learned plan, its steps and its solver, in a small file to load and to share."
    SEARCH_ALIASES = ["save solver", "learned plan", "learned solver"]
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("path",)
    OUTPUT_TOOLTIPS = ("Where the file is.",)
    OUTPUT_NODE = True
    FUNCTION = "save"
    CATEGORY = "Odeon/schedules"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "sampler": SOCKET("SAMPLER", "From Optimize plan."),
            "name": ("STRING", {"default": "mine", "tooltip": NAME_TIP}),
        }}

    def save(self, sampler, name):
        learned = host.plan_of(sampler)[1].get("learned")
        if not isinstance(learned, LearnedPlan):
            raise ValueError("this sampler is no learned plan: connect the SAMPLER that Optimize plan gives")
        path = file_of(host.SCHEDULES, name)
        save_plan(path, learned._replace(about={**learned.about, "odeon": VERSION}))
        return {"ui": {"text": [str(path)]}, "result": (str(path),)}


class OdeonLoadPlan:
    TITLE = "Load plan"
    DESCRIPTION = "A learned plan from a file: the SAMPLER and the SIGMAS it belongs with."
    SEARCH_ALIASES = ["load solver", "learned plan", "learned solver"]
    RETURN_TYPES = ("SAMPLER", "SIGMAS", "STRING")
    RETURN_NAMES = ("sampler", "sigmas", "report")
    OUTPUT_TOOLTIPS = ("The learned solver.", "Its steps: it runs on no others.",
                       DIFFERS_TIP)
    FUNCTION = "load"
    CATEGORY = "Odeon/schedules"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "name": CHOICE(names_of(host.SCHEDULES, SCHEDULE_FOLDER) or ["none yet"], "A file of yours, or one of the "
                           "pack; yours comes first where both have the name."),
        }, "optional": {"model": SOCKET("MODEL", MODEL_TIP)}}

    @classmethod
    def IS_CHANGED(cls, name, model=None):
        return _changed(name)

    def load(self, name, model=None):
        learned = load_plan(found_file(host.SCHEDULES, SCHEDULE_FOLDER, name))
        text = "\n".join(described(learned.about, model))
        sigmas = torch.tensor(learned.sigmas, dtype=torch.float64).float()
        return {"ui": {"text": [text]}, "result": (host.solver(plan_learned, learned=learned), sigmas, text)}


def described(about: dict, model) -> list[str]:
    """What a file was made for, and a warning in words where that is not the MODEL given."""
    lines = [f"{about.get('what', 'steps')} of {about.get('steps', '?')} steps, CFG {about.get('cfg', 'unknown')}, "
             f"sampler {str(about.get('sampler', 'unknown')).removeprefix('plan_')}"]
    if "size" in about:
        lines.append(f"latent size {' x '.join(map(str, about['size']))}; other sizes work, but were not learned on")
    if model is None:
        return lines
    made, process = about.get("process"), host.process_of(model).name
    if made is not None and made != process:
        raise ValueError(f"this file was made on a {made} model, whose levels mean something else on this {process} "
                         "one; learn steps on it")
    if "model" not in about:
        lines.append("the file does not say which model it was made for")
    elif not host.same_weights(about["model"], host.identity(model)):
        lines.append("WARNING: made for another model than this one. It may still help a close relative; compare it "
                     "with the sampler's usual schedule, or learn steps on this model")
        logging.warning("Odeon: %s", lines[-1])
    return lines


def _changed(name: str):
    path = found_file(host.SCHEDULES, SCHEDULE_FOLDER, name)
    return path.stat().st_mtime if path.is_file() else ""


NODES = (OdeonSaveSigmas, OdeonLoadSigmas, OdeonSavePlan, OdeonLoadPlan)
