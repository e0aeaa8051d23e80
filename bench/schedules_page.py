"""What `python -m odeon.bench schedules` shows on the terminal and writes to docs/schedules.md."""
import json
from pathlib import Path

import torch
from rich.table import Table

from ..measure.plot import draw_lines
from ..schedules.classic import SCHEDULERS
from ..schedules.optimize.teacher import Score
from .schedules import LEARNED, PICTURES, SOLVERS, STOCK, Row, best_stock
from .schedules_problems import EXACT, FEWER, PROBLEMS, SHAPES, TABLES, TEACHER_STEPS
from .schedules_searches import BY_SOLVER, EULER_ONLY, SHARED
from .solvers_page import ROOT, made_with

PAGE = ROOT / "docs" / "schedules.md"
DATA = PAGE.with_suffix(".json")
FORMER = ("learned plan, told levels too", "learned plan, guidance too")  # rows that the whole table is to replace
METHOD = f"""Distance: the root mean square over a latent's numbers between where a schedule with a solver ends
and where an accurate run of {TEACHER_STEPS['exact']} (mixture) or {TEACHER_STEPS['shapes']} (Shapes) steps ends from
the same noise; median / mean over {EXACT[1]} or {SHAPES[1]} noises that nothing was learned from or chosen by, of
{EXACT[0]} or {SHAPES[0]} in all ({FEWER[10]} of the latter at 10 steps). Each Shapes noise has a caption of its own.
What that run is off itself is a quarter or less of what it moves by when its steps are halved. Single noises that end
in another picture rule the means. "Best stock": the least median of ComfyUI's nine schedulers with euler, dpmpp_2m,
res_multistep, ipndm, deis and uni_pc, all of one call a step. The optimizers' budgets are small, in
bench/schedules.py and bench/schedules_searches.py; seconds are of one thread, with others beside it; calls
are of one picture each, guidance and all, the most of the four solvers. Problems, numbers of steps
and solvers' cells that are missing were not measured (TimeTuner is for Euler alone). Frechet distance: of the judge's
features of {PICTURES} pictures, of other noises and captions, from those of true scenes, for the best stock one and the
best of each that is learned. "Whole table":
Optimize plan's free = all, at CFG 5 levels+coefficients+guidance. "Told levels too" and "guidance too" are what these
were before, with levels told to the network in place of a whole table, and coefficients of guidance alone. Fitted
coefficients are the same for every solver of one call a step, so that the search for the levels to start plans from
was made once for all four, and is counted in the seconds of each. Rows of Shapes are of several versions of learning:
at 5 steps "learned plan" and levels were learned with every iteration on all noises, which takes up
to twice the calls (not so the UNet's at CFG 5), and with lower_start off (not so the transformer's levels at CFG 5), as
were those at CFG 1 and 7 steps; at 5 and 7 steps levels had heats from five schedules where there are two now, and of
these only at CFG 5 and 7 steps Euler's were searched by trial before and behind them, with 2M's and UniPC's on the
transformer and DEIS' on the UNet. The line above is of the last run; rows of earlier ones stand beside its own."""


def tables(rows: list[Row], teachers: dict[str, float]) -> list[Table]:
    """One for each problem and number of steps."""
    found = []
    for name, steps in dict.fromkeys((row.problem, row.steps) for row in rows):
        best = best_stock(rows, name, steps)
        stock = f"best stock {best.score.median:.3g} ({best.solver}, {best.schedule}); " if best else ""
        table = Table("schedule", *SOLVERS, "seconds", "calls", title=f"{PROBLEMS[name]}, {steps} steps; {stock}the "
                      f"teacher moves by {teachers[name]:.2g} when halved")
        for cells in cells_of(rows, name, steps):
            table.add_row(*cells)
        found.append(table)
    return found


def frechet_lines(rows: list[Row], name: str, steps: int) -> list[str]:
    found = [row for row in rows if (row.problem, row.steps) == (name, steps) and row.frechet is not None]
    return [f"Frechet distance: {'; '.join(f'{row.solver}, {row.schedule} {row.frechet:.4g}' for row in found)}."
            ] if found else []


def cells_of(rows: list[Row], name: str, steps: int) -> list[list[str]]:
    """A schedule in each line: median / mean by solver, the median's share of the best stock one where it was found."""
    best = best_stock(rows, name, steps)
    here = {(row.schedule, row.solver): row for row in rows if (row.problem, row.steps) == (name, steps)}
    lines = []
    for schedule in dict.fromkeys(schedule for schedule, solver in here if solver in SOLVERS):
        cells = [here.get((schedule, solver)) for solver in SOLVERS]
        seconds, calls = (max(getattr(row, what) for row in cells if row) for what in ("seconds", "calls"))
        lines.append([schedule, *(_cell(row, best) for row in cells), f"{seconds:.1f}" if seconds else "",
                      f"{calls:.0f}" if calls else ""])
    return lines


def _cell(row: Row | None, best: Row | None) -> str:
    if row is None:
        return ""
    plain = best is None or row.kind in ("stock", "table")
    share = "" if plain else f" ({row.score.median / best.score.median:.2f}x)"
    return f"{row.score.median:.3g} / {row.score.mean:.3g}{share}"


def with_kept(rows: list[Row], teachers: dict[str, float]) -> tuple[list[Row], dict[str, float]]:
    """These beside what docs/schedules.json has of others, in the page's order."""
    kept = json.loads(DATA.read_text(encoding="utf-8")) if DATA.is_file() else {"teachers": {}, "rows": []}
    old = [Row(*fields[:5], Score(*fields[5:7]), fields[7], None, *fields[8:]) for fields in kept["rows"]]
    whole = {(row.problem, row.steps) for row in rows if row.schedule == [*LEARNED][-1]}
    found = {(row.problem, row.steps, row.solver, row.schedule): row for row in [*old, *rows]
             if row.schedule not in FORMER or (row.problem, row.steps) not in whole}
    places = [[*names] for names in (PROBLEMS, [*SOLVERS, *STOCK], [*SCHEDULERS, *TABLES, *SHARED, *LEARNED, *FORMER,
                                                                   *BY_SOLVER, *EULER_ONLY])]

    def place(row: Row) -> tuple:
        problem, solver, schedule = (names.index(name) for names, name in zip(
            places, (row.problem, row.solver, row.schedule)))
        return problem, row.steps, schedule, solver

    return sorted(found.values(), key=place), {**kept["teachers"], **teachers}


def _rounded(number: float) -> float:
    """As it is kept, so that a page made again says the same."""
    return float(f"{number:.4g}")


def write(rows: list[Row], teachers: dict[str, float]) -> Path:
    """docs/schedules.md, its plot, and docs/schedules.json for with_kept."""
    rows = [row._replace(score=Score(*map(_rounded, row.score)), seconds=_rounded(row.seconds)) for row in rows]
    lines = ",\n".join(json.dumps([*row[:5], *row.score, row.seconds, row.frechet, int(row.calls)]) for row in rows)
    DATA.write_text(f'{{"teachers": {json.dumps(teachers)}, "rows": [\n{lines}\n]}}\n', encoding="utf-8")
    lines = ["# Schedules and learned steps, measured", "", f"{made_with('schedules --write')}.", "", METHOD, "",
             "![Best stock, learned levels and learned plans](schedules.png)", ""]
    for table, (name, steps) in zip(tables(rows, teachers), dict.fromkeys((row.problem, row.steps) for row in rows)):
        lines += [f"## {table.title}", "", "| schedule | " + " | ".join(SOLVERS) + " | seconds | calls |",
                  "|---" * (len(SOLVERS) + 3) + "|"]
        lines += ["| " + " | ".join(cells) + " |" for cells in cells_of(rows, name, steps)]
        lines += ["", *frechet_lines(rows, name, steps), ""]
    PAGE.write_text("\n".join(lines), encoding="utf-8")
    from PIL import Image

    panels = [draw_lines(curves, title=PROBLEMS[name], x_label="steps", y_label="least median distance", log=True)
              for name, curves in plotted(rows).items()]
    panels += [torch.ones_like(panels[0])] * (len(panels) % 2)
    picture = torch.cat([torch.cat(panels[i:i + 2], 2) for i in range(0, len(panels), 2)], 1)
    Image.fromarray((picture[0] * 255.0).byte().numpy()).save(PAGE.with_suffix(".png"))
    return PAGE


def plotted(rows: list[Row]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """By problem and kind the least median of any solver, by steps."""
    kinds = {row.schedule: row.schedule if row.kind == "learned" else "best stock" for row in rows
             if row.kind == "stock" or row.schedule in LEARNED}
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name, steps in dict.fromkeys((row.problem, row.steps) for row in rows):
        here = [row for row in rows if (row.problem, row.steps) == (name, steps)]
        for kind in dict.fromkeys(kinds.values()):
            medians = [row.score.median for row in here if kinds.get(row.schedule) == kind]
            if medians:
                found.setdefault(name, {}).setdefault(kind, []).append((steps, min(medians)))
    return found
