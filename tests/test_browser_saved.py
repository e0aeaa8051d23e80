"""The real page opening workflows of other Odeon versions, and those that need a checkpoint."""
import json

import pytest
from conftest import ROOT
from found_comfyui import each_comfyui
from pages import CHROMIUM, ready
from test_saved import newer, old_apg

from odeon.host.workflow import load

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: the page was NOT tested")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium was found: the page was NOT tested")
CHECKPOINTS = sorted((ROOT / "workflows" / "checkpoints").glob("*.json"))
TOASTS = "[...document.querySelectorAll('.p-toast-message')].map(toast => toast.innerText).join(' | ')"


def errors_of(page):
    """What went wrong; a page may ask the net about missing nodes and about the sizes of missing checkpoints, which is
    not there."""
    asked = ("api.comfy.org", "huggingface.co", "fetching file size")
    return [error for error in page.errors if not any(name in error for name in asked)]


def opened(page, graph):
    page.evaluate("graph => app.loadGraphData(graph, true, true, 'test')", graph)
    page.wait_for_timeout(500)


def put_away(page):
    page.evaluate("app.extensionManager.toast.removeAll?.()")
    page.keyboard.press("Escape")
    page.wait_for_timeout(500)


@each_comfyui()
def test_a_newer_workflow_names_its_node_and_input(root, page):
    whole = load(ROOT / "workflows" / "quickstart.json").ui
    strange = newer()
    by_id = {node["id"]: node for node in strange["nodes"]}
    nodes = [{**node, **{key: by_id[node["id"]][key] for key in ("type", "inputs", "widgets_values")}}
             for node in whole["nodes"]]
    opened(page, {**whole, "nodes": nodes})
    page.wait_for_function(f"({TOASTS}).includes('newer Odeon')", timeout=10000)
    said = page.evaluate(TOASTS)
    assert "(OdeonSigmasOfTomorrow)" in said
    assert "input 'of_tomorrow' of node" in said and "(OdeonSamplerExponentialAdams)" in said
    put_away(page)
    opened(page, whole)
    assert "newer Odeon" not in page.evaluate(TOASTS)
    assert errors_of(page) == []


@each_comfyui()
def test_old_names_open_as_the_new_ones_in_the_page(root, page):
    """With a table of renames, as a release would ship it."""
    table = {"OdeonAPG": {"strength_of_old": "eta", "model_of_old": "model"}}
    page.route("**/renamed.json", lambda route: route.fulfill(json=table))
    page.reload()
    ready(page)
    whole = load(ROOT / "workflows" / "apg.json").ui
    old = {node["id"]: node["inputs"] for node in old_apg()["nodes"]}
    opened(page, {**whole, "nodes": [{**node, "inputs": old[node["id"]]} for node in whole["nodes"]]})
    names = page.evaluate("app.graph._nodes.filter(n => n.type === 'OdeonAPG').map(n => n.inputs.map(i => i.name))")
    assert names and all("eta" in row and "strength_of_old" not in row for row in names)
    theirs = json.loads(page.evaluate("app.graphToPrompt().then(p => JSON.stringify(p.output))"))
    nodes = [node for node in theirs.values() if node["class_type"] == "OdeonAPG"]
    assert nodes and all(isinstance(node["inputs"]["model"], list) for node in nodes)
    assert errors_of(page) == []
    page.unroute("**/renamed.json")
    page.errors.clear()


@each_comfyui()
@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: path.stem)
def test_workflows_for_checkpoints_open(path, root, page):
    opened(page, json.loads(path.read_text()))
    assert page.evaluate("app.graph._nodes.every(n => LiteGraph.registered_node_types[n.type])")
    put_away(page)  # the page offers to fetch the checkpoint
    theirs = json.loads(page.evaluate("app.graphToPrompt().then(p => JSON.stringify(p.output))"))
    ours = load(path).to_prompt(json.loads(page.evaluate("fetch('/object_info').then(answer => answer.text())")))
    assert {key: node["class_type"] for key, node in theirs.items()} == \
        {key: node["class_type"] for key, node in ours.items()}
    for key, node in ours.items():
        assert {name: value for name, value in theirs[key]["inputs"].items() if name != "ckpt_name"} == \
            {name: value for name, value in node["inputs"].items() if name != "ckpt_name"}, key
    assert errors_of(page) == []
    page.errors.clear()  # of what the net does not answer
