"""The real page shows our pictures: under Templates, and on help pages."""
import pytest
from conftest import ROOT
from found_comfyui import each_comfyui
from pages import CHROMIUM

from odeon.bench import gallery

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: the page was NOT tested")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium was found: the page was NOT tested")
WIDTHS = "Object.fromEntries([...document.querySelectorAll('{} img')].map(i => [i.alt, i.naturalWidth]))"
ON_CARDS, IN_HELP = WIDTHS.format("[role=dialog]"), WIDTHS.format(".node-help-content")


def errors_of(page):
    """What went wrong; before an English help page is asked for under its language's name, where we have none."""
    return [error for error in page.errors if "/en.md" not in error]


@each_comfyui()
def test_templates_show_what_our_workflows_drew(root, page):
    folder = page.evaluate("fetch('/workflow_templates').then(r => r.json()).then(t => Object.keys(t).find("
                           "k => t[k].includes('quickstart')))")
    page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.locator("[role=dialog]").get_by_text(folder, exact=True).click(timeout=30000)
    page.wait_for_function(f"({ON_CARDS}).quickstart === 480 && ({ON_CARDS}).apg === 480", timeout=30000)
    shown = page.evaluate(ON_CARDS)
    assert shown.keys() <= set(gallery.names())
    thumbnails = page.evaluate("""([folder, names]) => Promise.all(names.map(async name =>
        (await fetch(`/api/workflow_templates/${folder}/${name}.jpg`)).headers.get('content-type')))""",
                               [folder, gallery.names()])
    assert set(thumbnails) == {"image/jpeg"}  # those further down are asked for once they are scrolled to
    page.evaluate("app.extensionManager._p._s.get('dialog').closeDialog()")
    page.wait_for_function("!document.querySelector('[role=dialog]')", timeout=20000)
    assert errors_of(page) == []


@each_comfyui()
@pytest.mark.parametrize("kind", ["OdeonAPG", "OdeonSigmasPower"])
def test_a_help_page_shows_its_picture(root, page, kind):
    title = page.evaluate("""kind => {
        app.graph.clear();
        const node = LiteGraph.createNode(kind);
        app.graph.add(node);
        node.pos = app.canvas.convertCanvasToOffset([500, 300]);
        app.canvas.draw(true, true);
        const [x, y] = app.canvas.ds.convertOffsetToCanvas([node.pos[0] + 40, node.pos[1] - 14]);
        const corner = app.canvas.canvas.getBoundingClientRect();
        return [corner.left + x, corner.top + y];
    }""", kind)
    page.mouse.click(*title)
    page.wait_for_timeout(500)  # the toolbox is drawn anew once the click is through
    page.click("[data-testid=info-button]")
    words = (ROOT / "web" / "docs" / f"{kind}.md").read_text(encoding="utf-8").split("![")[1].split("]")[0]
    page.wait_for_function(f"words => ({IN_HELP})[words] >= 400", arg=words, timeout=20000)
    assert errors_of(page) == []
