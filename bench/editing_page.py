"""What `python -m odeon.bench editing` shows on the terminal and writes to docs/editing.md."""
from pathlib import Path

from rich.table import Table

from .editing import MODELS, PART, Setting
from .editing_edits import STILL
from .judged_page import Group, tables_of, write_page
from .solvers_page import ROOT

PAGE = ROOT / "docs" / "editing.md"
GOAL = 0.8
METHOD = f"""Each edit changes the colour, the shape or the place of one thing of a held-out scene of one to three, by
two captions that differ in that alone; the picture is the true drawing, encoded. Right: the edited attribute is as
asked, by the judge. Kept: everything else is: the thing's other attributes, other things, which may move or grow by
{STILL:g} pixels at most, and the ground. Both, of all edits and of each kind. Drift: pixels by which a thing moves that
got another colour or shape where it stands. Background: the rms change of pixels outside the thing, in 255ths; the VAE
alone makes that of 'nothing changed'. Evaluations of the network and seconds are for a picture, {PART} at a time.
Nodes are at their defaults but for what a row says; the same noise in every row."""
COLUMNS = {"right": ("right", "{:.1f} %", 100.0), "kept": ("kept", "{:.1f} %", 100.0),
           "both": ("both", "{:.1f} %", 100.0), "colour": ("colour", "{:.0f} %", 100.0),
           "shape": ("shape", "{:.0f} %", 100.0), "place": ("place", "{:.0f} %", 100.0),
           "drift": ("drift", "{:.1f} px", 1.0), "background": ("background", "{:.2f}", 1.0),
           "evaluations": ("evaluations", "{:.0f}", 1.0), "seconds": ("seconds", "{:.2f}", 1.0)}
HEADS = ["", *(head for head, _, _ in COLUMNS.values())]


def groups(found: dict[Setting, dict]) -> list[Group]:
    """Of each model."""
    made = []
    for model, group in dict.fromkeys((setting.model, setting.group) for setting in found):
        rows = {setting: row for setting, row in found.items() if (setting.model, setting.group) == (model, group)}
        made.append((f"{model}: {group}", HEADS, [[_name(setting), *(_cell(row, key) for key in COLUMNS)]
                                                  for setting, row in rows.items()]))
    return made


def _name(setting: Setting) -> str:
    if setting.way in ("drawn", "nothing"):
        return setting.name
    return f"{setting.name}, CFG {setting.cfg:g}, {setting.steps} steps"


def _cell(row: dict, key: str) -> str:
    _, form, unit = COLUMNS[key]
    return form.format(row[key] * unit) if key in row else ""


def tables(found: dict[Setting, dict]) -> list[Table]:
    """For the terminal."""
    return tables_of(groups(found))


def sentences(found: dict[Setting, dict]) -> list[str]:
    """Of each model: the editor that is right and keeps the rest most often, and which others reach the goal."""
    lines = []
    for model in MODELS:
        rows = {setting: row for setting, row in found.items() if setting.model == model and setting.group != "Limits"}
        if not rows:
            continue
        best, row = max(rows.items(), key=lambda pair: (pair[1]["both"], -pair[1]["background"]))
        reached = sum(min(row["right"], row["kept"]) >= GOAL for row in rows.values())
        lines.append(f"{model}: {_name(best)} is best, right in {100.0 * row['right']:.1f} %, all else kept in "
                     f"{100.0 * row['kept']:.1f} %, background {row['background']:.2f}/255. {reached} of {len(rows)} "
                     f"rows reach {100.0 * GOAL:.0f} % in both.")
    return lines


def write(found: dict[Setting, dict], count: int) -> Path:
    """docs/editing.md."""
    return write_page(PAGE, "Editing", groups(found), command="editing --write", rows=f"{count} edits a row",
                      method=METHOD, sentences=sentences(found))
