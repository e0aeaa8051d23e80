"""The words of every node as ComfyUI's page reads them, in English and in Simplified Chinese.

English is made of the nodes themselves. Chinese is made of them and of locales/zh.json, {English: Chinese}: a text that
changed in a node has no Chinese until it is translated again, and so can't say something else than the node does."""
import json
from pathlib import Path

from ..host.workflow import describe, inputs_of

FOLDER = Path(__file__).resolve().parent.parent / "locales"
WORDS = FOLDER / "zh.json"


def english(classes: dict[str, type]) -> dict:
    """nodeDefs: {id: {display_name, description, inputs: {name: {tooltip}}, outputs: {slot: {tooltip}}}}."""
    return {name: _definition(cls) for name, cls in sorted(classes.items())}


def _definition(cls: type) -> dict:
    inputs = {name: {"tooltip": options["tooltip"]} for name, (_, options, _) in inputs_of(describe(cls)).items()}
    outputs = {str(slot): {"tooltip": tooltip} for slot, tooltip in enumerate(cls.OUTPUT_TOOLTIPS)}
    return {"display_name": cls.TITLE, "description": cls.DESCRIPTION, **({"inputs": inputs} if inputs else {}),
            "outputs": outputs}


def translated(definitions: dict, words: dict[str, str]) -> dict:
    """Definitions with every text that words knows; those it lacks are left out, and the page shows them in English."""
    found = {key: words.get(value) if isinstance(value, str) else translated(value, words)
             for key, value in definitions.items()}
    return {key: value for key, value in found.items() if value}


def texts(definitions: dict) -> list[str]:
    """Every text of definitions, once."""
    found = {}
    for value in definitions.values():
        found |= dict.fromkeys([value] if isinstance(value, str) else texts(value))
    return list(found)


def as_json(definitions: dict) -> str:
    """As the files hold it."""
    return json.dumps(definitions, ensure_ascii=False, indent=1) + "\n"


def pages(classes: dict[str, type]) -> dict[Path, str]:
    """What locales/ should hold: {path: text}."""
    source = english(classes)
    words = json.loads(WORDS.read_text(encoding="utf-8"))
    return {FOLDER / "en" / "nodeDefs.json": as_json(source),
            FOLDER / "zh" / "nodeDefs.json": as_json(translated(source, words))}


def missing(classes: dict[str, type]) -> list[str]:
    """English texts without Chinese."""
    words = json.loads(WORDS.read_text(encoding="utf-8"))
    return [text for text in texts(english(classes)) if text not in words]
