"""Reading workflow files: both forms, and what the browser's form can hold."""
import copy
import json

import pytest

from odeon.host.workflow import Workflow, WorkflowError, load, parse

DEFINITIONS = {
    "Source": {"input": {"required": {"seed": ("INT", {"control_after_generate": True}), "text": ("STRING", {}),
                                      "kind": (["a", "b"], {})}}, "output": ["X", "Y"]},
    "Filter": {"input": {"required": {"y": ("Y",), "x": ("X",), "amount": ("FLOAT", {})}}, "output": ["X"]},
    "Sink": {"input": {"required": {"x": ("X",)},
                       "optional": {"note": ("STRING", {}), "forced": ("INT", {"forceInput": True})}},
             "output": [], "output_node": True},
}


def node(number, kind, inputs=(), values=(), *, mode=0, outputs=(), **extra):
    return {"id": number, "type": kind, "mode": mode, "widgets_values": list(values),
            "inputs": [{"name": name, "type": type_, "link": link} for name, type_, link in inputs],
            "outputs": [{"name": t, "type": t, "links": []} for t in outputs], **extra}


def source(number=1, **extra):
    return node(number, "Source", values=[7, "randomize", "hello", "b"], outputs=["X", "Y"], **extra)


def filtered(*middle, links):
    return {"nodes": [source(), *middle, node(9, "Sink", [("x", "X", 90)], ["said"])], "links": links}


def prompt(ui):
    return parse(ui).to_prompt(DEFINITIONS)


def test_widgets_links_and_control_values():
    ui = filtered(node(2, "Filter", [("y", "Y", 10), ("x", "X", 11)], [0.5], outputs=["X"], title="my filter"),
                  links=[[10, 1, 1, 2, 0, "Y"], [11, 1, 0, 2, 1, "X"], [90, 2, 0, 9, 0, "X"]])
    assert prompt(ui) == {
        "1": {"class_type": "Source", "inputs": {"seed": 7, "text": "hello", "kind": "b"},
              "_meta": {"title": "Source"}},
        "2": {"class_type": "Filter", "inputs": {"amount": 0.5, "y": ["1", 1], "x": ["1", 0]},
              "_meta": {"title": "my filter"}},
        "9": {"class_type": "Sink", "inputs": {"note": "said", "x": ["2", 0]}, "_meta": {"title": "Sink"}},
    }


def test_links_as_objects_and_values_by_name():
    ui = filtered(links=[{"id": 90, "origin_id": 1, "origin_slot": 0, "target_id": 9, "target_slot": 0, "type": "X"}])
    ui["nodes"][0]["widgets_values"] = {"seed": 3, "text": "t", "kind": "a", "preview": {}}
    found = prompt(ui)
    assert found["9"]["inputs"]["x"] == ["1", 0]
    assert found["1"]["inputs"] == {"seed": 3, "text": "t", "kind": "a"}


def test_a_link_wins_over_the_widget_beneath():
    ui = filtered(node(3, "PrimitiveNode", values=[42, "fixed"], outputs=["INT"]),
                  links=[[90, 1, 0, 9, 0, "X"], [5, 3, 0, 1, 0, "INT"]])
    ui["nodes"][0]["inputs"] = [{"name": "seed", "type": "INT", "link": 5, "widget": {"name": "seed"}}]
    found = prompt(ui)
    assert found["1"]["inputs"]["seed"] == 42
    assert "3" not in found


def test_reroutes_notes_and_bypass_vanish():
    ui = filtered(node(2, "Filter", [("y", "Y", 10), ("x", "X", 11)], [0.5], mode=4, outputs=["X"]),
                  node(4, "Reroute", [("", "*", 12)], outputs=["*"]),
                  node(5, "Reroute", [("", "*", 13)], outputs=["*"]), node(6, "Note", values=["text"]),
                  node(7, "MarkdownNote", values=["text"]),
                  links=[[10, 1, 1, 2, 0, "Y"], [11, 1, 0, 2, 1, "X"], [12, 2, 0, 4, 0, "X"], [13, 4, 0, 5, 0, "X"],
                         [90, 5, 0, 9, 0, "X"]])
    found = prompt(ui)
    assert set(found) == {"1", "9"}
    assert found["9"]["inputs"]["x"] == ["1", 0]


def test_muted_nodes_leave_their_inputs_open():
    ui = filtered(node(2, "Filter", [("y", "Y", None), ("x", "X", 11)], [0.5], mode=2, outputs=["X"]),
                  links=[[11, 1, 0, 2, 1, "X"], [90, 2, 0, 9, 0, "X"]])
    found = prompt(ui)
    assert "x" not in found["9"]["inputs"] and "2" not in found


def subgraph():
    inner = {"id": "aaaa", "name": "inner", "inputs": [{"name": "x"}, {"name": "y"}], "outputs": [{"name": "X"}],
             "nodes": [node(1, "Filter", [("y", "Y", 1), ("x", "X", 2)], [0.25], outputs=["X"])],
             "links": [{"id": 1, "origin_id": -10, "origin_slot": 1, "target_id": 1, "target_slot": 0, "type": "Y"},
                       {"id": 2, "origin_id": -10, "origin_slot": 0, "target_id": 1, "target_slot": 1, "type": "X"},
                       {"id": 3, "origin_id": 1, "origin_slot": 0, "target_id": -20, "target_slot": 0, "type": "X"}]}
    ui = filtered(node(5, "aaaa", [("x", "X", 20), ("y", "Y", 21)], outputs=["X"]),
                  links=[[20, 1, 0, 5, 0, "X"], [21, 1, 1, 5, 1, "Y"], [90, 5, 0, 9, 0, "X"]])
    return {**ui, "definitions": {"subgraphs": [inner]}}


def test_subgraphs_are_put_in_place():
    found = prompt(subgraph())
    assert set(found) == {"1", "5:1", "9"}
    assert found["5:1"]["inputs"] == {"amount": 0.25, "y": ["1", 1], "x": ["1", 0]}
    assert found["9"]["inputs"]["x"] == ["5:1", 0]


def test_nested_and_bypassed_subgraphs():
    ui = subgraph()
    outer = {"id": "bbbb", "name": "outer", "inputs": [{"name": "x"}, {"name": "y"}], "outputs": [{"name": "X"}],
             "nodes": [node(5, "aaaa", [("x", "X", 1), ("y", "Y", 2)], outputs=["X"])],
             "links": [{"id": 1, "origin_id": -10, "origin_slot": 0, "target_id": 5, "target_slot": 0, "type": "X"},
                       {"id": 2, "origin_id": -10, "origin_slot": 1, "target_id": 5, "target_slot": 1, "type": "Y"},
                       {"id": 3, "origin_id": 5, "origin_slot": 0, "target_id": -20, "target_slot": 0, "type": "X"}]}
    ui["definitions"]["subgraphs"].append(outer)
    ui["nodes"][1]["type"] = "bbbb"
    found = prompt(ui)
    assert found["5:5:1"]["inputs"] == {"amount": 0.25, "y": ["1", 1], "x": ["1", 0]}
    assert found["9"]["inputs"]["x"] == ["5:5:1", 0]
    ui["nodes"][1]["mode"] = 4
    found = prompt(ui)
    assert set(found) == {"1", "9"} and found["9"]["inputs"]["x"] == ["1", 0]


def test_literal_lists_are_wrapped_and_unknown_classes_keep_links():
    ui = filtered(node(2, "Elsewhere", [("x", "X", 11)], [1, 2], outputs=["X"]),
                  links=[[11, 1, 0, 2, 0, "X"], [90, 2, 0, 9, 0, "X"]])
    ui["nodes"][0]["widgets_values"] = [7, "fixed", ["q", 1], "b"]
    found = prompt(ui)
    assert found["1"]["inputs"]["text"] == {"__value__": ["q", 1]}
    assert found["2"]["inputs"] == {"x": ["1", 0]}


API = {"3": {"class_type": "Source", "inputs": {"seed": 1, "text": "t", "kind": "a"}, "_meta": {"title": "first"}},
       "4": {"class_type": "Sink", "inputs": {"x": ["3", 0]}}}


def test_api_form_is_taken_as_it_is():
    assert prompt(API) == API


@pytest.mark.parametrize("name", ["3", "first", "Source"])
def test_set_values_by_id_title_and_class(name):
    changed = parse(API).set_values(DEFINITIONS, {(name, "text"): "new"})
    assert changed.to_prompt(DEFINITIONS)["3"]["inputs"]["text"] == "new"
    assert API["3"]["inputs"]["text"] == "t"


def test_values_set_are_in_the_saved_graph_too():
    for path, ui in (("1", filtered(links=[[90, 1, 0, 9, 0, "X"]])), ("5:1", subgraph())):
        original = copy.deepcopy(ui)
        key = "text" if path == "1" else "amount"
        changed = parse(ui).set_values(DEFINITIONS, {(path, key): 0.75})
        assert changed.to_prompt(DEFINITIONS)[path]["inputs"][key] == 0.75
        assert Workflow(changed.ui, None).to_prompt(DEFINITIONS)[path]["inputs"][key] == 0.75
        assert ui == original


def test_set_seed_sets_every_typed_seed():
    ui = filtered(source(2), links=[[90, 1, 0, 9, 0, "X"]])
    changed = parse(ui).set_seed(DEFINITIONS, 99)
    assert [changed.to_prompt(DEFINITIONS)[i]["inputs"]["seed"] for i in "12"] == [99, 99]
    assert changed.ui["nodes"][0]["widgets_values"] == [99, "randomize", "hello", "b"]


@pytest.mark.parametrize(("values", "message"), [
    ({("7", "text"): 1}, "'7' names no node of the workflow; use a node id: 3 Source, 4 Sink"),
    ({("first", "words"): 1}, r"node 3 \(Source\) has no value 'words' to set; it has: seed, text, kind"),
    ({("4", "x"): 1}, r"node 4 \(Sink\) has no value 'x' to set; it has: none"),
])
def test_what_cannot_be_set_is_named(values, message):
    with pytest.raises(WorkflowError, match=message):
        parse(API).set_values(DEFINITIONS, values)


@pytest.mark.parametrize(("content", "message"), [
    (b"{not json", "is not JSON"), (b"\xff\xfe\x00", "is not JSON"),
    (b"[]", "is JSON but no workflow: it holds a list"),
    (b"{}", "it holds an object with nothing"), (b'{"a": 1}', "it holds an object with 'a'"),
    (b'{"nodes": [{"x": 1}]}', "it holds an object with 'nodes'"), (b"7", "it holds a int"),
])
def test_files_that_are_no_workflow(tmp_path, content, message):
    path = tmp_path / "w.json"
    path.write_bytes(content)
    with pytest.raises(WorkflowError, match=message):
        load(path)


def test_missing_file_and_png_without_graph(tmp_path):
    from PIL import Image

    with pytest.raises(WorkflowError, match="can't be read .No such file"):
        load(tmp_path / "none.json")
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    with pytest.raises(WorkflowError, match="is a PNG without a workflow inside"):
        load(tmp_path / "plain.png")


def test_png_carries_its_graph(tmp_path):
    import torch

    from odeon.host.embedded.files import save_png

    save_png(tmp_path / "a.png", torch.zeros(4, 4, 3), {"prompt": json.dumps(API)})
    assert load(tmp_path / "a.png").to_prompt({}) == API
    ui = subgraph()
    save_png(tmp_path / "b.png", torch.zeros(4, 4, 3), {"prompt": json.dumps(API), "workflow": json.dumps(ui)})
    assert load(tmp_path / "b.png").ui == ui
    assert not list(tmp_path.glob("*.part"))
