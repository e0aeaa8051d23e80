"""Every workflow that ships: it runs embedded, opens in ComfyUI's page and, queued there, gives the same pictures."""
import json
import os
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pages
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


# What a search or an edit is given here, for less than it ships with: it does the same, less well.
SMALL = {"OdeonOptimizeAlignYourSteps": {"steps": 5, "steps_init": 5, "refine": 0, "mc_samples": 2, "candidates": 3,
                                        "max_iters": 1, "samples": 3},
         "OdeonOptimizePlan": {"minutes": 0.1, "iterations": 2, "samples": 6, "teacher_steps": 8},
         "OdeonOptimizeSteps": {"minutes": 0.1, "samples": 4},
         "OdeonOptimizeAutoDiffusion": {"epochs": 1, "samples": 3, "teacher_steps": 8},
         "OdeonOptimizeUSF": {"budget": 8, "samples": 3, "teacher_steps": 8},
         "OdeonOptimizeLD3": {"most_iterations": 2, "samples": 3, "teacher_steps": 8},
         "OdeonOptimizeTimeTuner": {"iterations": 2, "samples": 3, "teacher_steps": 8},
         "OdeonOptimizeOSS": {"samples": 2, "steps": 4}, "OdeonOptimizeGITS": {"samples": 2, "steps": 4},
         "OdeonOptimizeBOSS": {"samples": 2}, "OdeonFitBeta": {"samples": 2, "steps": 4},
         "OdeonOptimizeDCRatios": {"batch": 1, "teacher_steps": 20, "iters": 10}, "OdeonFitIIA": {"samples": 2},
         "OdeonFitEMS": {"points": 12, "samples": 2}, "OdeonFitLinearAG": {"samples": 4},
         "OdeonAGDRecord": {"runs": 2}, "OdeonAGDTrain": {"iterations": 4},
         "OdeonPlotError": {"samples": 1, "teacher_steps": 16}, "OdeonCompareGrid": {"steps": "2, 4"},
         "OdeonMinorityScore": {"repeats": 1}, "OdeonPIE": {"n_steps": 3, "steps": 8}, "OdeonDrag": {"n_pix_step": 8},
         "OdeonBoundarySearch": {"steps": 6}, "OdeonDiffuseHigh": {"noising_steps": 3, "steps": 8, "dwt_steps": 2}}
MOST_STEPS = {"KSampler": 6, "BasicScheduler": 6}  # of one run, where a trained network draws
# Pictures a quarter as large, where no node but these, and the core's, reads one or was made for a size.
ANY_SIZE = ("OdeonShapesCheckpoint", "OdeonSampler", "OdeonSigmas", "OdeonOptimize", "OdeonFitBeta", "OdeonFitIIA",
            "OdeonFitLinearAG", "OdeonLinearAG", "OdeonWrap", "OdeonAPG", "OdeonDynamicThreshold", "OdeonMimicScale",
            "OdeonCFG", "OdeonGuidanceInterval", "OdeonScaleSchedule", "OdeonFDG", "OdeonMomentum", "OdeonPAG",
            "OdeonSEG", "OdeonSkipTuning", "OdeonCADS", "OdeonParticle", "OdeonAdaptive", "OdeonAGD", "OdeonPlotError",
            "OdeonCompareGrid", "OdeonTrajectory", "OdeonZeroSNR", "OdeonConditioningSigmas")
CORE = {"CLIPTextEncode", "KSampler", "KSamplerSelect", "BasicScheduler", "SamplerCustom", "VAEDecode", "SaveImage",
        "PreviewImage", "PreviewAny", "EmptyLatentImage", "CFGGuider", "RandomNoise", "SamplerCustomAdvanced"}


def loaded(path):
    """A workflow that takes seconds."""
    workflow = load(path)
    prompt, values = workflow.to_prompt(_definitions()), {}
    kinds = {node["class_type"] for node in prompt.values()}
    # boss's plot turns on the last digits of few costs; DC-Solver's ratios are of so many steps
    shorter = "OdeonShapesCheckpoint" in kinds and path.stem not in ("boss", "dc_solver")
    resizable = shorter and all(kind.startswith(ANY_SIZE) for kind in kinds - CORE)
    for key, node in prompt.items():
        if resizable and node["class_type"] == "EmptyLatentImage":
            values |= {(key, "width"): 64, (key, "height"): 64}
        values |= {(key, name): value for name, value in SMALL.get(node["class_type"], {}).items()}
        steps = node["inputs"].get("steps")
        if node["class_type"] in MOST_STEPS and isinstance(steps, int) and shorter:
            values[key, "steps"] = min(steps, MOST_STEPS[node["class_type"]])
    return workflow.set_values(_definitions(), values)


class Collected(Events):
    def __init__(self):
        self.paths, self.steps = [], []

    def saved(self, path):
        self.paths.append(path)

    def progress(self, value, total):
        self.steps.append((value, total))


def pictures(paths):
    return {path.name: np.asarray(Image.open(path)).astype(int) for path in paths}


def run_embedded(path, folder):
    """{"paths": of its pictures, "steps"} of a workflow from the embedded runner."""
    assert graph.check(load(path).to_prompt(_definitions()), CLASSES) == []
    workflow, events = loaded(path), Collected()
    prompt = workflow.to_prompt(_definitions())
    assert graph.check(prompt, CLASSES) == []
    with pytest.MonkeyPatch.context() as patch:  # nothing kept by an earlier run is taken for this one's
        patch.setenv("ODEON_FOLDER", str(folder / "odeon_folder"))
        graph.run(prompt, CLASSES, Context(folder, [], prompt, workflow.ui, events))
    return {"paths": [str(file) for file in events.paths], "steps": events.steps}


@pytest.fixture(scope="session")
def embedded(tmp_path_factory):
    """path -> what run_embedded gives, each workflow run once in whichever process of the suite asks first."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "embedded"

    def run(path):
        folder = shared / path.stem
        made = folder / "made.json"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:  # another process is at it, or was
            for _ in range(3000):
                if made.is_file():
                    break
                time.sleep(0.1)
        else:
            try:
                found = run_embedded(path, folder)
            except Exception:
                found = {"error": traceback.format_exc()}
            (folder / "part").write_text(json.dumps(found))
            (folder / "part").replace(made)
        found = json.loads(made.read_text())
        assert "error" not in found, found["error"]
        return SimpleNamespace(paths=[Path(file) for file in found["paths"]], steps=found["steps"])

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
def test_same_pictures_in_comfyui(path, root, comfyui_url, embedded, tmp_path, request):
    client, workflow, events = server.Client(comfyui_url), loaded(path), Collected()
    trained = "OdeonShapesCheckpoint" in path.read_text()
    if not trained:  # other tests queue these graphs too: nothing of theirs is taken for this run's
        client._open("/free", b'{"free_memory": true}').close()
    if pages.THERE:
        outputs = run_in_page(request.getfixturevalue("page"), path, client, events, tmp_path)
    else:
        outputs = client.run(workflow.to_prompt(client.definitions()), workflow.ui, events)
    saved = client.fetch_images(outputs, tmp_path, events)
    ours, theirs = pictures(embedded(path).paths), pictures(saved)
    assert ours.keys() == theirs.keys()
    for name in (name for name in ours if not name.startswith("preview_")):  # numbered in the order of running
        assert ours[name].shape == theirs[name].shape
        if not any(f"{found}_0" in name for found in SEARCHED.get(path.stem, ())):
            assert np.abs(ours[name] - theirs[name]).max() <= (2 if trained else 1), name
    assert load(saved[0]).to_prompt(_definitions()) == workflow.to_prompt(_definitions())
    assert events.steps or path.stem == PLOTTED, "the server's progress was not shown"


def run_in_page(page, path, client, events, tmp_path):
    """Outputs of a workflow that was opened in the page, moved about, and queued there, all of whose pictures came."""
    page.errors.clear()
    workflow = loaded(path)
    pages.open_graph(page, workflow.ui, path.stem)
    assert page.evaluate("app.graph._nodes.every(n => !n.has_errors && LiteGraph.registered_node_types[n.type])")
    page.evaluate("for (const n of app.graph._nodes) n.pos = [n.pos[0] + 40, n.pos[1] - 25]")
    theirs, saved = pages.both_api_forms(page, tmp_path)
    assert theirs == pages.comparable(saved.to_prompt(_definitions()))
    assert saved.ui["nodes"][0]["pos"] != workflow.ui["nodes"][0]["pos"]
    assert saved.to_prompt(_definitions()) == workflow.to_prompt(_definitions())
    wrong, run, events.steps = pages.run(page)
    if wrong:
        page.keyboard.press("Escape")
        raise server.ServerError(wrong)
    outputs = client.get(f"/history/{run}")[run]["outputs"]
    pages.shown(page, [node for node, output in outputs.items() if output.get("images")])
    assert page.errors == []
    return outputs


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
    assert json.loads(Image.open(saved[0]).text["workflow"]) == workflow.ui
    assert events.steps, "the server's progress was not shown"
    ours, theirs = pictures(ours.paths), pictures(saved)
    assert len(ours) == 4 and ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].shape == (128, 136, 3)
        assert np.abs(ours[name] - theirs[name]).max() <= 2, name
