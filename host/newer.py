"""What a workflow holds that this Odeon does not know: it was saved by a newer one."""
from collections.abc import Iterator

from .workflow import BYPASSED, MUTED, Workflow, WorkflowError, inputs_of

UPDATE = "it comes from a newer Odeon; update Odeon, or remove {}"


def is_ours(class_type: str) -> bool:
    """Whether a node id is one of Odeon's, known or not."""
    return class_type.startswith("Odeon")


def require_known(workflow: Workflow, definitions: dict) -> None:
    """Raises WorkflowError with unknown_parts, where there are any."""
    unknown = unknown_parts(workflow, definitions)
    if unknown:
        raise WorkflowError("\n".join(unknown))


def unknown_parts(workflow: Workflow, definitions: dict) -> list[str]:
    """A line for each of Odeon's nodes, and each of their inputs, that the definitions lack; [] if all are known.

    Silence about an unknown input would draw another picture than the one that was shared. Nodes that are muted or
    bypassed don't count."""
    found = {}
    for where, kind, names in _nodes(workflow):
        if kind not in definitions:
            found[f"node {where} ({kind}): unknown node; {UPDATE.format('the node')}"] = None
            continue
        for name in names:
            if name not in inputs_of(definitions[kind]):
                found[f"node {where} ({kind}): unknown input {name!r}; {UPDATE.format('the input')}"] = None
    return list(found)


def _nodes(workflow: Workflow) -> Iterator[tuple[str, str, list[str]]]:
    """(id, class, names of inputs) of Odeon's nodes."""
    if workflow.ui is None:
        for key, node in workflow.prompt.items():
            if is_ours(node["class_type"]):
                yield key, node["class_type"], list(node["inputs"])
        return
    for graph in (workflow.ui, *(workflow.ui.get("definitions") or {}).get("subgraphs", [])):
        for node in graph["nodes"]:
            if is_ours(node["type"]) and node.get("mode", 0) not in (MUTED, BYPASSED):
                within = f"{graph['name']}:" if graph is not workflow.ui and graph.get("name") else ""
                yield f"{within}{node['id']}", node["type"], [socket["name"] for socket in node.get("inputs") or []]
