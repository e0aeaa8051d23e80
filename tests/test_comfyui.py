"""Inside ComfyUI: the checks of in_comfyui.py under its own Python, and what a server answers."""
import json
import re
import subprocess

import pytest
from conftest import ROOT
from found_comfyui import each_comfyui, is_long

from odeon import NODE_CLASS_MAPPINGS
from odeon.host import server
from odeon.host.embedded.context import Events

SCRIPTS = {script.stem: re.findall(r"^def (check_\w+)", script.read_text(), re.MULTILINE)
           for script in sorted((ROOT / "tests").glob("in_comfyui*.py"))}


@pytest.fixture(scope="session")
def results(root):
    """script -> the results of its checks; the long ones run together when one is asked for, and so do the others."""
    runner, found = ROOT / "tests" / "run_in_comfyui.py", {}

    def of(script):
        if script not in found:
            names = [name for name in SCRIPTS if is_long(name) == is_long(script)]
            run = subprocess.run([server.interpreter_of(root), runner, root, *names], cwd=root, capture_output=True,
                                 text=True)
            assert run.returncode == 0, run.stderr[-2000:]
            found.update(json.loads(run.stdout.strip().splitlines()[-1]))
        return found[script]

    return of


@each_comfyui()
@pytest.mark.parametrize(("script", "check"), [(name, check) for name, checks in SCRIPTS.items() for check in checks])
def test_in_comfyui(script, check, root, results):
    found = results(script)[check]
    assert found == "", found


@each_comfyui()
def test_server_lists_every_node_and_page(root, comfyui_url):
    client = server.Client(comfyui_url)
    for name in NODE_CLASS_MAPPINGS:
        shown = client.definitions()[name]
        assert shown["display_name"] == NODE_CLASS_MAPPINGS[name].TITLE
        folder = shown["python_module"].removeprefix("custom_nodes.")
        with client._open(f"/extensions/{folder}/docs/{name}.md") as page:
            assert page.read().decode().startswith(f"# {NODE_CLASS_MAPPINGS[name].TITLE}")
    templates = client.get("/workflow_templates")
    assert "quickstart" in templates[folder]


def graph_of(**values):
    shapes = {"count": 2, "size": 64, "data_seed": 0, "objects": 1, **values}
    return {"1": {"class_type": "OdeonShapes", "inputs": shapes},
            "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}


@each_comfyui()
def test_refused_graphs_and_failing_nodes_are_named(root, comfyui_url):
    client = server.Client(comfyui_url)
    with pytest.raises(server.ServerError, match=r"node 1 \(OdeonShapes\): Value 0 smaller than min"):
        client.run(graph_of(count=0), None, Events())
    bad = {"1": {"class_type": "OdeonShapes", "inputs": {"count": 2, "size": 64, "data_seed": 0, "objects": 1}},
           "2": {"class_type": "OdeonClosedFormModel", "inputs": {
               "prediction": "eps", "smoothing": 0, "noises": 8, "neighbours": 0, "extra": 64, "smoothing_seed": 0,
               "images": ["1", 0], "captions": "only one"}},
           "3": {"class_type": "VAEEncode", "inputs": {"pixels": ["1", 0], "vae": ["2", 2]}},
           "4": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["2", 2]}},
           "5": {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}}}
    with pytest.raises(server.ServerError, match=r"node 2 \(OdeonClosedFormModel\): need one caption line"):
        client.run(bad, None, Events())


@each_comfyui()
def test_previews_come_back_and_inputs_go_there(root, comfyui_url, tmp_path):
    from PIL import Image

    client = server.Client(comfyui_url)
    saved = client.fetch_images(client.run(graph_of(data_seed=5), None, Events()), tmp_path, Events())
    assert [path.parent.name for path in saved] == ["temp", "temp"]
    Image.new("RGB", (8, 8), (9, 8, 7)).save(tmp_path / "mine.png")
    loading = {"1": {"class_type": "LoadImage", "inputs": {"image": "mine.png"}},
               "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "back"}}}
    client.upload_inputs(loading, [tmp_path])
    back = client.fetch_images(client.run(loading, None, Events()), tmp_path, Events())
    assert Image.open(back[0]).getpixel((0, 0)) == (9, 8, 7)


def test_no_server_is_named():
    with pytest.raises(server.ServerError, match="no ComfyUI answers at http://127.0.0.1:9"):
        server.Client("http://127.0.0.1:9").definitions()
    with pytest.raises(server.ServerError, match="no ComfyUI answers at http://127.0.0.1:9"):
        server.Client("http://127.0.0.1:9").run(graph_of(), None, Events())


def test_comfyui_is_found_by_its_path(tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    assert server.find_comfyui() is None
    (tmp_path / "comfy").mkdir()
    (tmp_path / "main.py").touch()
    assert server.find_comfyui() == tmp_path
    assert server.interpreter_of(tmp_path).is_file()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").touch()
    assert server.interpreter_of(tmp_path) == tmp_path / ".venv" / "bin" / "python"


def test_a_comfyui_that_dies_while_starting_is_named(tmp_path):
    for name in ("comfy", "custom_nodes"):
        (tmp_path / name).mkdir()
    (tmp_path / "comfy" / "cli_args.py").touch()
    (tmp_path / "main.py").write_text("import sys; sys.exit('a module is missing')")
    with (pytest.raises(server.ServerError, match=r"stopped while starting \(exit code 1\): a module is missing"),
          server.started(tmp_path, "--cpu")):
        pass
