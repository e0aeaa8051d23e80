"""Workflows saved by other versions of Odeon: those of every release open as they did, newer ones are named."""
import io
import json
import subprocess
import sys
import types

import pytest
from conftest import ROOT
from typer.testing import CliRunner

from odeon import NODE_CLASS_MAPPINGS
from odeon.cli import CLASSES, _definitions, app
from odeon.host.embedded import graph
from odeon.host.newer import unknown_parts
from odeon.host.renamed import RENAMED, follow_queued, renamed
from odeon.host.workflow import WorkflowError, describe, inputs_of, load, parse

RELEASED = json.loads((ROOT / "tests" / "golden" / "released" / "0.1.0.json").read_text())
TABLE = {"OdeonAPG": {"strength_of_old": "eta", "model_of_old": "model"}}


def git(*words):
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout


TAGS = git("tag", "--list", "v*").split()


@pytest.mark.parametrize("tag", TAGS or [pytest.param(None, marks=pytest.mark.skip(reason="no release is tagged"))])
def test_every_workflow_of_a_release_still_opens(tag):
    for path in git("ls-tree", "-r", "--name-only", tag, "workflows/").split():
        if path.endswith(".json") and "/checkpoints/" not in path:
            require_opens(parse(json.loads(git("show", f"{tag}:{path}"))), f"{tag}:{path}")


def require_opens(workflow, where):
    assert unknown_parts(workflow, _definitions()) == [], where
    assert graph.check(workflow.to_prompt(_definitions()), CLASSES) == [], where


@pytest.mark.parametrize("name", RELEASED)
def test_what_was_saved_means_what_it_meant(name):
    """A sample of 0.1.0: each widget value still belongs to the input it belonged to."""
    workflow = parse(RELEASED[name]["workflow"])
    require_opens(workflow, name)
    prompt = workflow.to_prompt(_definitions())
    assert prompt.keys() == RELEASED[name]["prompt"].keys()
    for key, node in RELEASED[name]["prompt"].items():
        assert {**prompt[key]["inputs"], **node["inputs"]} == prompt[key]["inputs"], f"{name}, node {key}"


def test_renamed_inputs_exist_and_their_old_names_do_not():
    for node, names in RENAMED.items():
        there = inputs_of(describe(NODE_CLASS_MAPPINGS[node]))
        assert set(names.values()) <= set(there) and not set(names) & set(there), node


def old_name(text):
    return text.replace('"eta"', '"strength_of_old"')


def old_apg():
    """The APG sample as an Odeon would have saved it whose eta and model had other names."""
    ui = json.loads(json.dumps(RELEASED["apg"]["workflow"]))
    for node in ui["nodes"]:
        if node["type"] == "OdeonAPG":
            node["inputs"] = json.loads(old_name(json.dumps(node["inputs"])).replace('"model"', '"model_of_old"'))
    return ui


def test_old_names_open_as_the_new_ones():
    ui, today = old_apg(), RELEASED["apg"]["workflow"]
    assert ui != today
    assert renamed(ui, TABLE) == today
    assert ui == old_apg(), "changed in place"
    nested = {**today, "nodes": [], "definitions": {"subgraphs": [{"id": "s", "nodes": ui["nodes"]}]}}
    assert renamed(nested, TABLE)["definitions"]["subgraphs"][0]["nodes"] == today["nodes"]
    prompt = RELEASED["apg"]["prompt"]
    before = {key: json.loads(old_name(json.dumps(node))) if node["class_type"] == "OdeonAPG" else node
              for key, node in prompt.items()}
    assert before != prompt
    assert renamed(before, TABLE) == prompt


def test_names_of_other_nodes_and_newer_values_stay():
    both = {"1": {"class_type": "OdeonAPG", "inputs": {"strength_of_old": 1.0, "eta": 0.5}},
            "2": {"class_type": "Other", "inputs": {"strength_of_old": 1.0}}}
    assert renamed(both, TABLE) == both
    by_name = {"nodes": [{"id": 1, "type": "OdeonAPG", "widgets_values": {"strength_of_old": 0.25}}]}
    assert renamed(by_name, TABLE)["nodes"][0]["widgets_values"] == {"eta": 0.25}


def test_graphs_queued_by_programs_are_renamed(monkeypatch):
    handlers = []
    instance = types.SimpleNamespace(add_on_prompt_handler=handlers.append)
    monkeypatch.setitem(sys.modules, "server", types.SimpleNamespace(
        PromptServer=types.SimpleNamespace(instance=instance)))
    follow_queued({})
    assert handlers == [], "nothing renamed: the server is left alone"
    follow_queued(TABLE)
    queued = {"client_id": "c", "prompt": {"1": {"class_type": "OdeonAPG", "inputs": {"strength_of_old": 1.0}}}}
    assert handlers[0](queued) == {**queued, "prompt": {"1": {"class_type": "OdeonAPG", "inputs": {"eta": 1.0}}}}
    assert handlers[0]({"prompt": None}) == {"prompt": None}
    monkeypatch.setitem(sys.modules, "server", types.ModuleType("server"))
    follow_queued(TABLE)


def newer():
    """The quickstart with a node and two inputs that no Odeon has yet."""
    ui = json.loads(json.dumps(RELEASED["quickstart"]["workflow"]))
    for node in ui["nodes"]:
        if node["type"] == "OdeonSamplerExponentialAdams":
            node["inputs"].append({"name": "of_tomorrow", "type": "FLOAT", "widget": {"name": "of_tomorrow"}})
            node["widgets_values"].append(0.5)
        if node["type"] == "OdeonSigmasAlignYourSteps":
            node["type"] = "OdeonSigmasOfTomorrow"
    return ui


def said(arguments):
    answer = CliRunner().invoke(app, [str(word) for word in arguments])
    assert answer.exit_code == 1
    return " ".join(answer.output.split())


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_newer_workflow_says_which_node_and_input(command, tmp_path):
    file = tmp_path / "newer.json"
    file.write_text(json.dumps(newer()))
    text = said([command, file, *(["--out", tmp_path, "--host", "embedded"] if command == "run" else [])])
    assert "(OdeonSigmasOfTomorrow): unknown node; it comes from a newer Odeon; update Odeon, or remove the" in text
    assert "(OdeonSamplerExponentialAdams): unknown input 'of_tomorrow'; it comes from a newer Odeon" in text
    assert not list(tmp_path.glob("odeon/*"))


def test_unknown_parts_are_found_in_both_forms_and_where_they_count():
    api = {"5": {"class_type": "OdeonAPG", "inputs": {"model": ["1", 0], "of_tomorrow": 2}},
           "6": {"class_type": "SomebodysNode", "inputs": {"x": 1}}}
    assert unknown_parts(parse(api), _definitions()) == [
        "node 5 (OdeonAPG): unknown input 'of_tomorrow'; it comes from a newer Odeon; update Odeon, or remove the "
        "input"]
    ui = newer()
    nested = {"nodes": [{"id": 1, "type": "s"}], "definitions": {"subgraphs": [
        {"id": "s", "name": "inner", "nodes": ui["nodes"]}]}}
    assert [line.split(" (")[0].split(":")[0] for line in unknown_parts(parse(nested), _definitions())] == \
        ["node inner"] * 2
    for node in ui["nodes"]:
        node["mode"] = 4
    assert unknown_parts(parse(ui), _definitions()) == []


def png(tmp_path, **texts):
    from PIL import Image, PngImagePlugin

    info = PngImagePlugin.PngInfo()
    for key, value in texts.items():
        info.add_text(key, value)
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG", pnginfo=info)
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    return tmp_path / "a.png"


def test_pictures_that_carry_no_workflow_give_one_message(tmp_path):
    text = said(["run", png(tmp_path), "--out", tmp_path])
    assert "a.png is a PNG without a workflow inside: chats, web sites and picture editors take it out" in text
    assert text.count("error") == 1 and "Traceback" not in text
    with pytest.raises(WorkflowError, match="a.png is not JSON"):
        load(png(tmp_path, workflow="{half"))
    with pytest.raises(WorkflowError, match="a.png is JSON but no workflow: it holds a list"):
        load(png(tmp_path, prompt="[1]"))
    cut = tmp_path / "cut.png"
    cut.write_bytes(b"\x89PNG\r\n\x1a\nhalf")
    with pytest.raises(WorkflowError, match="cut.png is a damaged PNG"):
        load(cut)
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(WorkflowError, match="photo.jpg is a picture that carries no workflow"):
        load(photo)
