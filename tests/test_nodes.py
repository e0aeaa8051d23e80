"""What every node owes: inputs that match its core, words for all of them, a help page, a workflow, search words."""
import inspect
import json
import subprocess
import sys

import pytest
from conftest import ROOT

from odeon import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS, WEB_DIRECTORY
from odeon.host.workflow import describe, inputs_of

NODES = sorted(NODE_CLASS_MAPPINGS)
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
SOCKETS = {"MODEL", "CLIP", "VAE", "LATENT", "IMAGE", "MASK", "SIGMAS", "SAMPLER", "GUIDER", "NOISE", "CONDITIONING",
           "ODEON_EMS", "ODEON_DC_RATIOS,STRING", "ODEON_IIA", "ODEON_ABOUT", "ODEON_LINEAR_AG,STRING", "ODEON_LOSS",
           "ODEON_CLASSIFIER", "ODEON_TRAJECTORIES", "ODEON_BOUNDARY",
           "ODEON_ADAPTER", "ODEON_OPERATOR", "ODEON_NOISE_MAPS"}
CORES = {name: getattr(cls, attribute) for name, cls in NODE_CLASS_MAPPINGS.items()
         for attribute in ("PLAN", "SAMPLE", "WRAP", "SCHEDULE", "RULE") if hasattr(cls, attribute)}


def inputs(name):
    return inputs_of(describe(NODE_CLASS_MAPPINGS[name]))


@pytest.mark.parametrize("name", NODES)
def test_id_title_category_and_words(name):
    cls = NODE_CLASS_MAPPINGS[name]
    assert name == cls.__name__ and name.startswith("Odeon")
    assert cls.CATEGORY.startswith("Odeon/")
    assert NODE_DISPLAY_NAME_MAPPINGS[name] == cls.TITLE
    assert len(cls.DESCRIPTION) > 30
    assert cls.SEARCH_ALIASES and all(alias == alias.lower() for alias in cls.SEARCH_ALIASES)
    assert len(cls.OUTPUT_TOOLTIPS) == len(cls.RETURN_TYPES)
    assert all(len(tip) > 10 for tip in cls.OUTPUT_TOOLTIPS)


@pytest.mark.parametrize("name", NODES)
def test_every_input_is_valid_and_explained(name):
    for key, (kind, options, _) in inputs(name).items():
        assert len(options["tooltip"]) > 10, key
        if isinstance(kind, list):
            assert options["default"] in kind, key
        elif kind in ("INT", "FLOAT"):
            low, high, default, step = (options[word] for word in ("min", "max", "default", "step"))
            assert low <= default <= high, key
            steps = (default - low) / step
            assert abs(steps - round(steps)) < 1e-6 * max(1.0, steps), key
        else:
            assert kind in SOCKETS | {"STRING", "BOOLEAN"}, key


@pytest.mark.parametrize("name", sorted(CORES))
def test_inputs_are_the_core_s_options_and_defaults(name):
    parameters = inspect.signature(CORES[name]).parameters
    given = {"sigmas", "process", "clock", "phi", "steps", "orders", "sampler", "x", "callback", "cond", "uncond",
             "average", "scale", "model", "denoise", "denoised", "noise", "noise_seed", "ems", "ratios",
             "iia", "levels", "noise_of", "noise_maps", "mask"}  # what the host supplies
    options = {key: value.default for key, value in parameters.items() if key not in given}
    shown = {key: spec for key, spec in inputs(name).items() if key not in given}
    assert list(shown) == list(options)
    for key, default in options.items():
        if default is not inspect.Parameter.empty:
            assert shown[key][1]["default"] == default, key


def test_the_menu_s_order_never_changes():
    """Saved workflows hold widget values by position: inputs are only ever appended."""
    frozen = json.loads((ROOT / "tests" / "golden" / "input_order.json").read_text())
    for name, order in frozen.items():
        assert list(inputs(name))[:len(order)] == order, name
    assert set(frozen) == set(NODES), "add the new node's inputs to tests/golden/input_order.json"


@pytest.mark.parametrize("name", NODES)
def test_help_page_covers_every_input(name):
    page = (ROOT / WEB_DIRECTORY / "docs" / f"{name}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {NODE_CLASS_MAPPINGS[name].TITLE}\n")
    for part in ("**Use it**", "**Cost**"):
        assert part in page
    for key in inputs(name):
        if key != "model":
            assert key in page, f"{key} is not explained"
    if name != "OdeonShapes":
        assert "Paper: " in page


def test_no_help_page_without_a_node():
    assert {page.stem for page in (ROOT / WEB_DIRECTORY / "docs").glob("*.md")} == set(NODES)


@pytest.mark.parametrize("name", NODES)
def test_a_workflow_shows_it(name):
    assert any(f'"{name}"' in path.read_text() for path in WORKFLOWS)


@pytest.mark.parametrize("name", NODES)
def test_search_and_menus_tell_it_apart(name):
    """It is found by a word that its title lacks; titles differ; so do the names of its outputs."""
    cls = NODE_CLASS_MAPPINGS[name]
    assert any(alias not in cls.TITLE.lower() for alias in cls.SEARCH_ALIASES)
    assert len(set(cls.SEARCH_ALIASES)) == len(cls.SEARCH_ALIASES)
    assert list(NODE_DISPLAY_NAME_MAPPINGS.values()).count(cls.TITLE) == 1
    names = getattr(cls, "RETURN_NAMES", cls.RETURN_TYPES)
    assert len(names) == len(set(names)) == len(cls.RETURN_TYPES)
    tooltips = [options["tooltip"] for _, options, _ in inputs(name).values()]
    for text in (cls.DESCRIPTION, *cls.OUTPUT_TOOLTIPS, *tooltips):
        assert text.endswith((".", ")", "?")), text


def test_import_is_light():
    """Importing Odeon after torch takes under half a second and loads none of the heavy libraries."""
    code = ("import sys, time, torch, pytest; sys.path.insert(0, {!r}); t = time.process_time(); import conftest; "
            "s = time.process_time() - t; "
            "heavy = {{'PIL', 'scipy', 'kornia', 'typer', 'rich', 'matplotlib'}} & set(sys.modules); "
            "sys.exit(f'{{s:.2f}} s, {{heavy}}' if s > 0.5 or heavy else 0)").format(str(ROOT / "tests"))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
