"""The real page in Chromium: what it saves means the same embedded, our PNGs open as graphs, every help page opens."""
import base64
import json
from pathlib import Path

import numpy as np
import pages
import pytest
from conftest import ROOT
from found_comfyui import each_comfyui
from pages import CHROMIUM, open_in
from PIL import Image

from odeon import NODE_CLASS_MAPPINGS
from odeon.cli import CLASSES, _definitions
from odeon.host.embedded import graph
from odeon.host.embedded.context import Context, Events
from odeon.host.workflow import load

SCHEDULE = "app.graph._nodes.find(n => n.type === 'OdeonSigmasAlignYourSteps')"

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: the page was NOT tested")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium was found: the page was NOT tested")


def pictures_of(path, folder):
    """The pictures of a workflow file from the embedded runner, in the order they were saved."""
    saved = []

    class Collected(Events):
        def saved(self, path):
            saved.append(np.asarray(Image.open(path)))

    workflow = load(path)
    prompt = workflow.to_prompt(_definitions())
    assert graph.check(prompt, CLASSES) == []
    graph.run(prompt, CLASSES, Context(folder, [], prompt, workflow.ui, Collected()))
    return saved


def both_api_forms(page, tmp_path):
    """The API form of the open graph as the page makes it and as we make it of what the page saves."""
    theirs, saved = pages.both_api_forms(page, tmp_path)
    return [theirs, pages.comparable(saved.to_prompt(_definitions()))]


@each_comfyui()
def test_bypass_mute_reroute_and_primitives_mean_what_the_page_means(root, page, tmp_path):
    open_in(page, ROOT / "workflows" / "apg.json")
    plain = both_api_forms(page, tmp_path)
    page.evaluate("""() => {
        const find = type => app.graph._nodes.filter(n => n.type === type);
        find('OdeonAPG')[0].mode = 4;
        find('SaveImage')[0].mode = 2;
        const reroute = LiteGraph.createNode('Reroute');
        app.graph.add(reroute);
        const guider = find('CFGGuider')[0];
        const model = app.graph.getNodeById(app.graph.links[guider.inputs[0].link].origin_id);
        model.connect(0, reroute, 0);
        reroute.connect(0, guider, 0);
        const primitive = LiteGraph.createNode('PrimitiveNode');
        app.graph.add(primitive);
        const noise = find('RandomNoise')[0];
        primitive.connect(0, noise, noise.inputs.findIndex(i => i.name === 'noise_seed'));
        primitive.widgets[0].value = 77;
    }""")
    theirs, ours = both_api_forms(page, tmp_path)
    assert theirs == ours and [theirs, ours] != plain
    assert "OdeonAPG" not in str(ours) and ours["5"][1]["noise_seed"] == 77
    assert sum(kind == "SaveImage" for kind, _ in ours.values()) == 1


@each_comfyui()
def test_subgraphs_mean_what_the_page_means(root, page, tmp_path):
    open_in(page, ROOT / "workflows" / "quickstart.json")
    page.evaluate("""() => {
        const inner = ['CFGGuider', 'CLIPTextEncode', 'SamplerCustomAdvanced'];
        app.graph.convertToSubgraph(new Set(app.graph._nodes.filter(n => inner.includes(n.type))));
    }""")
    theirs, ours = both_api_forms(page, tmp_path)
    assert theirs == ours and any(":" in key for key in ours)
    plain = pictures_of(ROOT / "workflows" / "quickstart.json", tmp_path / "plain")
    nested = pictures_of(tmp_path / "saved.json", tmp_path / "nested")
    assert all(np.array_equal(a, b) for a, b in zip(plain, nested))


@each_comfyui()
def test_a_dropped_png_opens_its_graph(root, page, tmp_path):
    path = ROOT / "workflows" / "quickstart.json"
    pictures_of(path, tmp_path)
    png = base64.b64encode(next(Path(tmp_path).rglob("*.png")).read_bytes()).decode()
    open_in(page, ROOT / "workflows" / "apg.json")
    page.evaluate("""async data => {
        const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
        await app.handleFile(new File([bytes], "dropped.png", {type: "image/png"}));
    }""", png)
    page.wait_for_function("app.graph._nodes.some(n => n.type === 'OdeonSigmasAlignYourSteps')")
    kinds = sorted(page.evaluate("app.graph._nodes.map(n => n.type)"))
    assert kinds == sorted(node["type"] for node in json.loads(path.read_text())["nodes"])


@each_comfyui()
def test_a_queued_graph_shows_its_picture_and_its_help(root, page):
    open_in(page, ROOT / "workflows" / "quickstart.json")
    page.evaluate("app.queuePrompt(0, 1)")
    page.wait_for_function("Object.values(app.nodeOutputs).some(o => o?.images?.length === 4)", timeout=60000)
    page.evaluate(f"app.canvas.centerOnNode({SCHEDULE})")
    page.wait_for_timeout(500)  # the view glides there
    title = page.evaluate(f"""() => {{
        const [x, y] = app.canvas.ds.convertOffsetToCanvas([{SCHEDULE}.pos[0] + 40, {SCHEDULE}.pos[1] - 14]);
        const corner = app.canvas.canvas.getBoundingClientRect();
        return [corner.left + x, corner.top + y];
    }}""")
    page.mouse.click(*title)
    page.click("[data-testid=info-button]")
    page.wait_for_function("document.querySelector('.node-help-content')?.innerText.includes('Sabour')", timeout=15000)
    assert page.errors == []


@each_comfyui()
def test_every_node_s_help_opens(root, page):
    """In the page's own panel; that a click on (i) leads there is tested above."""
    page.errors.clear()
    page.evaluate("app.extensionManager.sidebarTab.activeSidebarTabId = 'node-library'")
    for name, cls in NODE_CLASS_MAPPINGS.items():
        page.evaluate("name => { const stores = app.extensionManager._p._s;"
                      "stores.get('nodeHelp').openHelp(stores.get('nodeDef').nodeDefsByName[name]); }", name)
        page.wait_for_function("title => document.querySelector('.node-help-content h1')?.innerText === title",
                               arg=cls.TITLE, timeout=15000, polling=30)
        lines = page.evaluate("document.querySelector('.node-help-content').innerText")
        assert len(lines) > 300 and "[object" not in lines, name
    page.evaluate("app.extensionManager.sidebarTab.activeSidebarTabId = null")
    assert page.errors == []
