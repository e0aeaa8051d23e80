"""A newcomer's path through the page by mouse and keys alone, and what is left of a run whose page lost the server."""
import base64

import pytest
from conftest import ROOT
from found_comfyui import each_comfyui
from pages import CHROMIUM, ENDS, LISTEN, RUN, add_node, connect, drop, end_of_run, forget, open_in, ready, run, shown

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: the page was NOT tested")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium was found: the page was NOT tested")
IDS = "kind => app.graph._nodes.filter(n => n.type === kind).map(n => n.id)"
TOASTS = "[...document.querySelectorAll('.p-toast-message')].map(toast => toast.innerText)"


def open_first_template(page):
    """As it is found: the Templates button, the pack's own part of the list, the card on top."""
    page.click("button[aria-label=Templates]")
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("odeon", exact=True).click()
    cards = dialog.locator("[data-testid^=template-workflow-]:not([data-testid$=-content])")
    cards.first.get_by_text("quickstart").first.wait_for()
    cards.first.click()
    page.wait_for_function("app.graph._nodes.some(n => n.type === 'OdeonSamplerExponentialAdams')", timeout=20000)
    dialog.wait_for(state="hidden")
    page.wait_for_timeout(500)


def run_and_see(page, kind):
    """A click on Run, and the picture on the node of that kind; nothing went wrong."""
    wrong, _, steps = run(page)
    assert not wrong and steps, wrong
    shown(page, page.evaluate(IDS, kind))


def change_the_sampler(page):
    add_node(page, "dpm-solver++", "DPM-Solver++", "[500, 620]")
    connect(page, "OdeonSamplerDPMSolverPP", "SAMPLER", "SamplerCustomAdvanced", "sampler")
    used = page.evaluate("app.graph._nodes.find(n => n.type === 'SamplerCustomAdvanced').getInputNode(2).type")
    assert used == "OdeonSamplerDPMSolverPP"


def compare_two(page):
    """The grid's own defaults compare two samplers on two schedules; what draws in the graph is connected to it."""
    add_node(page, "compare", "Compare grid", "[1400, 560]")
    for source, output, slot in (("OdeonClosedFormModel", "MODEL", "model"), ("OdeonClosedFormModel", "VAE", "vae"),
                                 (("CLIPTextEncode", 0), "CONDITIONING", "positive"),
                                 (("CLIPTextEncode", 1), "CONDITIONING", "negative"),
                                 ("EmptyLatentImage", "LATENT", "latent")):
        connect(page, source, output, "OdeonCompareGrid", slot)


def save(page):
    """Ctrl+S, the name that is offered, Enter."""
    page.keyboard.press("Escape")
    page.keyboard.press("Control+s")
    name = page.locator("[role=dialog] input")
    name.wait_for()
    page.keyboard.press("Enter")
    name.wait_for(state="hidden")
    page.wait_for_function("app.extensionManager.workflow.activeWorkflow?.isPersisted", timeout=20000)


def reload(page):
    page.once("dialog", lambda dialog: dialog.accept())
    page.reload()
    ready(page)


@each_comfyui()
def test_a_newcomer_s_path(root, page):
    page.evaluate("localStorage.clear(); sessionStorage.clear()")  # graphs that other tests left open
    reload(page)
    forget(page)
    open_first_template(page)
    run_and_see(page, "SaveImage")
    change_the_sampler(page)
    run_and_see(page, "SaveImage")
    compare_two(page)
    run_and_see(page, "OdeonCompareGrid")
    png = page.evaluate("""async () => {
        const grid = app.graph._nodes.find(n => n.type === 'OdeonCompareGrid');
        const bytes = new Uint8Array(await (await fetch(grid.imgs[0].src)).arrayBuffer());
        return btoa(Array.from(bytes, b => String.fromCharCode(b)).join(''));
    }""")
    save(page)
    reload(page)
    page.click("button[aria-label^=Workflows]")
    page.get_by_text("quickstart.json").or_(page.get_by_text("quickstart", exact=True)).last.click()
    grid_is_there = "app.graph._nodes.find(n => n.type === 'OdeonCompareGrid')?.inputs.filter(i => i.link).length === 5"
    page.wait_for_function(grid_is_there, timeout=20000)
    page.click("button[aria-label^=Workflows]")
    open_in(page, ROOT / "workflows" / "apg.json")
    assert not page.evaluate(grid_is_there)
    drop(page, base64.b64decode(png))
    page.wait_for_function(grid_is_there, timeout=20000)
    assert page.errors == []


@each_comfyui()
def test_a_page_that_loses_the_server_loses_nothing(root, page):
    """The connection drops in the middle of a run: said once, the graph stays, the run ends and its picture comes."""
    forget(page)
    open_in(page, ROOT / "workflows" / "quickstart.json")
    page.evaluate("""() => {
        const set = (kind, name, value) => {
            app.graph._nodes.find(n => n.type === kind).widgets.find(w => w.name === name).value = value;
        };
        set("OdeonSigmasAlignYourSteps", "steps", 150);
        set("RandomNoise", "noise_seed", 4321);
    }""")
    before = page.evaluate("JSON.stringify(app.graph.serialize().nodes.map(n => [n.id, n.type, n.widgets_values]))")
    page.evaluate(LISTEN, ["progress", *ENDS])
    page.click(RUN)
    page.wait_for_function("told.progress?.length > 2", timeout=60000, polling=50)
    page.evaluate("app.api.socket.close()")
    page.context.set_offline(True)
    try:
        page.wait_for_function(f"{TOASTS}.length > 0", timeout=20000, polling=100)
        said = page.evaluate(TOASTS)
        assert len(said) == 1 and "econnecting" in said[0], said
        assert not page.evaluate("!!told.execution_success")
    finally:
        page.context.set_offline(False)
    assert end_of_run(page)[0] == ""
    shown(page, page.evaluate(IDS, "SaveImage"))
    after = page.evaluate("JSON.stringify(app.graph.serialize().nodes.map(n => [n.id, n.type, n.widgets_values]))")
    assert after == before
    page.evaluate("app.graph._nodes.find(n => n.type === 'OdeonSigmasAlignYourSteps').widgets[0].value = 6")
    page.wait_for_function("document.querySelector('.odeon-curve')?.innerText.startsWith('6 steps')", timeout=20000)
    page.errors.clear()  # the browser names each request that found no server
