"""locales/: the words of the nodes as the page reads them, in English and Simplified Chinese."""
import json
import warnings

import pytest
from conftest import ROOT

from odeon import NODE_CLASS_MAPPINGS
from odeon.bench.locales import english, missing, pages, texts, translated
from odeon.host.workflow import describe, inputs_of

SOURCE = english(NODE_CLASS_MAPPINGS)
WORDS = json.loads((ROOT / "locales" / "zh.json").read_text(encoding="utf-8"))
CHINESE = json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))
WRITE = "run `python -m odeon.bench locales --write`"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_files_are_what_the_nodes_say(language):
    path = ROOT / "locales" / language / "nodeDefs.json"
    assert path.read_text(encoding="utf-8") == pages(NODE_CLASS_MAPPINGS)[path], WRITE


def test_english_is_every_word_of_the_nodes():
    """So page, tooltip and locale can't disagree: the server's own description is the same text."""
    assert set(SOURCE) == set(NODE_CLASS_MAPPINGS)
    for name, cls in NODE_CLASS_MAPPINGS.items():
        said = SOURCE[name]
        assert (said["display_name"], said["description"]) == (cls.TITLE, cls.DESCRIPTION)
        assert {key: options["tooltip"] for key, (_, options, _) in inputs_of(describe(cls)).items()} == \
            {key: value["tooltip"] for key, value in said.get("inputs", {}).items()}
        assert [said["outputs"][str(slot)]["tooltip"] for slot in range(len(cls.RETURN_TYPES))] == \
            list(cls.OUTPUT_TOOLTIPS)
        page = (ROOT / "web" / "docs" / f"{name}.md").read_text(encoding="utf-8")
        assert page.startswith(f"# {said['display_name']}\n")


def test_chinese_names_no_unknown_node_or_input():
    for name, said in CHINESE.items():
        assert said.keys() <= SOURCE[name].keys()
        for part in ("inputs", "outputs"):
            assert said.get(part, {}).keys() <= SOURCE[name].get(part, {}).keys(), name


def test_chinese_is_complete_but_for_what_is_listed():
    """Nine texts in ten at least, and nine nodes in ten by name; the rest is listed as a warning."""
    lacking = missing(NODE_CLASS_MAPPINGS)
    if lacking:
        warnings.warn(f"{len(lacking)} texts without Chinese in locales/zh.json:\n" + "\n".join(lacking))
    assert len(lacking) <= 0.1 * len(texts(SOURCE)), lacking
    unnamed = [name for name in SOURCE if not {"display_name", "description"} <= CHINESE.get(name, {}).keys()]
    assert len(unnamed) <= 0.1 * len(SOURCE), unnamed


def test_a_changed_text_loses_its_translation():
    before = {"A": {"description": "one", "inputs": {"x": {"tooltip": "two"}}}}
    words = {"one": "一", "two": "二"}
    assert translated(before, words) == {"A": {"description": "一", "inputs": {"x": {"tooltip": "二"}}}}
    after = {"A": {"description": "one more", "inputs": {"x": {"tooltip": "two"}}}}
    assert translated(after, words) == {"A": {"inputs": {"x": {"tooltip": "二"}}}}
    assert translated({"A": {"description": "new"}}, words) == {}


def test_chinese_keeps_what_must_not_be_translated():
    """Names in code letters stand in both; the page's message format finds nothing to fill in."""
    for text, said in WORDS.items():
        assert said.strip() and not set(said) & set("{}@|"), said
        assert not set(text) & set("{}@|"), f"{text}: these mean something else to the page"
        for word in ("SamplerCustom", "sigma_min", "SIGMAS", "Stable Diffusion"):
            assert (word in text) <= (word in said), f"{text!r} lost {word}"
