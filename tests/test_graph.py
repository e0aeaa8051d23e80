"""Checking and running graphs in API form."""
import pytest

from odeon.host.embedded import graph
from odeon.host.embedded.context import Context, Events


class Number:
    RETURN_TYPES = ("INT", "LATENT")
    FUNCTION = "give"
    ran = []

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("INT", {"min": 0, "max": 9}), "mode": (["up", "down"],)},
                "optional": {"factor": ("FLOAT", {"min": 0.0, "max": 2.0}), "on": ("BOOLEAN",), "text": ("STRING",)}}

    def give(self, value, mode, factor=1.0, on=True, text=""):
        Number.ran.append(value)
        return (int(value * factor) if on else 0, text)


class Add:
    RETURN_TYPES = ("INT",)
    FUNCTION = "add"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"a": ("INT",), "b": ("INT",)}}

    def add(self, a, b):
        if a == 4:
            raise ValueError("four is too many")
        return (a + b,)


class Show:
    RETURN_TYPES = ()
    FUNCTION = "show"
    OUTPUT_NODE = True
    shown = []

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("INT", {"forceInput": True})}}

    def show(self, value):
        Show.shown.append(value)
        return {"ui": {"text": [value]}}


CLASSES = {cls.__name__: cls for cls in (Number, Add, Show)}


def number(value=2, **inputs):
    return {"class_type": "Number", "inputs": {"value": value, "mode": "up", **inputs}}


def add(a, b):
    return {"class_type": "Add", "inputs": {"a": a, "b": b}}


def show(value):
    return {"class_type": "Show", "inputs": {"value": value}, "_meta": {"title": "the end"}}


def problems(prompt):
    return [str(problem) for problem in graph.check(prompt, CLASSES)]


def test_a_sound_graph_has_no_problem():
    assert problems({"1": number(), "2": add(["1", 0], 3), "3": show(["2", 0])}) == []


@pytest.mark.parametrize(("nodes", "message"), [
    ({"1": number(10)}, "node 1 (Number): input 'value' must lie in 0 to 9, got 10"),
    ({"1": number(-1)}, "input 'value' must lie in 0 to 9, got -1"),
    ({"1": number("many")}, "input 'value' needs a number (INT), got 'many'"),
    ({"1": number(factor=float("nan"))}, "input 'factor' must lie in 0.0 to 2.0, got nan"),
    ({"1": number(float("inf"))}, "needs a number (INT), got inf"),
    ({"1": number(mode="sideways")}, "input 'mode' must be one of up, down, got 'sideways'"),
    ({"1": number(on="perhaps")}, "input 'on' needs true or false, got 'perhaps'"),
    ({"1": {"class_type": "Number", "inputs": {"mode": "up"}}},
     "input 'value' is missing; connect a INT or give a value"),
    ({"1": add(["8", 0], 1)}, "input 'a' is linked to node 8, which is not in the graph"),
    ({"1": number(), "2": add(["1", 2], 1)}, "input 'a' is linked to output 2 of node 1, which has 2 outputs"),
    ({"1": number(), "2": add(["1", 1], 1)}, "input 'a' needs INT, got LATENT from node 1 (Number)"),
    ({"1": {"class_type": "Gone", "inputs": {}}}, "node 1 (Gone): unknown node class 'Gone'; install the pack"),
    ({"1": add(["2", 0], 1), "2": add(["1", 0], 1)}, "links run in a circle: "),
    ({"1": add(["1", 0], 1)}, "links run in a circle: 1 -> 1"),
])
def test_each_problem_is_named(nodes, message):
    found = problems({**nodes, "99": show(5)})
    assert any(message in problem for problem in found), found


def test_all_problems_at_once_with_titles():
    found = problems({"1": number(10, mode="x"), "2": {"class_type": "Gone", "inputs": {}}, "3": show(["7", 0])})
    assert len(found) == 4
    assert any("node 3 (the end, Show)" in problem for problem in found)


def test_a_graph_without_output_says_so():
    assert problems({"1": number()}) == ["no node of the graph saves or shows anything; add a SaveImage"]


def test_each_node_runs_once_in_order_and_only_where_needed(tmp_path):
    Number.ran, Show.shown = [], []
    started = []

    class Listener(Events):
        def node_started(self, node_id, title):
            started.append((node_id, title))

    prompt = {"9": show(["3", 0]), "3": add(["2", 0], ["2", 0]), "2": add(["1", 0], ["1", 0]),
              "1": number(3.0, factor="1"), "5": number(8)}
    assert problems(prompt) == []
    results = graph.run(prompt, CLASSES, Context(tmp_path, events=Listener()))
    assert Show.shown == [12]
    assert Number.ran == [3]
    assert [node_id for node_id, _ in started] == ["1", "2", "3", "9"]
    assert started[-1][1] == "the end"
    assert results["2"] == (6,)


def test_a_failing_node_is_named(tmp_path):
    with pytest.raises(graph.GraphError, match=r"node 2 \(Add\): four is too many"):
        graph.run({"1": number(4), "2": add(["1", 0], 1), "3": show(["2", 0])}, CLASSES, Context(tmp_path))


def test_long_chains_do_not_exhaust_the_stack(tmp_path):
    Show.shown = []
    prompt = {"0": number(1), **{str(i): add([str(i - 1), 0], 0) for i in range(1, 3000)}, "end": show(["2999", 0])}
    assert problems(prompt) == []
    graph.run(prompt, CLASSES, Context(tmp_path))
    assert Show.shown == [1]
