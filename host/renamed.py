"""Inputs that got another name: saved workflows hold the old one, and open as if it had always been the new one.

web/renamed.json holds {node id: {old input name: name of today}}; the page reads the same file (web/js/odeon_newer.js).
Node ids and the order of widgets never change, so a name is all that can."""
import json
import sys
from pathlib import Path

RENAMED = json.loads((Path(__file__).parent.parent / "web" / "renamed.json").read_text(encoding="utf-8"))


def renamed(data: dict, table: dict = RENAMED) -> dict:
    """A workflow as parsed from JSON, of either form, with the names of today: a copy where any is old, else itself.

    Where both names are there the new one counts."""
    if not table:
        return data
    if isinstance(data.get("nodes"), list):
        inside = data.get("definitions") or {}
        graphs = [_graph(sub, table) for sub in inside.get("subgraphs") or []]
        return {**_graph(data, table), **({"definitions": {**inside, "subgraphs": graphs}} if graphs else {})}
    return {key: {**node, "inputs": _keys(node["inputs"], table.get(node["class_type"], {}))}
            for key, node in data.items()}


def _graph(graph: dict, table: dict) -> dict:
    return {**graph, "nodes": [_node(node, table.get(node["type"], {})) for node in graph["nodes"]]}


def _node(node: dict, names: dict) -> dict:
    if not names:
        return node
    there = {socket.get("name") for socket in node.get("inputs") or []}
    sockets = [_socket(socket, names, there) for socket in node.get("inputs") or []]
    values = node.get("widgets_values")
    return {**node, "inputs": sockets, **({"widgets_values": _keys(values, names)} if isinstance(values, dict) else {})}


def _socket(socket: dict, names: dict, there: set) -> dict:
    new = names.get(socket.get("name"))
    if new is None or new in there:
        return socket
    widget = {"widget": {**socket["widget"], "name": new}} if socket.get("widget") else {}
    return {**socket, "name": new, **widget}


def _keys(values: dict, names: dict) -> dict:
    return {names[key] if key in names and names[key] not in values else key: value for key, value in values.items()}


def follow_queued(table: dict = RENAMED) -> None:
    """In a running ComfyUI: graphs that programs queue are renamed too, before the server looks at them."""
    server = getattr(sys.modules.get("server"), "PromptServer", None)
    instance = getattr(server, "instance", None)
    if not table or instance is None:
        return

    def handle(request: dict) -> dict:
        prompt = request.get("prompt")
        return {**request, "prompt": renamed(prompt, table)} if isinstance(prompt, dict) else request

    instance.add_on_prompt_handler(handle)
