"""The levels that a schedule node would give, computed for the page while its values are being changed.

The page posts what a node is made of to /odeon/sigmas, {"id", "class", "inputs": {name: value or such a node}}, and
draws the answer: {"levels": [...]}, or {"words": why there are none}. The node's own function is called, and only where
that is light: never a network.
"""
import asyncio
import logging
import sys
from functools import lru_cache

from .workflow import describe, inputs_of

ROUTE = "/odeon/sigmas"
ALIASES = "/odeon/aliases"  # {node id: search words}, which ComfyUI itself hands to its page from 0.11 on
LIGHT = {"MODEL", "SIGMAS", "SAMPLER", "INT", "FLOAT", "STRING", "BOOLEAN"}  # inputs of nodes that are computed here
DEEPEST = 16  # nodes on a wire that are looked into
REMEMBERED = 256
_NUMBERS = {"INT": int, "FLOAT": float}
_seen: dict[str, object] = {}  # node id -> the levels of the MODEL that the node last ran with


class Levels:
    """What schedule nodes ask of a MODEL: its levels and whether it is a flow model, without its network."""

    def __init__(self, sampling):
        self.sampling = sampling

    def get_model_object(self, name: str):
        if name != "model_sampling":
            raise ValueError(f"the curve needs the model itself ({name}), which is there once the graph runs")
        return self.sampling


def remember(model) -> None:
    """Keeps the levels of a MODEL for the node that is running, so that its curve is known from then on."""
    running = sys.modules.get("comfy_execution.utils")
    context = running.get_executing_context() if hasattr(running, "get_executing_context") else None
    if context is None or isinstance(model, Levels):
        return
    _seen.pop(context.node_id, None)
    _seen[context.node_id] = Levels(model.get_model_object("model_sampling"))
    if len(_seen) > REMEMBERED:
        del _seen[next(iter(_seen))]


def answer(spec, nodes: dict[str, type]) -> dict:
    """What the page is told about a node: {"levels": floats} or {"words": text}."""
    try:
        return {"levels": _levels(spec, nodes, 0).tolist()}
    except (ValueError, ImportError) as error:
        return {"words": str(error)}


def _levels(spec, nodes: dict[str, type], depth: int):
    """The SIGMAS of a node, by calling its own function. Raises ValueError saying why that can't be done now."""
    if not (isinstance(spec, dict) and isinstance(spec.get("class"), str) and isinstance(spec.get("inputs"), dict)):
        raise ValueError("the page sent no node; reload it")
    cls = nodes.get(spec["class"])
    ours = cls is not None and "SIGMAS" in cls.RETURN_TYPES and cls.CATEGORY.startswith("Odeon/schedules")
    if not ours or depth > DEEPEST:
        raise ValueError(f"The curve shows Odeon's own schedules; that of {spec['class']} is known once it runs.")
    asked = inputs_of(describe(cls))
    if any(isinstance(kind, str) and kind not in LIGHT for kind, _, required in asked.values() if required):
        raise ValueError("Found when the graph runs; Plot sigmas shows it then.")
    given = {}
    for name, (kind, options, required) in asked.items():
        if name in spec["inputs"] and (required or kind != "SAMPLER") and (kind != "MODEL" or hasattr(cls, "SCHEDULE")):
            given[name] = _value(spec, name, kind, options, nodes=nodes, depth=depth)
        elif required:
            raise ValueError(f"Connect {name} to see the curve.")
    if given.get("steps", 0) > getattr(cls, "LIVE_STEPS", 10000):
        raise ValueError(f"From {cls.LIVE_STEPS + 1} steps on this takes a while; it is found when the graph runs.")
    made = getattr(cls(), cls.FUNCTION)(**given)
    return (made["result"] if isinstance(made, dict) else made)[cls.RETURN_TYPES.index("SIGMAS")]


def _value(spec: dict, name: str, kind, options: dict, *, nodes: dict[str, type], depth: int):
    value = spec["inputs"][name]
    if kind == "SIGMAS":
        return _levels(value, nodes, depth + 1)
    if kind == "MODEL":
        return _model(spec, value, nodes)
    if isinstance(value, (dict, list, type(None))):
        raise ValueError(f"{name} comes from another node; the curve is known once the graph runs.")
    if isinstance(kind, list):
        if value not in kind:
            raise ValueError(f"{name} must be one of {', '.join(map(str, kind))}, got {value!r}")
    elif kind in _NUMBERS:
        try:
            value = _NUMBERS[kind](value)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{name} needs a number, got {value!r}") from error
        if not options["min"] <= value <= options["max"]:
            raise ValueError(f"{name} must lie in {options['min']} to {options['max']}, got {value}")
    return value


def _model(spec: dict, source, nodes: dict[str, type]) -> Levels:
    """The levels of a MODEL: of the shipped checkpoints, and of any model that the node ran with as it is wired now."""
    if isinstance(source, dict) and source.get("class") == "OdeonShapesCheckpoint":
        return _shipped(nodes["OdeonShapesCheckpoint"], str(source.get("inputs", {}).get("model")))
    known = _seen.get(str(spec.get("id"))) if spec.get("ran") else None
    if known is None:
        raise ValueError("The model's noise levels are known once the graph has run.")
    return known


@lru_cache(maxsize=16)
def _shipped(cls: type, name: str) -> Levels:
    return Levels(cls().load(name)[0].get_model_object("model_sampling"))


def register(nodes: dict[str, type]) -> None:
    """Adds the routes to ComfyUI's server; without one nothing happens."""
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if server is None or not hasattr(server, "routes"):
        return
    from aiohttp import web

    @server.routes.get(ALIASES)
    async def aliases(_request):
        return web.json_response({name: cls.SEARCH_ALIASES for name, cls in nodes.items()})

    @server.routes.post(ROUTE)
    async def sigmas(request):
        try:
            spec = await request.json()
        except ValueError:
            spec = None
        try:
            return web.json_response(await asyncio.to_thread(answer, spec, nodes))
        except Exception:  # a page must never show a server error for a curve
            logging.exception("Odeon: the curve of a schedule failed")
            return web.json_response({"words": "The curve failed; the log of ComfyUI says why."})
