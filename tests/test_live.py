"""The live curve of a schedule node: its own levels, or words."""
import json

import pytest
from conftest import ROOT

from odeon import NODE_CLASS_MAPPINGS as NODES
from odeon.host import live
from odeon.nodes import menu


def spec(name, **values):
    defaults = {key: options[1]["default"] for group in NODES[name].INPUT_TYPES().values()
                for key, options in group.items() if "default" in options[1]}
    return {"id": "7", "class": name, "inputs": {**defaults, **values}}


SHAPES = {"class": "OdeonShapesCheckpoint", "inputs": {"model": "shapes-dit"}}


def test_the_live_curve_is_the_node_s_own_output():
    power = NODES["OdeonSigmasPower"]().build(steps=5, sigma_max=14.614642, sigma_min=0.0291675, rho=7.0)[0]
    assert live.answer(spec("OdeonSigmasPower", steps=5), NODES) == {"levels": power.tolist()}
    model = NODES["OdeonShapesCheckpoint"]().load("shapes-dit")[0]
    for name in ("OdeonSigmasBeta", "OdeonSigmasFamily", "OdeonSigmasTimestepSpacing"):
        theirs = menu.sigmas_of(f"Odeon {name.removeprefix('OdeonSigmas')}", model, 6)
        assert live.answer(spec(name, steps=6, model=SHAPES), NODES) == {"levels": theirs.tolist()}, name
    inner = spec("OdeonSigmasPower", steps=8)
    fine = NODES["OdeonSigmasPower"]().build(steps=8, sigma_max=14.614642, sigma_min=0.0291675, rho=7.0)[0]
    annealed = NODES["OdeonSigmasStepAnneal"]().build(
        sigmas=fine, **spec("OdeonSigmasStepAnneal")["inputs"])[0]
    assert live.answer(spec("OdeonSigmasStepAnneal", sigmas=inner), NODES) == {"levels": annealed.tolist()}
    nested = spec("OdeonSigmasSegmented", model=SHAPES, sampler={"class": "KSamplerSelect", "inputs": {}})
    assert len(live.answer(nested, NODES)["levels"]) == 5  # a sampler decides nothing here


@pytest.mark.parametrize("asked, words", [
    (spec("OdeonSigmasBeta"), "Connect model to see the curve"),
    (spec("OdeonSigmasBeta", model={"class": "CheckpointLoaderSimple", "inputs": {}}), "known once the graph has run"),
    (spec("OdeonSigmasPower", sigma_min=20.0), "need 0 < sigma_min <= sigma_max"),
    (spec("OdeonSigmasPower", steps=10 ** 9), "steps must lie in 1 to 10000"),
    (spec("OdeonSigmasPower", steps="ten"), "steps needs a number, got 'ten'"),
    (spec("OdeonSigmasPower", steps={"class": "SomeMath", "inputs": {}}), "steps comes from another node"),
    (spec("OdeonSigmasAlignYourSteps", table="SD9"), "table must be one of SD1.5"),
    (spec("OdeonSigmasStepAnneal", sigmas={"class": "BasicScheduler", "inputs": {}}), "that of BasicScheduler is"),
    (spec("OdeonOptimizeOSS"), "Found when the graph runs"),
    (spec("OdeonSigmasDMN", steps=90, sigma_max=10.0, sigma_min=0.1), "From 41 steps on this takes a while"),
    ({"class": "OdeonShapes", "inputs": {}}, "The curve shows Odeon's own schedules"),
    ({"class": "os.system", "inputs": {"x": 1}}, "The curve shows Odeon's own schedules"),
    *((spoiled, "the page sent no node") for spoiled in (None, [], {"class": 3, "inputs": []})),
])
def test_what_has_no_live_curve_says_why(asked, words):
    assert words in live.answer(asked, NODES)["words"]


def test_a_circle_of_schedules_ends():
    circle = spec("OdeonSigmasStepAnneal")
    circle["inputs"]["sigmas"] = circle
    assert "words" in live.answer(circle, NODES)


def test_nothing_is_registered_without_a_server():
    live.register(NODES)  # the embedded runner has none


def test_the_specs_of_the_page_are_plain_json():
    assert json.loads(json.dumps(live.answer(spec("OdeonSigmasPower"), NODES)))["levels"][-1] == 0.0
    assert (ROOT / "web" / "js" / "odeon_curve.js").read_text().count(live.ROUTE) == 1
