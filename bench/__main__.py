"""python -m odeon.bench WHAT: measures the numbers that help pages, model cards and README print."""
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ..models.weights import NETWORKS
from .shapes import COUNTS, measure_cost, measure_model, write_card
from .solvers_problems import PROBLEMS

OfShapes = Annotated[list[str] | None, typer.Option(help="Only this one of shapes-unet and shapes-dit.")]
KeptIn = Annotated[Path | None, typer.Option(help="Keeps every row here, to go on after a stop.")]
Kept = Annotated[bool, typer.Option(help="Shows what is in the folder, and measures nothing.")]
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.callback()
def main() -> None:
    """Measurements, each by its name."""


@app.command()
def shapes(
    model: Annotated[str, typer.Argument(help=f"One of {', '.join(NETWORKS)}.")],
    cfg: Annotated[tuple[float, float, float], typer.Option(
        help="Guidance scales to compare at 50 steps; the first one is used for the steps.")] = (3.0, 1.0, 5.0),
    count: Annotated[int, typer.Option(help="Held-out captions of each number of things.", min=2)] = 96,
    write: Annotated[bool, typer.Option(help="Put the figures into the model's card.")] = False,
) -> None:
    """What a Shapes model draws: agreement by number of things and CFG, all figures by Euler steps, time and memory."""
    figures = measure_model(model, scales=cfg, count=count)
    table = Table(title=f"{model}: right objects at {figures['steps_of_cfg']} Euler steps, held-out captions, percent")
    for name in ("CFG", *(f"{n} thing{'s' * (n > 1)}" for n in COUNTS)):
        table.add_column(name)
    for scale, row in figures["by_cfg"].items():
        table.add_row(scale, *(f"{100.0 * row[f'things_{n}']['object']:.1f}" for n in COUNTS))
    by_steps = figures["by_steps"]
    steps = Table("figure", *by_steps, title=f"by Euler steps, CFG {cfg[0]:g}, one to three things")
    for key in next(iter(by_steps.values())):
        steps.add_row(key, *(f"{by_steps[count][key]:.3f}" for count in by_steps))
    figures["cost"] = measure_cost(model)
    shown = Console()
    shown.print(table, steps, figures["cost"])
    if write:
        write_card(model, figures)


@app.command()
def solvers(
    problem: Annotated[list[str] | None, typer.Option(help=f"Only this one of {', '.join(PROBLEMS)}.")] = None,
    count: Annotated[int, typer.Option(help="Pictures of a Shapes model, held-out captions.", min=1)] = 5,
    write: Annotated[bool, typer.Option(help="Put the tables into docs/solvers.md of the checkout.")] = False,
) -> None:
    """Error to the converged solution by model calls: ours, ComfyUI's own and diffusers'. Needs a checkout."""
    from . import solvers_page
    from .solvers import measure

    names = problem or list(PROBLEMS)
    if not set(names) <= set(PROBLEMS):
        raise typer.BadParameter(f"problem must be one of {', '.join(PROBLEMS)}, got {', '.join(names)}")
    if write and names != list(PROBLEMS):
        raise typer.BadParameter("the page has all problems; leave --problem out")
    found, setting = measure(names, count=count)
    shown = Console(width=None if sys.stdout.isatty() else 160)
    shown.print(solvers_page.made_by(setting), *solvers_page.tables(found, setting), highlight=False)
    if write:
        shown.print(f"written to {solvers_page.write(found, setting)}", highlight=False)


@app.command()
def schedules(
    problem: Annotated[list[str] | None, typer.Option(help="Only this one; all without it.")] = None,
    steps: Annotated[list[int] | None, typer.Option(help="Only this number of steps; 5, 7 and 10 without it.")] = None,
    solver: Annotated[list[str] | None, typer.Option(help="Learned for only this one; all four without it.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="A learned row alone, as 'learned plan'; every row "
                                                        "without it.")] = None,
    quick: Annotated[bool, typer.Option(help="Three learning iterations each, to see that it works.")] = False,
    workers: Annotated[int, typer.Option(help="Processes; 0 is one for each processor.")] = 0,
    write: Annotated[bool, typer.Option(help="Put tables and plot into docs/schedules.md of the checkout, beside what "
                                             "docs/schedules.json has of earlier runs.")] = False,
    folder: Annotated[Path | None, typer.Option(help="Keeps what was measured here, to go on after a stop.")] = None,
    kept: Kept = False,
) -> None:
    """Distance to an accurate run by schedule and solver, learned levels and plans beside ComfyUI's. Hours for all."""
    from . import schedules_page
    from .schedules import LEARNED, SOLVERS, STEPS, measure
    from .schedules_problems import PROBLEMS as NAMES

    names = problem or list(NAMES)
    if not set(names) <= set(NAMES):
        raise typer.BadParameter(f"problem must be one of {', '.join(NAMES)}, got {', '.join(names)}")
    if not set(only or []) <= set(LEARNED):
        raise typer.BadParameter(f"only must be one of {', '.join(LEARNED)}, got {', '.join(only)}")
    if not set(solver or []) <= set(SOLVERS):
        raise typer.BadParameter(f"solver must be one of {', '.join(SOLVERS)}, got {', '.join(solver)}")
    _check_kept(folder, kept=kept)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    rows, teachers = measure(names, steps=tuple(steps or STEPS), solvers=solver, only=only or (), quick=quick,
                             workers=workers, folder=folder, kept=kept)
    if write:
        rows, teachers = schedules_page.with_kept(rows, teachers)
    shown = Console(width=None if sys.stdout.isatty() else 160)
    shown.print(*schedules_page.tables(rows, teachers), highlight=False)
    if write:
        shown.print(f"written to {schedules_page.write(rows, teachers)}", highlight=False)


@app.command()
def learned(
    what: Annotated[list[str] | None, typer.Argument(help="ld3, time_tuner, shapes, memory; all four without one. "
                                              "shipped: makes the schedules of models/schedules again.")] = None,
    solver: Annotated[str, typer.Option(help="ld3: only solvers with this in their name.")] = "",
    hard: Annotated[bool, typer.Option(help="ld3: hold the noises, as the recorded runs with radius 0.")] = False,
    noises: Annotated[int, typer.Option(help="ld3: half to learn from, half to choose by; 200 as recorded.")] = 200,
) -> None:
    """What LD3 and TimeTuner learn beside recorded runs and on Shapes, minutes each; LD3's memory. Needs a checkout."""
    from . import learned as found

    shown = Console(width=None if sys.stdout.isatty() else 160)
    made = {"ld3": lambda: found.ld3_table(solver, hard=hard, noises=noises),
            "time_tuner": lambda: [found.tuner_table()], "shapes": found.shapes_reports,
            "memory": lambda: [found.memory_table()], "shipped": found.shipped}
    for name in what or list(made)[:4]:
        if name not in made:
            raise typer.BadParameter(f"WHAT must be one of {', '.join(made)}, got {name}")
        for table in made[name]():
            shown.print(table, highlight=False)


@app.command("drag")
def drag_command(
    model: Annotated[str, typer.Option(help="shapes-unet or shapes-dit.")] = "shapes-unet",
    count: Annotated[int, typer.Option(help="Scenes of one thing, each dragged 32 px.", min=1)] = 16,
) -> None:
    """Where Drag takes a thing, what is left of it, and what it does to the ground."""
    from . import drag
    from .editing import MODELS

    if model not in MODELS:
        raise typer.BadParameter(f"model must be one of {', '.join(MODELS)}, got {model}")
    shown = Console(width=None if sys.stdout.isatty() else 160)
    for table in drag.tables(model, count):
        shown.print(table, highlight=False)


def _check_kept(folder: Path | None, *, kept: bool) -> None:
    if kept and folder is None:
        raise typer.BadParameter("--kept shows what is in a folder; give it with --folder")


def _by_judge(found, page, model: list[str] | None, *, count: int, only: str, folder: Path | None,
              kept: bool, write: bool) -> None:
    """Measures and shows the rows of a bench module that goes by the judge."""
    import tempfile

    names = model or list(found.MODELS)
    if not set(names) <= set(found.MODELS):
        raise typer.BadParameter(f"model must be one of {', '.join(found.MODELS)}, got {', '.join(names)}")
    if write and only:
        raise typer.BadParameter("the page has all rows of a model; leave --only out")
    _check_kept(folder, kept=kept)
    rows = found.measure(names, count=count, folder=folder or Path(tempfile.mkdtemp()), only=only, kept=kept)
    shown = Console(width=None if sys.stdout.isatty() else 160)
    shown.print(*page.tables(rows), *page.sentences(rows), highlight=False)
    if write:
        shown.print(f"written to {page.write(rows, count)}", highlight=False)


@app.command("guidance")
def guidance_command(
    model: OfShapes = None,
    count: Annotated[int, typer.Option(help="Pictures a row, held-out captions.", min=32)] = 512,
    only: Annotated[str, typer.Option(help="Only groups with this in their title, beside plain CFG.")] = "",
    folder: KeptIn = None,
    kept: Kept = False,
    write: Annotated[bool, typer.Option(help="Put the tables into docs/guidance.md of the checkout.")] = False,
) -> None:
    """What guidance nodes do to the Shapes models' pictures, by the judge. Hours on a CPU for 512 pictures."""
    from . import guidance, guidance_page

    _by_judge(guidance, guidance_page, model, count=count, only=only, folder=folder, kept=kept, write=write)


@app.command("editing")
def editing_command(
    model: OfShapes = None,
    count: Annotated[int, typer.Option(help="Edits a row, of held-out scenes.", min=3)] = 256,
    only: Annotated[str, typer.Option(help="Only rows with this in their group or name.")] = "",
    folder: KeptIn = None,
    kept: Kept = False,
    write: Annotated[bool, typer.Option(help="Put the tables into docs/editing.md of the checkout.")] = False,
) -> None:
    """Edits of one colour, shape or place by every editor that takes words, by the judge. Hours on a CPU for 256."""
    from . import editing, editing_page

    _by_judge(editing, editing_page, model, count=count, only=only, folder=folder, kept=kept, write=write)


@app.command("inverse")
def inverse_command(
    model: OfShapes = None,
    count: Annotated[int, typer.Option(help="Pictures a row, held-out scenes.", min=1)] = 32,
    only: Annotated[str, typer.Option(help="Only rows with this in their task or name.")] = "",
    folder: KeptIn = None,
    kept: Kept = False,
    write: Annotated[bool, typer.Option(help="Put the tables into docs/inverse.md of the checkout.")] = False,
) -> None:
    """Damaged pictures restored by DPS, PSLD and STSL, beside img2img. Hours on a CPU for 32 pictures."""
    from . import inverse, inverse_page

    _by_judge(inverse, inverse_page, model, count=count, only=only, folder=folder, kept=kept, write=write)


@app.command()
def locales(
    write: Annotated[bool, typer.Option(help="Put the files into locales/ of the checkout.")] = False,
) -> None:
    """The nodes' words as the page reads them, English and Chinese; lists texts that locales/zh.json lacks."""
    from .. import NODE_CLASS_MAPPINGS
    from .locales import missing, pages

    for path, text in pages(NODE_CLASS_MAPPINGS).items():
        if write:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    lacking = missing(NODE_CLASS_MAPPINGS)
    Console().print(*lacking, f"{len(lacking)} texts without Chinese", sep="\n", markup=False, highlight=False)


@app.command("gallery")
def gallery_command(
    only: Annotated[list[str] | None, typer.Option(help="Only this workflow, by its name; all without it.")] = None,
    pages: Annotated[bool, typer.Option(help="Run none: make the pages of the thumbnails that are there.")] = False,
    write: Annotated[bool, typer.Option(help="Put thumbnails, pages and curves into the checkout.")] = False,
) -> None:
    """Thumbnails of workflows, made by running them; from these help pages, README and docs/gallery.md."""
    from . import gallery

    names = [] if pages else only or gallery.names()
    if not set(names) <= set(gallery.names()):
        raise typer.BadParameter(f"there is no workflow of that name; there are {', '.join(gallery.names())}")
    shown = Console()
    for name in names:
        made = gallery.thumbnail(name)
        shown.print(f"{name}: {len(made) / 1024:.1f} KB", highlight=False)
        if write:
            (gallery.WORKFLOWS / f"{name}.jpg").write_bytes(made)
    if write:
        shown.print(*(f"changed {path}" for path in gallery.refresh()), sep="\n", highlight=False)
    sizes = gallery.sizes()
    shown.print(f"{len(sizes)} pictures, {sum(sizes.values()) / 1024:.0f} KB in all", highlight=False)


if __name__ == "__main__":
    app()
