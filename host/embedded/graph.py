"""Checks a graph in API form and runs it: every node once, in the order that its links ask for."""
import inspect
from typing import NamedTuple

from ..workflow import describe, inputs_of, is_link
from .context import Context, running


class Problem(NamedTuple):
    """One thing wrong with a graph, and the node that has it ('' for the graph as a whole)."""
    node_id: str
    title: str
    message: str

    def __str__(self) -> str:
        where = f"node {self.node_id} ({self.title}): " if self.node_id else ""
        return where + self.message


class GraphError(ValueError):
    """A node failed; the message names it."""


def check(prompt: dict, classes: dict[str, type]) -> list[Problem]:
    """Every problem of a graph at once: unknown nodes, missing, wrong and out-of-range inputs, bad links, circles."""
    problems = []
    for node_id, node in prompt.items():
        title = _title(node)
        cls = classes.get(node["class_type"])
        if cls is None:
            messages = [f"unknown node class {node['class_type']!r}; install the pack that has it, or remove the node"]
        else:
            messages = _input_problems(prompt, node, cls, classes)
        problems += [Problem(node_id, title, message) for message in messages]
    if not any(getattr(classes.get(node["class_type"]), "OUTPUT_NODE", False) for node in prompt.values()):
        problems.append(Problem("", "", "no node of the graph saves or shows anything; add a SaveImage"))
    circle = _circle(prompt)
    if circle:
        problems.append(Problem(circle[0], _title(prompt[circle[0]]), f"links run in a circle: {' -> '.join(circle)}"))
    return problems


def _title(node: dict) -> str:
    title = node.get("_meta", {}).get("title") or node["class_type"]
    return title if title == node["class_type"] else f"{title}, {node['class_type']}"


def _input_problems(prompt: dict, node: dict, cls: type, classes: dict[str, type]) -> list[str]:
    messages, known = [], inputs_of(describe(cls))
    validated = set(inspect.signature(cls.VALIDATE_INPUTS).parameters) if hasattr(cls, "VALIDATE_INPUTS") else set()
    for name, (kind, options, required) in known.items():
        if name not in node["inputs"]:
            if required:
                messages.append(f"input {name!r} is missing; connect a {_kind_name(kind)} or give a value")
            continue
        value = node["inputs"][name]
        message = _link_problem(prompt, value, kind, classes) if is_link(value) else \
            _value_problem(unwrap(value), kind, {} if name in validated else options)
        if message:
            messages.append(f"input {name!r} {message}")
        elif name in validated and not is_link(value):
            verdict = cls.VALIDATE_INPUTS(**{name: unwrap(value)})
            if verdict is not True:
                messages.append(str(verdict))
    return messages


def _kind_name(kind) -> str:
    return "COMBO" if isinstance(kind, list) else str(kind)


def _link_problem(prompt: dict, link: list, kind, classes: dict[str, type]) -> str | None:
    source_id, slot = str(link[0]), link[1]
    source = prompt.get(source_id)
    if source is None:
        return f"is linked to node {source_id}, which is not in the graph; connect it again"
    cls = classes.get(source["class_type"])
    if cls is None:
        return None  # reported at that node
    if not 0 <= slot < len(cls.RETURN_TYPES):
        return f"is linked to output {slot} of node {source_id}, which has {len(cls.RETURN_TYPES)} outputs"
    got = cls.RETURN_TYPES[slot]
    if "*" in (got, kind) or set(_kind_name(got).split(",")) & set(_kind_name(kind).split(",")):
        return None
    return f"needs {_kind_name(kind)}, got {_kind_name(got)} from node {source_id} ({source['class_type']})"


def _value_problem(value, kind, options: dict) -> str | None:
    if isinstance(kind, list) or kind == "COMBO":
        allowed = kind if isinstance(kind, list) else options.get("options", [])
        known = value in allowed or not allowed
        return None if known else f"must be one of {', '.join(map(str, allowed))}, got {value!r}"
    if kind in ("INT", "FLOAT"):
        return _number_problem(value, kind, options)
    if kind == "BOOLEAN" and not isinstance(value, (bool, int)):
        return f"needs true or false, got {value!r}"
    if kind not in ("STRING", "BOOLEAN", "*"):
        return f"needs a connected {kind}, got the value {value!r}"
    return None


def _number_problem(value, kind: str, options: dict) -> str | None:
    try:
        number = convert(value, kind)
    except (TypeError, ValueError, OverflowError):
        return f"needs a number ({kind}), got {value!r}"
    low, high = options.get("min"), options.get("max")
    if low is not None and number < low or high is not None and number > high or number != number:
        return f"must lie in {low} to {high}, got {number}"
    step = options.get("step", 1)
    if kind == "INT" and step > 1 and (number - (low or 0)) % step:
        return f"must be {low or 0} plus a multiple of {step}, got {number}"
    return None


def unwrap(value):
    """A literal of the API form: lists come wrapped as {"__value__": [...]}, so that they are no links."""
    return value["__value__"] if isinstance(value, dict) and "__value__" in value else value


def convert(value, kind):
    """A literal as the type its input asks for, as ComfyUI converts it."""
    converter = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}.get(kind if isinstance(kind, str) else "")
    return value if converter is None else converter(value)


def _sources(node: dict) -> list[str]:
    return [str(value[0]) for value in node["inputs"].values() if is_link(value)]


def _circle(prompt: dict) -> list[str] | None:
    """Ids of nodes that feed one another in a circle, the first repeated at the end."""
    done = set()
    for start in prompt:
        way, stack = [start], [iter(_sources(prompt[start]))]
        while stack:
            source = next(stack[-1], None)
            if source is None:
                stack.pop()
                done.add(way.pop())
            elif source in way:
                return [*way[way.index(source):], source][::-1]
            elif source in prompt and source not in done:
                way.append(source)
                stack.append(iter(_sources(prompt[source])))
    return None


def order(prompt: dict, classes: dict[str, type]) -> list[str]:
    """The nodes that output nodes need, each after all that feed it; other nodes don't run."""
    found: dict[str, None] = {}
    stack = [(node_id, False) for node_id in reversed(prompt)
             if getattr(classes[prompt[node_id]["class_type"]], "OUTPUT_NODE", False)]
    while stack:
        node_id, fed = stack.pop()
        if fed:
            found.setdefault(node_id)
        elif node_id not in found:
            stack.append((node_id, True))
            stack += [(source, False) for source in reversed(_sources(prompt[node_id]))]
    return list(found)


def run(prompt: dict, classes: dict[str, type], context: Context) -> dict[str, tuple]:
    """Runs a checked graph; returns the outputs of every node that ran, by id. Errors name their node."""
    results: dict[str, tuple] = {}
    with running(context):
        for node_id in order(prompt, classes):
            node = prompt[node_id]
            context.events.node_started(node_id, node.get("_meta", {}).get("title") or node["class_type"])
            try:
                results[node_id] = _run_node(classes[node["class_type"]], node, results)
            except (ValueError, ImportError, RuntimeError) as error:
                raise GraphError(f"node {node_id} ({_title(node)}): {error}") from error
    return results


def _run_node(cls: type, node: dict, results: dict[str, tuple]) -> tuple:
    arguments = {}
    for name, (kind, _, _) in inputs_of(describe(cls)).items():
        if name in node["inputs"]:
            value = node["inputs"][name]
            arguments[name] = results[str(value[0])][value[1]] if is_link(value) else convert(unwrap(value), kind)
    returned = getattr(cls(), cls.FUNCTION)(**arguments)
    return returned.get("result", ()) if isinstance(returned, dict) else returned
