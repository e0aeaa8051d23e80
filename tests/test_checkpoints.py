"""workflows/checkpoints: they need only the user's checkpoint, so all but its file name must be right as shipped."""
import json
import urllib.error
import urllib.request

import pytest
from conftest import ROOT
from found_comfyui import each_comfyui

from odeon.cli import CLASSES, _definitions
from odeon.host import server
from odeon.host.embedded import graph
from odeon.host.newer import unknown_parts
from odeon.host.workflow import describe, load

WORKFLOWS = sorted((ROOT / "workflows" / "checkpoints").glob("*.json"))
FAMILIES = {"sd15": "v1-5-pruned-emaonly-fp16.safetensors", "sdxl": "sd_xl_base_1.0.safetensors",
            "sd35": "sd3.5_large_fp8_scaled.safetensors", "flux": "flux1-dev-fp8.safetensors"}


class CheckpointLoaderSimple:
    """What the graph's check needs to know of ComfyUI's nodes that the embedded runner lacks."""
    RETURN_TYPES = ("MODEL", "CLIP", "VAE")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"ckpt_name": (list(FAMILIES.values()), {})}}


class FluxGuidance:
    RETURN_TYPES = ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"conditioning": ("CONDITIONING",), "guidance": ("FLOAT", {"min": 0.0, "max": 100.0})}}


class EmptySD3LatentImage:
    RETURN_TYPES = ("LATENT",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {name: ("INT", {"min": 1, "max": 16384}) for name in ("width", "height", "batch_size")}}


KNOWN = {cls.__name__: cls for cls in (CheckpointLoaderSimple, FluxGuidance, EmptySD3LatentImage)}


def checkpoint_of(path):
    return FAMILIES[path.stem.split("_")[0]]


def test_there_are_some_of_every_family():
    assert {path.stem.split("_")[0] for path in WORKFLOWS} == set(FAMILIES)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_all_but_the_checkpoint_is_right(path):
    classes = {**KNOWN, **CLASSES}
    workflow, definitions = load(path), {name: describe(cls) for name, cls in classes.items()}
    assert unknown_parts(workflow, definitions) == []
    prompt = workflow.to_prompt(definitions)
    assert graph.check(prompt, classes) == []
    assert len(graph.order(prompt, classes)) == len(prompt), "a node that nothing needs"
    assert [node["inputs"]["ckpt_name"] for node in prompt.values() if node["class_type"] in KNOWN
            and "ckpt_name" in node["inputs"]] == [checkpoint_of(path)]
    assert any(node["class_type"].startswith("OdeonS") for node in prompt.values())


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_says_what_it_needs(path):
    nodes = json.loads(path.read_text())["nodes"]
    note = next(node for node in nodes if node["type"] == "MarkdownNote")["widgets_values"][0]
    assert "Needs a checkpoint of yours" in note and checkpoint_of(path) in note
    models = [model for node in nodes for model in node["properties"].get("models", [])]
    assert [model["name"] for model in models] == [checkpoint_of(path)]
    assert models[0]["url"].endswith(checkpoint_of(path)) and models[0]["directory"] == "checkpoints"
    assert {"randomize", "increment", "decrement"}.isdisjoint(
        value for node in nodes for value in node["widgets_values"] if isinstance(value, str))


def refused(client, prompt):
    """(node id, what, input) of everything a server has against a graph."""
    request = urllib.request.Request(f"{client.url}/prompt", json.dumps({"prompt": prompt}).encode(),
                                     {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(request, timeout=60)
    errors = json.load(refusal.value)["node_errors"]
    return [(node, error["type"], error["extra_info"]["input_name"])
            for node, found in errors.items() for error in found["errors"]]


@each_comfyui()
def test_comfyui_misses_the_checkpoint_alone(root, comfyui_url):
    client = server.Client(comfyui_url)
    for path in WORKFLOWS:
        prompt = load(path).to_prompt(client.definitions())
        loader = next(key for key, node in prompt.items() if node["class_type"] == "CheckpointLoaderSimple")
        assert refused(client, prompt) == [(loader, "value_not_in_list", "ckpt_name")], path.stem


def test_the_embedded_runner_says_what_it_lacks():
    prompt = load(WORKFLOWS[0]).to_prompt(_definitions())
    said = "\n".join(map(str, graph.check(prompt, CLASSES)))
    assert "unknown node class 'CheckpointLoaderSimple'" in said
