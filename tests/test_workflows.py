"""Every workflow that ships: it runs embedded, and gives the same pictures in ComfyUI."""
import json

import numpy as np
import pytest
from conftest import ROOT
from found_comfyui import each_comfyui
from PIL import Image

from odeon.cli import CLASSES, _definitions
from odeon.host import server
from odeon.host.embedded import graph
from odeon.host.embedded.context import Context, Events
from odeon.host.workflow import load
from odeon.models.weights import NETWORKS

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))


# What a search is given here, for less than it ships with: it finds the same things, less well.
SMALL = {"OdeonOptimizeAlignYourSteps": {"steps": 5, "steps_init": 5, "refine": 0, "mc_samples": 2, "candidates": 3,
                                        "max_iters": 1, "samples": 3},
         "OdeonOptimizePlan": {"minutes": 0.1, "iterations": 2, "samples": 6, "teacher_steps": 8},
         "OdeonOptimizeSteps": {"minutes": 0.1, "samples": 4},
         "OdeonOptimizeAutoDiffusion": {"epochs": 1, "samples": 3, "teacher_steps": 8},
         "OdeonOptimizeUSF": {"budget": 8, "samples": 3, "teacher_steps": 8},
         "OdeonOptimizeLD3": {"most_iterations": 2, "samples": 3, "teacher_steps": 8},
         "OdeonOptimizeTimeTuner": {"iterations": 2, "samples": 3, "teacher_steps": 8},
         "OdeonOptimizeOSS": {"samples": 2}, "OdeonOptimizeGITS": {"samples": 2}, "OdeonOptimizeBOSS": {"samples": 2},
         "OdeonOptimizeDCRatios": {"batch": 1, "teacher_steps": 20, "iters": 10}, "OdeonFitIIA": {"samples": 2},
         "OdeonFitEMS": {"points": 12, "samples": 2}, "OdeonFitLinearAG": {"samples": 4},
         "OdeonAGDRecord": {"runs": 2}, "OdeonAGDTrain": {"iterations": 4}}


def loaded(path):
    """A workflow, with searches that take seconds."""
    workflow = load(path)
    there = {node["type"] for node in workflow.ui["nodes"]}
    return workflow.set_values(_definitions(), {(node, name): value for node, values in SMALL.items() if node in there
                                                for name, value in values.items()})


class Collected(Events):
    def __init__(self):
        self.paths, self.steps = [], []

    def saved(self, path):
        self.paths.append(path)

    def progress(self, value, total):
        self.steps.append((value, total))


def pictures(paths):
    return {path.name: np.asarray(Image.open(path)).astype(int) for path in paths}


@pytest.fixture(scope="session")
def embedded(tmp_path_factory):
    """path -> its pictures from the embedded runner, each workflow run once."""
    made = {}

    def run(path):
        if path not in made:
            assert graph.check(load(path).to_prompt(_definitions()), CLASSES) == []
            workflow, events = loaded(path), Collected()
            prompt = workflow.to_prompt(_definitions())
            assert graph.check(prompt, CLASSES) == []
            folder = tmp_path_factory.mktemp(path.stem)
            with pytest.MonkeyPatch.context() as patch:  # nothing kept by an earlier run is taken for this one's
                patch.setenv("ODEON_FOLDER", str(folder / "odeon_folder"))
                graph.run(prompt, CLASSES, Context(folder, [], prompt, workflow.ui, events))
            made[path] = events
        return made[path]

    return run


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_runs_embedded(path, embedded):
    events = embedded(path)
    assert events.paths and (events.steps or path.stem == PLOTTED)
    for file in events.paths:
        picture = Image.open(file)
        assert json.loads(picture.text["workflow"]) == loaded(path).ui
        assert load(file).to_prompt(_definitions()) == json.loads(picture.text["prompt"])
        assert np.asarray(picture).std() > 2.0, "a picture of one colour"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_says_what_it_shows(path):
    nodes = json.loads(path.read_text())["nodes"]
    assert any(node["type"] == "MarkdownNote" and len(node["widgets_values"][0]) > 40 for node in nodes)
    controls = {value for node in nodes for value in (node.get("widgets_values") or [])
                if value in ("fixed", "randomize", "increment", "decrement")}
    assert controls <= {"fixed"}, "a second run would draw something else"


# Pictures of steps that a search found: its course hangs on the time it has, or on the last digits of many model calls;
# and of a classifier's gradient or a boundary, which make much of them.
SEARCHED = {"optimize_steps": ("optimized_steps", "where_the_steps_are"), "optimize_plan": ("learned_plan", "learning"),
            "ld3_time_tuner": ("ld3", "time_tuner"), "usf": ("searched", "search"),
            "guidance_classifier": ("red_as_loss",), "edit_boundary": ("the_other_kind",)}
PLOTTED = "plot_sigmas"  # where nothing is sampled


@each_comfyui()
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_same_pictures_in_comfyui(path, root, comfyui_url, embedded, tmp_path):
    client, events = server.Client(comfyui_url), Collected()
    workflow = loaded(path)
    prompt = workflow.to_prompt(client.definitions())
    try:
        saved = client.fetch_images(client.run(prompt, workflow.ui, events), tmp_path, events)
    except server.ServerError as error:
        if "odeon[science]" in str(error):
            pytest.skip(f"this ComfyUI lacks a library that {path.stem} asks for: {error}")
        raise
    ours, theirs = pictures(embedded(path).paths), pictures(saved)
    assert ours.keys() == theirs.keys()
    for name in (name for name in ours if not name.startswith("preview_")):  # numbered in the order of running
        trained = "OdeonShapesCheckpoint" in path.read_text()
        assert ours[name].shape == theirs[name].shape
        if not any(f"{found}_0" in name for found in SEARCHED.get(path.stem, ())):
            assert np.abs(ours[name] - theirs[name]).max() <= (2 if trained else 1), name
    assert json.loads(Image.open(saved[0]).text["workflow"]) == workflow.ui
    assert events.steps or path.stem == PLOTTED, "the server's progress was not shown"


@each_comfyui()
@pytest.mark.parametrize("model", NETWORKS)
def test_every_shapes_model_draws_the_same_in_comfyui(model, root, comfyui_url, tmp_path):
    workflow = load(ROOT / "workflows" / "shapes_checkpoint.json")
    workflow = workflow.set_values(_definitions(), {("OdeonShapesCheckpoint", "model"): model, ("KSampler", "steps"): 8,
                                                    ("EmptyLatentImage", "width"): 136})
    ours, client, events = Collected(), server.Client(comfyui_url), Collected()
    prompt = workflow.to_prompt(_definitions())
    graph.run(prompt, CLASSES, Context(tmp_path / "ours", [], prompt, workflow.ui, ours))
    saved = client.fetch_images(client.run(workflow.to_prompt(client.definitions()), workflow.ui, events),
                                tmp_path / "theirs", events)
    ours, theirs = pictures(ours.paths), pictures(saved)
    assert len(ours) == 4 and ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].shape == (128, 136, 3)
        assert np.abs(ours[name] - theirs[name]).max() <= 2, name
