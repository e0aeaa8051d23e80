"""Samplers and schedules by name, ComfyUI's and Odeon's together, for nodes that compare them."""
import difflib

from .. import host
from ..samplers.dc_solver import numbers_of_text
from . import (
    samplers,
    samplers_adaptive,
    samplers_sigma,
    schedules,
    schedules_families,
    schedules_models,
    schedules_shapes,
    schedules_tables,
)
from .inputs import CHOICE

NONE = "none"


def _complete(cls: type, given: set[str]) -> bool:
    """Whether a node's required inputs all have a default, or are given."""
    return all(name in given or "default" in spec[1] for name, spec in cls.INPUT_TYPES()["required"].items())


def _named(modules: tuple, kind: str, stem: str, given: set[str]) -> dict[str, type]:
    """Nodes whose first output is of a kind and that need nothing but what is given, by their names in the menus."""
    found = [cls for module in modules for cls in module.NODES
             if cls.RETURN_TYPES[0] == kind and _complete(cls, given)
             and given <= {"model", *cls.INPUT_TYPES()["required"]}]
    return {f"Odeon {cls.__name__.removeprefix(stem)}": cls for cls in found}


# Names are made of node ids, which never change: saved workflows hold them.
SAMPLERS = _named((samplers, samplers_sigma, samplers_adaptive), "SAMPLER", "OdeonSampler", set())
SCHEDULES = _named((schedules, schedules_families, schedules_models, schedules_shapes, schedules_tables), "SIGMAS",
                   "OdeonSigmas", {"steps", "model"})


def sampler_choice(tooltip: str, default: str = NONE) -> tuple:
    return CHOICE([NONE, *host.sampler_names(), *SAMPLERS], tooltip, default=default)


def schedule_choice(tooltip: str, default: str = NONE) -> tuple:
    return CHOICE([NONE, *host.scheduler_names(), *SCHEDULES], tooltip, default=default)


def chosen(*picked: str, more: str = "") -> list[str]:
    """The names picked from menus and written between commas, each once; 'none' is none."""
    written = [name.strip() for name in more.replace("\n", ",").split(",")]
    return list(dict.fromkeys(name for name in (*picked, *written) if name and name != NONE))


def sampler_of(name: str):
    """The SAMPLER of a name of the menus; one of Odeon's at its defaults. Raises ValueError for another name."""
    if name in SAMPLERS:
        return _built(SAMPLERS[name])
    _require_known("sampler", name, [*host.sampler_names(), *SAMPLERS])
    return host.named_sampler(name)


def sigmas_of(name: str, model, steps: int):
    """The SIGMAS of a name of the menus for a MODEL; one of Odeon's at its defaults. Raises ValueError for another."""
    if name in SCHEDULES:
        cls = SCHEDULES[name]
        asked = {key for group in cls.INPUT_TYPES().values() for key in group}
        return _built(cls, steps=steps, **({"model": model} if "model" in asked else {}))
    _require_known("schedule", name, [*host.scheduler_names(), *SCHEDULES])
    return host.named_sigmas(model, name, steps)


def _built(cls: type, **given):
    """The first output of a node at its defaults."""
    defaults = {name: spec[1]["default"] for name, spec in cls.INPUT_TYPES()["required"].items()
                if "default" in spec[1]}
    made = getattr(cls(), cls.FUNCTION)(**{**defaults, **given})
    return (made["result"] if isinstance(made, dict) else made)[0]


def _require_known(what: str, name: str, names: list[str]) -> None:
    if name not in names:
        near = difflib.get_close_matches(name, names, 3, 0.5) or names
        raise ValueError(f"there is no {what} {name!r}; did you mean {', '.join(near)}?")


def numbers(text: str, what: str, *, whole: bool = False) -> list:
    """Numbers between commas, each once. Raises ValueError for other words, none, or what must be whole and is not."""
    found = list(dict.fromkeys(numbers_of_text(text.strip().strip(","), f"{what} must be numbers between commas")))
    if not found or min(found) <= 0.0 or whole and any(value != int(value) for value in found):
        raise ValueError(f"{what} must be {'whole ' * whole}numbers above 0 between commas, got {text!r}")
    return [int(value) for value in found] if whole else found
