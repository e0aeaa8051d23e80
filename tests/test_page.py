"""What a newcomer meets in the page: search, the live curve, a dropped picture."""
import json

import pytest
from conftest import ROOT
from found_comfyui import each_comfyui
from pages import CHROMIUM, drop, open_in

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
def test_a_picture_of_the_embedded_runner_is_dropped(root, page, tmp_path):
    import torch

    path = ROOT / "workflows" / "apg.json"
    save_png(tmp_path / "shared.png", torch.zeros(8, 8, 3), {"workflow": path.read_text()})
    open_in(page, ROOT / "workflows" / "quickstart.json")
    drop(page, (tmp_path / "shared.png").read_bytes())
    page.wait_for_function("app.graph._nodes.some(n => n.type === 'OdeonAPG')", timeout=20000)
    kinds = sorted(page.evaluate("app.graph._nodes.map(n => n.type)"))
    assert kinds == sorted(node["type"] for node in json.loads(path.read_text())["nodes"])
