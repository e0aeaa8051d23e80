"""The page of a running ComfyUI in Chromium, for tests; they say so where Playwright or Chromium is not there."""
import base64
import contextlib
import importlib.util
import json
import shutil

from odeon.host import server
from odeon.host.workflow import load

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
THERE = CHROMIUM is not None and importlib.util.find_spec("playwright") is not None
READY = "window.app?.extensionManager && Object.keys(window.LiteGraph.registered_node_types).length > 100"
# Drawn 20 times a second and by the processor: Chromium without a GPU else takes half a core while a graph runs.
CALM = """window.requestAnimationFrame = call => setTimeout(() => call(performance.now()), 50);
          window.cancelAnimationFrame = clearTimeout;"""
# Files that a new user has not, what is on the net, and a help page in English of its own, which is looked for first.
EXPECTED = ("/user.css", "/favicon.ico", "/userdata", "api.comfy.org", "/en.md")
RUN = "[data-testid=queue-button] button >> nth=0"
ENDS = ("execution_success", "execution_error", "execution_interrupted")
FIT = """() => {
    const boxes = app.graph._nodes.map(n => [n.pos[0], n.pos[1] - 30, n.pos[0] + n.size[0], n.pos[1] + n.size[1]]);
    const low = [0, 1].map(i => Math.min(...boxes.map(b => b[i]))), high = [2, 3].map(
        i => Math.max(...boxes.map(b => b[i])));
    const {ds, canvas} = app.canvas, room = [canvas.clientWidth - 160, canvas.clientHeight - 160];
    ds.scale = Math.min(1, ...room.map((r, i) => r / (high[i] - low[i])));
    ds.offset[0] = 80 / ds.scale - low[0];
    ds.offset[1] = 80 / ds.scale - low[1];
    app.canvas.setDirty(true, true);
}"""
LISTEN = """kinds => {
    if (!window.told) for (const kind of kinds)
        app.api.addEventListener(kind, event => (window.told[kind] ??= []).push(event.detail));
    window.told = {};
}"""


def _counts(message, url):
    """Whether a line of the console is an error of ours or the server's."""
    where = message.location.get("url", "")
    elsewhere = "Failed to load resource" in message.text and not where.startswith(url)
    known = any(part in where or part in message.text for part in EXPECTED)
    return message.type == "error" and not elsewhere and not known


@contextlib.contextmanager
def opened(url):
    """The page, without its tutorial; page.errors collects all that goes wrong once it is there, before that what goes
    wrong in our name: a page may start with errors of its own."""
    from playwright import sync_api

    server.Client(url)._open("/settings", json.dumps({"Comfy.TutorialCompleted": True}).encode()).close()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[
            "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.errors = []
        page.on("console", lambda message: page.errors.append(f"{message.text} {message.location.get('url', '')}")
                if _counts(message, url) else None)
        page.on("pageerror", lambda error: page.errors.append(f"{error.message} {error.stack}"))
        page.add_init_script(CALM)
        page.goto(url)
        ready(page)
        yield page
        browser.close()


def ready(page):
    """Waits for a page that was just opened."""
    page.wait_for_function(READY, timeout=120000)
    page.wait_for_timeout(2000)  # it loads its default graph
    page.errors[:] = [error for error in page.errors if "odeon" in error.lower()]


def open_in(page, path):
    open_graph(page, json.loads(path.read_text()), path.stem)


def open_graph(page, graph, name):
    page.evaluate("([graph, name]) => app.loadGraphData(graph, true, true, name)", [graph, name])


def both_api_forms(page, folder):
    """(the API form of the open graph as the page makes it, the Workflow that the page saves), the first without
    titles and without the text that the page shows on a PreviewAny, which is no input of it."""
    saved = folder / "saved.json"
    saved.write_text(page.evaluate("JSON.stringify(app.graph.serialize())"))
    theirs = json.loads(page.evaluate("app.graphToPrompt().then(p => JSON.stringify(p.output))"))
    for node in theirs.values():
        if node["class_type"] == "PreviewAny":
            node["inputs"] = {"source": node["inputs"]["source"]}
    return comparable(theirs), load(saved)


def comparable(form):
    """An API form without titles."""
    return {key: (node["class_type"], node["inputs"]) for key, node in form.items()}


def forget(page):
    """The server keeps nothing of what other tests ran."""
    page.evaluate("""app.api.fetchApi("/free", {method: "POST", headers: {"Content-Type": "application/json"},
                                             body: '{"free_memory": true}'})""")


def run(page):
    """Clicks Run and waits for the end: ("" or what went wrong, the run's id, its steps as (value, total))."""
    page.evaluate(LISTEN, ["progress", *ENDS])
    page.click(RUN)
    return end_of_run(page)


def end_of_run(page):
    page.wait_for_function(f"{list(ENDS)}.some(kind => told[kind]) || Object.keys(app.lastNodeErrors ?? {{}}).length",
                           timeout=300000, polling=200)
    told, refused = page.evaluate("[told, app.lastNodeErrors]")
    if refused or "execution_success" not in told:
        wrong = [str(end.get("exception_message", "interrupted")) for kind in ENDS[1:] for end in told.get(kind, [])]
        return "; ".join(wrong) or str(refused), None, []
    return "", told["execution_success"][0]["prompt_id"], [(s["value"], s["max"]) for s in told.get("progress", [])]


def shown(page, nodes):
    """Waits until each of the nodes shows its picture, with the whole graph in view: the page fetches what is seen."""
    page.evaluate(FIT)
    page.wait_for_function("""ids => ids.map(id => app.graph.getNodeById(id).imgs?.[0]).every(
        image => image?.naturalWidth > 0 && !image.src.startsWith("blob:"))""",  # these are previews
                           arg=[int(node) for node in nodes], timeout=60000, polling=100)


def add_node(page, words, title, place):
    """A node added as a person does: a double click on a free place of the graph, words, a click on its name."""
    page.mouse.dblclick(*on_screen(page, place))
    page.wait_for_selector(".comfy-vue-node-search-container input >> visible=true", timeout=30000)
    page.keyboard.type(words)
    before = page.evaluate("app.graph._nodes.length")
    page.wait_for_function(
        "title => [...document.querySelectorAll('.p-autocomplete-option')].find(option => option.innerText.split"
        "('\\n')[0].trim() === title)", arg=title, timeout=30000).as_element().click()
    page.wait_for_function(f"app.graph._nodes.length === {before + 1}", timeout=10000)
    page.wait_for_selector(".node-search-box-dialog-mask", state="hidden")


def connect(page, source, output, target, slot):
    """A link drawn with the mouse from a node's output to a node's input; nodes by type, or by (type, number)."""
    page.mouse.move(*on_screen(page, _socket(source, "outputs", output)))
    page.mouse.down()
    page.mouse.move(*on_screen(page, _socket(target, "inputs", slot)), steps=4)
    page.mouse.up()
    page.wait_for_function(f"{_node(target)}.inputs.some(i => i.name === '{slot}' && i.link != null)", timeout=10000)


def _node(which):
    kind, number = which if isinstance(which, tuple) else (which, 0)
    return f"app.graph._nodes.filter(n => n.type === '{kind}')[{number}]"


def _socket(which, side, name):
    place = f"{_node(which)}.{side}.findIndex(s => s.name === '{name}')"
    return f"{_node(which)}.getConnectionPos({json.dumps(side == 'inputs')}, {place})"


def on_screen(page, place):
    """Where a point of the graph, given in JavaScript, is on the screen."""
    return page.evaluate(f"""() => {{
        const [x, y] = app.canvas.ds.convertOffsetToCanvas({place});
        const corner = app.canvas.canvas.getBoundingClientRect();
        return [corner.left + x, corner.top + y];
    }}""")


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
