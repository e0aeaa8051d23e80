"""python -m odeon.bench WHAT: measures the numbers that help pages, model cards and README print."""
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ..models.weights import NETWORKS
from .shapes import COUNTS, STEPS, measure_cost, measure_model, write_card

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
    table = Table(title=f"{model}: right objects at 50 Euler steps, held-out captions, percent")
    for name in ("CFG", *(f"{n} thing{'s' * (n > 1)}" for n in COUNTS)):
        table.add_column(name)
    for scale, row in figures["by_cfg"].items():
        table.add_row(scale, *(f"{100.0 * row[f'things_{n}']['object']:.1f}" for n in COUNTS))
    steps = Table("figure", *map(str, STEPS), title=f"by Euler steps, CFG {cfg[0]:g}, one to three things")
    for key in figures["by_steps"][str(STEPS[0])]:
        steps.add_row(key, *(f"{figures['by_steps'][str(n)][key]:.3f}" for n in STEPS))
    figures["cost"] = measure_cost(model)
    shown = Console()
    shown.print(table, steps, figures["cost"])
    if write:
        write_card(model, figures)


if __name__ == "__main__":
    app()
