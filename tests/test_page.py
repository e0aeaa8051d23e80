"""What a newcomer meets in the page: search, the live curve, a comparison, a dropped picture."""
import base64
import json

import pytest
from conftest import ROOT
from found_comfyui import each_comfyui
from pages import CHROMIUM, open_in

from odeon import NODE_CLASS_MAPPINGS
from odeon.host.embedded.files import save_png

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: the page was NOT tested")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium was found: the page was NOT tested")

POINTS = "(document.querySelector('.odeon-curve polyline')?.getAttribute('points') ?? '')"
COUNT = f"{POINTS}.split(' ').length"
WORDS = "(document.querySelector('.odeon-curve')?.lastElementChild.textContent ?? '')"
FOUND = "query => app.extensionManager._p._s.get('nodeDef').nodeSearchService.searchNode(query).map(d => d.name)"


def turn(page, vue):
    page.evaluate("on => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", vue)


def show(page, *nodes):
    """An empty graph with these nodes, in view."""
    page.evaluate("""async kinds => {
        app.graph.clear();
        kinds.forEach((kind, i) => {
            const node = LiteGraph.createNode(kind);
            node.pos = [100 + 400 * i, 100];
            app.graph.add(node);
        });
    }""", list(nodes))


@each_comfyui()
@pytest.mark.parametrize("vue", [False, True], ids=["classic", "vue"])
def test_the_live_curve_moves_with_the_values(root, page, vue):
    turn(page, vue)
    try:
        show(page, "OdeonSigmasPower")
        page.evaluate("app.extensionManager.command.execute('Comfy.Canvas.ResetView')")
        page.wait_for_function(f"{COUNT} === 11", timeout=20000)
        before = page.evaluate(POINTS)
        set_widget(page, "rho", 2.0)
        page.wait_for_function(f"{COUNT} === 11 && {POINTS} !== {json.dumps(before)}", timeout=20000)
        set_widget(page, "steps", 17)
        page.wait_for_function(f"{COUNT} === 18 && {WORDS}.startsWith('17 steps, sigma 14.6 to 0')", timeout=20000)
        set_widget(page, "sigma_min", 99.0)
        page.wait_for_function(f"{WORDS}.includes('need 0 < sigma_min <= sigma_max') && {POINTS} === ''")
        values = page.evaluate("app.graph._nodes[0].serialize().widgets_values")
        assert values == [17, 14.614642, 99, 2]  # the curve takes no place in a saved workflow
        prompt = page.evaluate("app.graphToPrompt().then(p => Object.values(p.output)[0].inputs)")
        assert set(prompt) == {"steps", "sigma_max", "sigma_min", "rho"}
        assert page.evaluate("document.querySelector('.odeon-curve').getBoundingClientRect().height") > 20
        assert page.evaluate("!!document.querySelector('[data-node-id] .odeon-curve')") == vue
        assert page.errors == []
    finally:
        turn(page, False)


def set_widget(page, name, value):
    """As the page does where a value is typed."""
    page.evaluate("""([name, value]) => {
        const widget = app.graph._nodes[0].widgets.find(w => w.name === name);
        widget.value = value;
        widget.callback?.(value);
    }""", [name, value])


@each_comfyui()
def test_the_curve_of_a_model_s_levels(root, page):
    show(page, "OdeonShapesCheckpoint", "OdeonSigmasTimestepSpacing")
    page.wait_for_function(f"{WORDS} === 'Connect model to see the curve.'", timeout=20000)
    page.evaluate("app.graph._nodes[0].connect(0, app.graph._nodes[1], 0)")
    page.wait_for_function(f"{WORDS}.startsWith('10 steps, sigma 14.6')", timeout=30000)
    page.evaluate("""() => {
        const other = LiteGraph.createNode('OdeonSkipTuning');
        app.graph.add(other);
        app.graph._nodes[0].connect(0, other, 0);
        other.connect(0, app.graph._nodes[1], 0);
    }""")
    page.wait_for_function(f"{WORDS}.includes('known once the graph has run')", timeout=20000)


@each_comfyui()
def test_search_finds_every_node_by_its_name_and_an_alias(root, page):
    for name, cls in NODE_CLASS_MAPPINGS.items():
        assert name in page.evaluate(FOUND, cls.TITLE), name
        assert any(name in page.evaluate(FOUND, alias) for alias in cls.SEARCH_ALIASES), name
    assert "OdeonSamplerDEIS" in page.evaluate(FOUND, "deis")
    assert "OdeonSamplerExponentialAdams" in page.evaluate(FOUND, "exponential integrator")
    assert page.evaluate(FOUND, "KSampler")[0] == "KSampler"


@each_comfyui()
def test_a_newcomer_s_path(root, page, tmp_path):
    """Opens a template, runs it, compares samplers in a grid, and finds the graph in the picture that was saved."""
    page.errors.clear()
    folder = page.evaluate("fetch('/workflow_templates').then(r => r.json()).then(t => Object.keys(t).find("
                           "k => t[k].includes('quickstart')))")
    page.evaluate("async folder => app.loadGraphData(await (await fetch(`/api/workflow_templates/${folder}/quickstart"
                  ".json`)).json(), true, true, 'quickstart')", folder)
    page.evaluate("""() => {
        const find = type => app.graph._nodes.find(n => n.type === type);
        const grid = LiteGraph.createNode('OdeonCompareGrid');
        app.graph.add(grid);
        const guider = find('CFGGuider');
        const to = name => grid.inputs.findIndex(i => i.name === name);
        for (const name of ['model', 'positive', 'negative']) {
            const link = guider.inputs.find(i => i.name === name).link;
            const {origin_id, origin_slot} = app.graph.links[link];
            app.graph.getNodeById(origin_id).connect(origin_slot, grid, to(name));
        }
        find('EmptyLatentImage').connect(0, grid, to('latent'));
        find('OdeonClosedFormModel').connect(2, grid, to('vae'));
        find('SaveImage').mode = 2;
        grid.widgets.find(w => w.name === 'steps').value = '2, 3';
    }""")
    page.evaluate("app.queuePrompt(0, 1)")
    shown = "Object.values(app.nodeOutputs).some(o => o?.images?.length === 1 && o?.text)"
    page.wait_for_function(shown, timeout=60000)
    assert page.evaluate("app.lastNodeErrors") in (None, {})
    png = page.evaluate("""async () => {
        const shown = Object.values(app.nodeOutputs).find(o => o?.images?.length === 1 && o?.text).images[0];
        const answer = await fetch('/view?' + new URLSearchParams(shown));
        const bytes = new Uint8Array(await answer.arrayBuffer());
        return btoa(Array.from(bytes, b => String.fromCharCode(b)).join(''));
    }""")
    show(page, "OdeonSigmasPower")
    drop(page, base64.b64decode(png))
    page.wait_for_function("app.graph._nodes.some(n => n.type === 'OdeonCompareGrid')", timeout=20000)
    assert page.evaluate("app.graph._nodes.find(n => n.type === 'OdeonCompareGrid').widgets.find("
                         "w => w.name === 'steps').value") == "2, 3"
    assert page.errors == []


def drop(page, png):
    """A picture file dropped on the canvas, as from a folder."""
    page.evaluate("""data => {
        const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
        const files = new DataTransfer();
        files.items.add(new File([bytes], 'shared.png', {type: 'image/png'}));
        const target = document.querySelector('#graph-canvas') ?? document;
        target.dispatchEvent(new DragEvent('drop', {dataTransfer: files, bubbles: true, cancelable: true,
                                                    clientX: 900, clientY: 500}));
    }""", base64.b64encode(png).decode())


@each_comfyui()
def test_a_picture_of_the_embedded_runner_is_dropped(root, page, tmp_path):
    import torch

    path = ROOT / "workflows" / "apg.json"
    save_png(tmp_path / "shared.png", torch.zeros(8, 8, 3), {"workflow": path.read_text()})
    open_in(page, ROOT / "workflows" / "quickstart.json")
    drop(page, (tmp_path / "shared.png").read_bytes())
    page.wait_for_function("app.graph._nodes.some(n => n.type === 'OdeonAPG')", timeout=20000)
    kinds = sorted(page.evaluate("app.graph._nodes.map(n => n.type)"))
    assert kinds == sorted(node["type"] for node in json.loads(path.read_text())["nodes"])
