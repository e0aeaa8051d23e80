"""How the benches that go by the judge show their rows: on the terminal, and as a page of docs/."""
from collections.abc import Iterable
from pathlib import Path

from rich.table import Table

from .solvers_page import made_with

Group = tuple[str, list[str], list[list[str]]]  # title, heads, cells


def tables_of(groups: Iterable[Group]) -> list[Table]:
    """For the terminal."""
    shown = []
    for title, heads, cells in groups:
        table = Table(*heads, title=title)
        for line in cells:
            table.add_row(*line)
        shown.append(table)
    return shown


def write_page(page: Path, title: str, groups: Iterable[Group], *, command: str, rows: str, method: str,
               sentences: list[str]) -> Path:
    """The page in Markdown; command: `python -m odeon.bench ...`, rows: how many pictures are behind a row."""
    lines = [f"# {title}, measured", "", f"{made_with(command)}; {rows}.", "", method, "",
             *(f"- {line}" for line in sentences), ""]
    for name, heads, cells in groups:
        lines += [f"## {name}", "", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
        lines += ["| " + " | ".join(line) + " |" for line in cells] + [""]
    page.parent.mkdir(exist_ok=True)
    page.write_text("\n".join(lines), encoding="utf-8")
    return page
