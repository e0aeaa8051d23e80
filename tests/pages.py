"""The page of a running ComfyUI in Chromium, for tests; they say so where Playwright or Chromium is not there."""
import contextlib
import json
import shutil

from odeon.host import server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
READY = "window.app?.extensionManager && Object.keys(window.LiteGraph.registered_node_types).length > 100"


@contextlib.contextmanager
def opened(url):
    """The page, without its tutorial; page.errors collects what goes wrong in our name."""
    from playwright import sync_api

    server.Client(url)._open("/settings", json.dumps({"Comfy.TutorialCompleted": True}).encode()).close()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.errors = []
        page.on("console", lambda message: page.errors.append(message.text)
                if message.type == "error" and "odeon" in message.text.lower() else None)
        page.goto(url)
        page.wait_for_function(READY, timeout=60000)
        page.wait_for_timeout(2000)  # it loads its default graph
        yield page
        browser.close()


def open_in(page, path):
    page.evaluate("([graph, name]) => app.loadGraphData(graph, true, true, name)",
                  [json.loads(path.read_text()), path.stem])
