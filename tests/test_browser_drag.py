"""Drag's points, clicked in the real page: what is typed follows the clicks, and the marks what is typed."""
import pytest
from found_comfyui import each_comfyui
from pages import CHROMIUM, READY

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: the page was NOT tested")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium was found: the page was NOT tested")

DRAG = "app.graph._nodes.find(node => node.type === 'OdeonDrag')"
TYPED = f"{DRAG}.widgets.find(widget => widget.name === 'points').value"
DRAWING = "[...document.querySelectorAll('.odeon-drag-points svg')].at(-1)"
MARKS = f"[...{DRAWING}.querySelectorAll('circle')].map(mark => +mark.getAttribute('cx') - 0.5)"


def shown(page, size, scale):
    """Drag beside a Load Image of a picture of that size, on a canvas of that scale."""
    page.evaluate("app.graph.clear()")
    page.wait_for_timeout(500)
    page.evaluate("""async ([[width, height], scale]) => {
        const picture = (width, height) => {
            const canvas = Object.assign(document.createElement('canvas'), {width, height});
            return new Promise(done => canvas.toBlob(done));
        };
        const form = new FormData(), name = `${width}x${height}.png`;
        form.append('image', await picture(width, height), name);
        await app.api.fetchApi('/upload/image', {method: 'POST', body: form});
        const [load, drag] = ['LoadImage', 'OdeonDrag'].map((kind, i) => {
            const node = LiteGraph.createNode(kind);
            node.pos = [60 + 400 * i, 100];
            app.graph.add(node);
            return node;
        });
        const file = load.widgets.find(widget => widget.name === 'image');
        file.value = name;
        file.callback?.(name);
        load.connect(0, drag, drag.inputs.findIndex(input => input.name === 'image'));
        Object.assign(app.canvas.ds, {scale, offset: [60, scale < 1 ? 20 : -200]});
        app.canvas.setDirty(true, true);
    }""", [list(size), scale])
    page.wait_for_function(f"{DRAWING}?.getAttribute('viewBox') === '0 0 {size[0]} {size[1]}'", timeout=20000)
    page.wait_for_timeout(500)


def clicked(page, *place, button="left"):
    page.mouse.click(*page.evaluate(f"""place => {{
        const at = new DOMPoint(place[0] + 0.5, place[1] + 0.5).matrixTransform({DRAWING}.getScreenCTM());
        return [at.x, at.y];
    }}""", list(place)), button=button)


@each_comfyui()
@pytest.mark.parametrize("vue, size, scale", [  # the first Vue nodes show text only from 1 on
    (False, (300, 150), 0.6), (False, (100, 260), 0.9), (True, (300, 150), 1.0)], ids=["classic", "tall", "vue"])
def test_points_are_clicked_typed_and_taken_off(root, page, vue, size, scale):
    try:
        if vue:
            page.evaluate("app.extensionManager.setting.set('Comfy.VueNodes.Enabled', true)")
            page.wait_for_timeout(1000)
            page.reload()  # the first Vue nodes keep what they showed before
            page.wait_for_function(f"({READY}) && !!LiteGraph.registered_node_types.OdeonDrag", timeout=60000)
            page.wait_for_timeout(2000)
            page.errors.clear()
        shown(page, size, scale)
        for place in ((30, 40), (70, 90), (10, 10), (20, 5)):
            clicked(page, *place)
        page.wait_for_function(f"{TYPED} === '30,40 -> 70,90\\n10,10 -> 20,5'")
        clicked(page, 12, 12, button="right")  # the pair that lies nearest
        page.wait_for_function(f"{TYPED} === '30,40 -> 70,90'")
        clicked(page, 50, 50)
        clicked(page, 50, 60, button="right")  # a pair half made
        clicked(page, -3, 10)  # beside the picture
        assert page.evaluate(f"[{TYPED}, {MARKS}.length]") == ["30,40 -> 70,90", 2]
        page.locator("[data-node-id] textarea" if vue else "textarea").last.fill("7,8 -> 90,100")
        page.wait_for_function(f"{MARKS}.join() === '7,90'")
        assert page.evaluate(f"{DRAG}.serialize().widgets_values.length") == 10  # the picture is no value
        box, node = (page.evaluate(f"""() => {{
            const box = {what}.getBoundingClientRect();
            return [box.left, box.top, box.right, box.bottom];
        }}""") for what in (DRAWING, "document.querySelector('[data-node-id] .odeon-drag-points')"
                            if vue else f"{DRAWING}.parentNode.parentNode"))
        assert box[3] <= node[3] + 1.0 and box[3] - box[1] > 60.0  # it does not hang out below
        assert page.errors == []
    finally:
        page.evaluate("app.extensionManager.setting.set('Comfy.VueNodes.Enabled', false)")
