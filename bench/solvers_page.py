"""What `python -m odeon.bench solvers` shows on the terminal and writes to docs/solvers.md."""
import datetime
import os
import platform
import subprocess
from itertools import groupby
from pathlib import Path

import torch
from rich.table import Table

from .solvers import Figure, Found, Pair, Setting, worse
from .solvers_rows import ADAPTIVE, DIFFERENT, FITTED, LEFT_OUT, NFES, REASONS, ROWS, WORSE

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "solvers.md"
METHOD = """Error: the root mean square over a latent's numbers of (result - converged solution), the median over the
starts. The median, since a few starts lie on a border between two pictures, where the smallest error decides for one of
them: their mean says little of a solver. The converged solution is the probability-flow ODE by exponential Adams of
order 3 in {steps} steps, from the first level to the last above 0 and there the prediction (a flow goes on to sigma
0.001); halving its steps moves it by the figure in a table's head. The least error of each column is bold.

- NFE: calls of the model, guidance included. A solver that calls it several times a step takes as many steps as fit
  into the column's number; where it uses fewer calls, they stand in brackets.
- Ours stand to the left, namesakes below them. All are given the same starts and, unless a solver has levels of its own
  (fast), the same levels for the same number of steps, with 0 at the end.
- Ours run as their nodes do; a name says where a row differs from the node's defaults. "To the end": never on lower
  orders in the last steps. "Low below 15": on lower orders there for fewer than 15 steps, as diffusers has it; "before
  0": all of them above 0 (lower_order_end). "Clipped": lambda_mode log_snr_clipped. "To 0.001": SIGMAS that end there
  in place of 0. "Ends on the state": SIGMAS that end on the last level above 0, and so does the run.
- ComfyUI's samplers are its own functions, run under its own Python in float32, with these models in place of its own.
- diffusers' schedulers keep their own formulas; their levels are set to these. Those that can't end at sigma 0 end at
  the last level above it and return the prediction there. Flow levels of 1 become 0.9999 for those that need log-SNR.
- Order: the power of the step by which the error falls, on the exact mixture from sigma 1000 to 1 in 161 and 323 steps,
  float64. A row that ends on lower orders has the order of its end. FON takes slopes over a whole time step, which
  never converge."""


def rows_of(one: Found, setting: Setting) -> list[tuple[int, str, list[str]]]:
    """(depth, name, cells) of a problem's table; rows without figures are left out."""
    rows = []
    for row in (*ROWS, *FITTED):
        if one.ours[row.name]:
            rows.append((0, row.name, _cells(one.ours[row.name]) + _order(one, setting.orders, row.name)))
        for name in (*row.same, *row.beside):
            source, figures = one.theirs(name)
            if figures:
                rows.append((1, f"{source} {name}", _cells(figures) + _order(one, setting.comfyui_orders, name)))
    return rows


def _cells(figures: dict[int, Figure]) -> list[str]:
    return [shown(figures[nfe].error) + (f" ({figures[nfe].calls})" if figures[nfe].calls != nfe else "")
            for nfe in NFES]


def shown(error: float) -> str:
    return f"{error:#.3g}"


def _order(one: Found, orders: dict[str, float], name: str) -> list[str]:
    if one.problem.name != "exact-ve":
        return []
    return [f"{orders[name]:.1f}" if name in orders else ""]


def header(one: Found) -> list[str]:
    return ["solver", *map(str, NFES), *(["order"] if one.problem.name == "exact-ve" else [])]


def title(one: Found) -> str:
    on = one.problem
    return (f"{on.title}: levels '{on.scheduler}', {len(on.start)} starts, converged to "
            f"{one.reference_error:.1e} of rms {one.reference_rms:.2f}")


def adaptive_rows(found: list[Found]) -> list[tuple[int, str, list[str]]]:
    """Solvers that choose their steps: error and calls on each problem."""
    rows = []
    for row in ADAPTIVE:
        each = [(0, row.name, [one.ours[row.name] for one in found])]
        each += [(1, f"ComfyUI {name}", [one.theirs(name)[1] for one in found]) for name in row.same]
        rows += [(depth, name, [f"{shown(figure.error)} ({figure.calls})" if (figure := one.get(0)) else ""
                                for one in figures]) for depth, name, figures in each if any(figures)]
    return rows


def tables(found: list[Found], setting: Setting) -> list[Table]:
    """For the terminal."""
    made = [_rich(title(one), header(one), rows_of(one, setting)) for one in found]
    made.append(_rich("Solvers that choose their steps: error (NFE)", ["solver", *(one.problem.title for one in found)],
                      adaptive_rows(found)))
    bad = worse(found)
    made.append(_rich(f"Ours worse than a namesake by more than {WORSE:.0%}: {len(bad)} figures", PAIR_HEADER,
                      pair_rows(bad)))
    return made


def _rich(name: str, columns: list[str], rows: list[tuple[int, str, list[str]]]) -> Table:
    table = Table(title=name)
    for i, column in enumerate(columns):
        table.add_column(column, no_wrap=i == 0)
    for depth, first, cells in rows:
        table.add_row("  " * depth + first, *cells)
    return table


PAIR_HEADER = ["ours", "namesake", "model", "ours against it, by NFE", "why"]


def pair_rows(bad: list[Pair]) -> list[tuple[int, str, list[str]]]:
    """A row for each pair and problem, its NFEs together."""
    rows = []
    for (on, ours, theirs), group in groupby(bad, lambda pair: (pair.problem, pair.ours, pair.theirs)):
        why = [words for words in REASONS.get((ours, theirs.partition(" ")[2]), ())
               if on.process.name == "flow" or not words.startswith("flow")]
        rows.append((0, ours, [theirs, on.title, ", ".join(
            f"{pair.nfe}: {shown(pair.errors[0])} {shown(pair.errors[1])} ({pair.excess:+.0%})" for pair in group),
            "; ".join(why)]))
    return rows


def page(found: list[Found], setting: Setting) -> str:
    """docs/solvers.md."""
    steps = " or ".join(dict.fromkeys(str(one.problem.reference_steps) for one in found))
    parts = ["# Solvers: error by model calls", made_by(setting), METHOD.replace("{steps}", steps)]
    for one in found:
        rows = rows_of(one, setting)
        parts += [f"## {one.problem.title}", f"{title(one)}.", _markdown(header(one), _bold(rows))]
    parts += ["## Solvers that choose their steps", "Error and, in brackets, model calls.",
              _markdown(["solver", *(one.problem.title for one in found)], adaptive_rows(found))]
    parts += ["## Where ComfyUI's own differ", *differences(found, setting)]
    bad = worse(found)
    parts += [f"## Where ours is worse than a namesake by more than {WORSE:.0%}",
              _markdown(PAIR_HEADER, pair_rows(bad), align=":--") if bad else "Nowhere."]
    parts += ["## Without a row", "\n".join(f"- {node}: {why}." for node, why in LEFT_OUT.items())]
    return "\n\n".join(parts) + "\n"


def _bold(rows: list[tuple[int, str, list[str]]]) -> list[tuple[int, str, list[str]]]:
    """The same rows with the least error of each NFE in bold."""
    least = [min(float(cells[i].partition(" ")[0]) for _, _, cells in rows) for i in range(len(NFES))]
    return [(depth, name, [f"**{cell}**" if i < len(NFES) and float(cell.partition(" ")[0]) == least[i] else cell
                           for i, cell in enumerate(cells)]) for depth, name, cells in rows]


def made_by(setting: Setting) -> str:
    others = [f"{name} {version or 'not installed: its rows are left out'}"
              for name, version in (("ComfyUI", setting.comfyui), ("diffusers", setting.diffusers))]
    return f"{made_with('solvers --write')}, {', '.join(others)}."


def made_with(command: str) -> str:
    """The command, the commit and the machine of a page."""
    commit = _git("rev-parse", "--short", "HEAD") + (" with changes" if _git("status", "--porcelain", "*.py") else "")
    machine = f"{_processor()}, {os.cpu_count()} cores, {platform.system()}"
    return (f"Made by `python -m odeon.bench {command}` on {datetime.date.today().isoformat()}, commit {commit}; "
            f"{machine}; Python {platform.python_version()}, torch {torch.__version__}")


def _git(*command: str) -> str:
    return subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _processor() -> str:
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text(encoding="utf-8").splitlines() if listed.is_file() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def differences(found: list[Found], setting: Setting) -> list[str]:
    """A paragraph for each of ComfyUI's samplers that differs from its method, and its figures beside ours."""
    parts = []
    for name, ours, words in DIFFERENT:
        rows = []
        for one in found:
            for depth, label, figures in ((0, f"ComfyUI {name}", one.theirs(name)[1]), (1, ours, one.ours[ours])):
                if figures:
                    rows.append((depth, label, [one.problem.title, *_cells(figures)]))
            for (_, scheduler), both in ((key, both) for key, both in one.elsewhere.items() if key[0] == name):
                where = f"{one.problem.title}, levels '{scheduler}'"
                rows += [(depth, label, [where, *_cells(figures)])
                         for depth, label, figures in zip((0, 1), (f"ComfyUI {name}", ours), both)]
        orders = [f"{orders[key]:.1f}" for orders, key in ((setting.comfyui_orders, name), (setting.orders, ours))
                  if key in orders]
        measured = f" Order measured: {orders[0]}, ours {orders[1]}." if len(orders) == 2 else ""
        changed = " It changed the SIGMAS it was given in these runs." if name in setting.changes_sigmas else ""
        if rows:
            parts += [f"**{name}** {words}{measured}{changed}",
                      _markdown(["solver", "model", *map(str, NFES)], rows)]
    return parts or ["ComfyUI was not found: nothing measured."]


def _markdown(columns: list[str], rows: list[tuple[int, str, list[str]]], *, align: str = "--:") -> str:
    lines = [columns, [":--", *[align] * (len(columns) - 1)]]
    lines += [["&emsp;" * depth + name, *cells] for depth, name, cells in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(found: list[Found], setting: Setting) -> Path:
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(found, setting), encoding="utf-8")
    return PAGE
