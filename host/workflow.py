"""Workflow files: reads what the browser saves (UI form) or queues (API form), and turns the first into the second.

UI form: nodes with positional widget values, links, muted and bypassed nodes, reroutes, primitives and subgraphs.
API form: {id: {"class_type", "inputs": {name: value or [id, slot]}, "_meta": {"title"}}}; the one form that is
checked and run. Node definitions come as ComfyUI's /object_info gives them, from `describe` or from a server.
"""
import copy
import json
from dataclasses import dataclass
from pathlib import Path

from .renamed import renamed

NOTES = ("Note", "MarkdownNote")
MUTED, BYPASSED = 2, 4
CONTROLS = ("fixed", "increment", "decrement", "randomize")
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


class WorkflowError(ValueError):
    """A file that can't be used as a workflow; says what is wrong, what was got and what to do."""


@dataclass
class Workflow:
    """One loaded file: `ui` as the browser saved it (None for a file in API form), `prompt` if it was in API form."""
    ui: dict | None
    prompt: dict | None

    def to_prompt(self, definitions: dict) -> dict:
        """The API form, by the node definitions at hand; nodes they lack keep their links and lose their widgets."""
        return copy.deepcopy(self.prompt) if self.ui is None else _Flattened(self.ui, definitions).prompt()

    def set_values(self, definitions: dict, values: dict[tuple[str, str], object]) -> "Workflow":
        """A copy with input (node, name) set to each value; node is an id, a title, or the class of a single node."""
        new = copy.deepcopy(self)
        for (wanted, name), value in values.items():
            node_id = _find_node(new.to_prompt(definitions), wanted, name)
            if new.ui is None:
                new.prompt[node_id]["inputs"][name] = value
            else:
                _set_widget(new.ui, definitions, node_id, name, value)
        return new

    def set_seed(self, definitions: dict, seed: int) -> "Workflow":
        """A copy with every seed and noise_seed that is typed in, not linked, set to seed."""
        found = {(node_id, name): seed for node_id, node in self.to_prompt(definitions).items()
                 for name, value in node["inputs"].items() if name in ("seed", "noise_seed") and not is_link(value)}
        return self.set_values(definitions, found)


def load(path: Path) -> Workflow:
    """A workflow from a JSON file, or from a PNG that carries one; inputs renamed since have their new names."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WorkflowError(f"{path} can't be read ({error.strerror or error}); check the path") from error
    if data.startswith((b"\xff\xd8", b"GIF8", b"RIFF")):
        raise WorkflowError(f"{path} is a picture that carries no workflow which can be read here; use the PNG that "
                            "ComfyUI or odeon saved, or the workflow's JSON")
    try:
        return parse(json.loads(_text_in_png(path) if data.startswith(b"\x89PNG") else data))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WorkflowError(f"{path} is not JSON ({error}); save the workflow again from the browser") from error
    except WorkflowError as error:
        raise WorkflowError(f"{path} {error}") from error


def parse(data) -> Workflow:
    """A workflow from parsed JSON of either form."""
    nodes = data.get("nodes") if isinstance(data, dict) else None
    if isinstance(nodes, list) and nodes and all(
            isinstance(node, dict) and {"id", "type"} <= node.keys() for node in nodes):
        return Workflow(renamed(data), None)
    if isinstance(data, dict) and data and all(
            isinstance(node, dict) and isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), dict)
            for node in data.values()):
        return Workflow(None, renamed(data))
    kind = f"an object with {', '.join(map(repr, list(data)[:4])) or 'nothing'}" if isinstance(data, dict) else \
        f"a {type(data).__name__}"
    raise WorkflowError(f"is JSON but no workflow: it holds {kind}; need 'nodes' and 'links' as the browser saves, "
                        "or nodes with 'class_type' and 'inputs' as it exports for the API")


def _text_in_png(path: Path) -> str:
    """The workflow a PNG carries; the browser's form before the API's."""
    from PIL import Image

    try:
        texts = Image.open(path).info
    except OSError as error:
        raise WorkflowError("is a damaged PNG; use the file that SaveImage wrote") from error
    found = texts.get("workflow") or texts.get("prompt")
    if found is None:
        raise WorkflowError("is a PNG without a workflow inside: chats, web sites and picture editors take it out, and "
                            "ComfyUI writes none with --disable-metadata; use the file that SaveImage wrote")
    return found


def is_link(value) -> bool:
    """Whether an input value of the API form is [node id, output slot]."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], (str, int)) and type(value[1]) is int


def describe(cls) -> dict:
    """A node class as /object_info describes it, as far as checking and converting need it."""
    inputs = cls.INPUT_TYPES()
    outputs = list(cls.RETURN_TYPES)
    return {"input": inputs, "output": outputs, "output_name": list(getattr(cls, "RETURN_NAMES", outputs)),
            "output_node": getattr(cls, "OUTPUT_NODE", False)}


def inputs_of(definition: dict) -> dict[str, tuple[object, dict, bool]]:
    """name -> (type, options, required) of a definition's inputs, in widget order."""
    found = {}
    for group in ("required", "optional"):
        for name, spec in definition["input"].get(group, {}).items():
            found[name] = (spec[0], spec[1] if len(spec) > 1 else {}, group == "required")
    return found


def widgets_of(definition: dict) -> list[tuple[str, dict]]:
    """(name, options) of the inputs that have a widget, in the order of widgets_values."""
    return [(name, options) for name, (kind, options, _) in inputs_of(definition).items()
            if (isinstance(kind, list) or kind in WIDGETS) and not options.get("forceInput")]


def widget_slots(definition: dict, values: list) -> dict[str, int]:
    """Where in a node's widgets_values each input stands; a seed is followed by a slot for what happens after a run."""
    slots, place = {}, 0
    for name, options in widgets_of(definition):
        if place >= len(values):
            break
        slots[name] = place
        place += 1
        controlled = options.get("control_after_generate") or name in ("seed", "noise_seed")
        if controlled and place < len(values) and values[place] in CONTROLS:
            place += 1
    return slots


class _Flattened:
    """A UI graph with its subgraphs put in place: node paths like "12" or "7:3", and where each input comes from."""

    def __init__(self, ui: dict, definitions: dict):
        self.definitions = definitions
        self.subgraphs = {sub["id"]: sub for sub in ui.get("definitions", {}).get("subgraphs", [])}
        self.nodes, self.links, self.inside = {}, {}, {}
        self._add(ui, "")

    def _add(self, graph: dict, prefix: str) -> None:
        for link in graph.get("links", []):
            number, origin, slot = link[:3] if isinstance(link, list) else \
                (link["id"], link["origin_id"], link["origin_slot"])
            self.links[f"{prefix}{number}"] = (origin, slot)
        for node in graph["nodes"]:
            path = f"{prefix}{node['id']}"
            self.nodes[path] = node
            sub = self.subgraphs.get(node["type"])
            if sub is not None:
                self.inside[path] = _outputs(sub)
                self._add(sub, f"{path}:")

    def prompt(self) -> dict:
        """The API form of every node that runs."""
        return {path: self._entry(path, node) for path, node in self.nodes.items() if self._runs(path, node)}

    def _runs(self, path: str, node: dict) -> bool:
        virtual = (*NOTES, "Reroute", "PrimitiveNode")
        return node["type"] not in virtual and path not in self.inside and self._active(path)

    def _active(self, path: str) -> bool:
        parent = path.rpartition(":")[0]
        return self.nodes[path].get("mode", 0) not in (MUTED, BYPASSED) and (not parent or self._active(parent))

    def _entry(self, path: str, node: dict) -> dict:
        definition = self.definitions.get(node["type"])
        inputs = {} if definition is None else _widget_values(definition, node.get("widgets_values"))
        prefix = path[:len(path) - len(str(node["id"]))]
        for socket in node.get("inputs", []):
            source = None if socket.get("link") is None else self._source(prefix, socket["link"])
            if source is not None:
                inputs[socket["name"]] = source
        return {"class_type": node["type"], "inputs": inputs, "_meta": {"title": node.get("title") or node["type"]}}

    def _source(self, prefix: str, link) -> object:
        """What feeds an input: [id, slot], a primitive's value, or None where the way ends (a muted node, no link).

        prefix: of the graph that holds the link: "" or the path of a subgraph node and ":".
        """
        origin_id, slot = self.links.get(f"{prefix}{link}", (f"(link {link})", 0))
        if origin_id == -10:
            return self._input_of(prefix[:-1], slot)
        origin = f"{prefix}{origin_id}"
        node = self.nodes.get(origin)
        if node is None:
            return [origin, slot]
        mode = node.get("mode", 0)
        if mode == MUTED:
            return None
        if node["type"] == "PrimitiveNode":
            return (node.get("widgets_values") or [None])[0]
        if mode == BYPASSED or node["type"] == "Reroute":
            inputs = node.get("inputs", []) if node["type"] == "Reroute" else _same_type_inputs(node, slot)
            linked = next((socket for socket in inputs if socket.get("link") is not None), None)
            return None if linked is None else self._source(prefix, linked["link"])
        if origin in self.inside:
            inner = self.inside[origin].get(slot)
            return None if inner is None else self._source(f"{origin}:", inner)
        return [origin, slot]

    def _input_of(self, instance: str, slot: int) -> object:
        """What feeds input `slot` of a subgraph node, seen from inside; None keeps the value of the widget inside."""
        node = self.nodes[instance]
        sockets = node.get("inputs", [])
        if slot >= len(sockets) or sockets[slot].get("link") is None:
            return None
        outer = instance[:len(instance) - len(str(node["id"]))]
        return self._source(outer, sockets[slot]["link"])


def _outputs(sub: dict) -> dict[int, object]:
    """Output slot of a subgraph -> the number of the link inside that feeds it."""
    return {link["target_slot"]: link["id"] for link in sub.get("links", []) if link["target_id"] == -20}


def _same_type_inputs(node: dict, slot: int) -> list[dict]:
    """The inputs a bypassed node may pass on to output `slot`: of its type, the one at the same place first."""
    inputs, kind = node.get("inputs", []), node["outputs"][slot]["type"]
    ordered = inputs[slot:slot + 1] + inputs[:slot] + inputs[slot + 1:]
    return [socket for socket in ordered if socket["type"] == kind]


def _widget_values(definition: dict, values) -> dict:
    if isinstance(values, dict):
        return {name: values[name] for name, _ in widgets_of(definition) if name in values}
    values = values or []
    found = {name: values[place] for name, place in widget_slots(definition, values).items()}
    return {name: {"__value__": value} if isinstance(value, list) else value for name, value in found.items()}


def _find_node(prompt: dict, wanted: str, name: str) -> str:
    """The id of the node meant by an id, a title or a class name; the input must be there and not linked."""
    names = {node_id: (node.get("_meta", {}).get("title"), node["class_type"]) for node_id, node in prompt.items()}
    matches = [wanted] if wanted in prompt else [node_id for node_id, of_node in names.items() if wanted in of_node]
    if len(matches) != 1:
        found = f"{len(matches)} nodes ({', '.join(matches)})" if matches else "no node"
        raise WorkflowError(f"{wanted!r} names {found} of the workflow; use a node id: {_listing(prompt)}")
    inputs = prompt[matches[0]]["inputs"]
    if name not in inputs or is_link(inputs[name]):
        free = ", ".join(key for key, value in inputs.items() if not is_link(value)) or "none"
        raise WorkflowError(f"node {matches[0]} ({prompt[matches[0]]['class_type']}) has no value {name!r} to set; "
                            f"it has: {free}")
    return matches[0]


def _listing(prompt: dict) -> str:
    return ", ".join(f"{node_id} {node['class_type']}" for node_id, node in prompt.items())


def _set_widget(ui: dict, definitions: dict, path: str, name: str, value) -> None:
    """Writes a widget value into the UI form, inside a subgraph's definition where the path leads there."""
    graph = ui
    subgraphs = {sub["id"]: sub for sub in ui.get("definitions", {}).get("subgraphs", [])}
    *outer, last = path.split(":")
    for step in outer:
        graph = subgraphs[_node_by_id(graph, step)["type"]]
    node = _node_by_id(graph, last)
    values = node["widgets_values"]
    if isinstance(values, dict):
        values[name] = value
    else:
        values[widget_slots(definitions[node["type"]], values)[name]] = value


def _node_by_id(graph: dict, node_id: str) -> dict:
    return next(node for node in graph["nodes"] if str(node["id"]) == node_id)
