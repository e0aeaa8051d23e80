"""What `python -m odeon.bench guidance` shows on the terminal and writes to docs/guidance.md."""
from pathlib import Path

from rich.table import Table

from .guidance import ADAPTIVE, MODELS, STEPS, Setting, best_of
from .judged_page import Group, tables_of, write_page
from .solvers_page import ROOT

PAGE = ROOT / "docs" / "guidance.md"
METHOD = f"""Pictures of held-out captions of one to three things, {STEPS} Euler steps on the normal schedule, the same
noise in every row; nodes at their defaults but for what a row says. Objects: things of the captions that are there, in
percent. Frechet: distance of the judge's features from those of 256 true scenes. Saturation: the mean spread of a
pixel's colours, diversity: the mean distance of two pictures' features, both as shares of true scenes'; 1 is right.
Variety: the distance of pictures of one caption, as a share of that of true scenes of any. Evaluations: of the network,
for a picture. The best CFG is the lowest whose objects are within half a point of the most."""
COLUMNS = {"object": ("objects", "{:.1f} %", 100.0), "frechet_distance": ("Frechet", "{:.2f}", 1.0),
           "saturation": ("saturation", "{:.3f}", 1.0), "diversity": ("diversity", "{:.3f}", 1.0),
           "variety": ("variety", "{:.3f}", 1.0), "to_reference": ("rms to full CFG", "{:.2f}/255", 1.0),
           "evaluations": ("evaluations", "{:.1f}", 1.0)}


def groups(found: dict[Setting, dict]) -> list[Group]:
    """(title, heads, cells) of each model's groups."""
    made = []
    for model, group in dict.fromkeys((setting.model, setting.group) for setting in found):
        rows = {setting: row for setting, row in found.items() if (setting.model, setting.group) == (model, group)}
        keys = [key for key in COLUMNS if any(key in row for row in rows.values())
                and (key != "object" or any(setting.words == "captions" for setting in rows))]
        cells = [[setting.name, *(_cell(row, key) for key in keys)] for setting, row in rows.items()]
        scales = sorted({setting.cfg for setting in rows})
        title = f"{model}: {group}" + (f" ({scales[0]:g})" if len(scales) == 1 and group != "Without a prompt" else "")
        made.append((title, ["", *(COLUMNS[key][0] for key in keys)], cells))
    return made


def _cell(row: dict, key: str) -> str:
    _, form, unit = COLUMNS[key]
    return form.format(row[key] * unit) if key in row else ""


def tables(found: dict[Setting, dict]) -> list[Table]:
    """For the terminal."""
    return tables_of(groups(found))


def sentences(found: dict[Setting, dict]) -> list[str]:
    """Of each model: what its best CFG is, and what Adaptive Guidance saves and loses there."""
    lines = []
    for model in MODELS:
        plain = {setting: row for setting, row in found.items()
                 if (setting.model, setting.group) == (model, "Plain CFG")}
        if not plain:
            continue
        best = best_of(plain)
        full = next(row for setting, row in plain.items() if setting.cfg == best)
        lines.append(f"{model}: best CFG {best:g}.")
        for setting, row in found.items():
            if (setting.model, setting.group) == (model, ADAPTIVE):
                lines.append(f"{model}, Adaptive Guidance, {setting.name}: "
                             f"{100.0 * (1.0 - row['evaluations'] / full['evaluations']):.1f} % fewer evaluations, "
                             f"objects {100.0 * (row['object'] - full['object']):+.1f} points, "
                             f"{row['to_reference']:.2f}/255 rms from full CFG.")
    return lines


def write(found: dict[Setting, dict], count: int) -> Path:
    """docs/guidance.md."""
    return write_page(PAGE, "Guidance", groups(found), command="guidance --write", rows=f"{count} pictures a row",
                      method=METHOD, sentences=sentences(found))
