"""What `python -m odeon.bench inverse` shows on the terminal and writes to docs/inverse.md."""
from pathlib import Path

from rich.table import Table

from .inverse import CFG, PLAIN, Setting
from .judged_page import Group, tables_of, write_page
from .solvers_page import ROOT

PAGE = ROOT / "docs" / "inverse.md"
METHOD = f"""True pictures of held-out scenes of one to three things are damaged, without noise, and restored under
their captions at CFG {CFG:g} on the normal schedule, with the same noise in every row; nodes at their defaults but for
what a row says. img2img starts from the pseudo-inverse of the measurement (a hole is mid-grey, a shrunk picture has
large pixels), Euler. Residual: rms difference of the measurements, in 255ths. PSNR: to the true picture, mean over
pictures. Objects: things of the captions that the judge finds, in percent. Evaluations: of the network, both prompts
counted, for a picture; those of all rows but img2img come with a gradient, which seconds show."""
COLUMNS = {"residual": ("residual", "{:.2f}/255", 1.0), "psnr": ("PSNR", "{:.1f} dB", 1.0),
           "object": ("objects", "{:.1f} %", 100.0), "evaluations": ("evaluations", "{:.0f}", 1.0),
           "seconds": ("seconds", "{:.1f}", 1.0)}


def groups(found: dict[Setting, dict]) -> list[Group]:
    """(title, heads, cells) of each task of each model."""
    made = []
    for model, task in dict.fromkeys((setting.model, setting.task) for setting in found):
        cells = [[setting.name, *(form.format(row[key] * unit) for key, (_, form, unit) in COLUMNS.items())]
                 for setting, row in found.items() if (setting.model, setting.task) == (model, task)]
        made.append((f"{model}: {task}", ["", *(head for head, _, _ in COLUMNS.values())], cells))
    return made


def tables(found: dict[Setting, dict]) -> list[Table]:
    """For the terminal."""
    return tables_of(groups(found))


def sentences(found: dict[Setting, dict]) -> list[str]:
    """Of each task: what STSL saves of the evaluations of the best PSLD, and what both gain over img2img."""
    lines = []
    for model, task in dict.fromkeys((setting.model, setting.task) for setting in found):
        rows = {setting: row for setting, row in found.items() if (setting.model, setting.task) == (model, task)}
        of = {method: [(row["psnr"], row["evaluations"], setting.name) for setting, row in rows.items()
                       if setting.method == method] for method in (PLAIN, "psld", "stsl")}
        if not all(of.values()):
            continue
        best, plain = max(of["psld"]), max(of[PLAIN])
        reached = [row for row in of["stsl"] if row[0] >= best[0] - 0.1]
        line = (f"{model}, {task}: best img2img {plain[0]:.1f} dB ({plain[2]}), best PSLD {best[0]:.1f} dB "
                f"({best[2]}, {best[1]:.0f} evaluations); ")
        if reached:
            few = min(reached, key=lambda row: row[1])
            share = 100.0 * few[1] / best[1]
            line += f"STSL is there with {share:.0f} % of the evaluations ({few[2]}, {few[0]:.1f} dB)."
        else:
            most = max(of["stsl"])
            line += f"STSL does not get there: {most[0]:.1f} dB ({most[2]}, {most[1]:.0f} evaluations)."
        lines.append(line)
    return lines


def write(found: dict[Setting, dict], count: int) -> Path:
    """docs/inverse.md."""
    return write_page(PAGE, "Inverse problems", groups(found), command="inverse --write",
                      rows=f"{count} pictures a row", method=METHOD, sentences=sentences(found))
