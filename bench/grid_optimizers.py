"""What BOSS, GITS and OSS gain over ComfyUI's schedulers with Euler: `python -m odeon.bench.grid_optimizers NAME`."""
from collections.abc import Iterator
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from ..samplers.pndm import plan_pndm
from ..schedules.classic import classic_sigmas
from ..schedules.optimize.boss import search_boss
from ..schedules.optimize.gits import search_gits
from ..schedules.optimize.oss import search_oss
from .solvers_fitted import other_start
from .solvers_problems import PROBLEMS, Problem, problem, rms, solve

SCHEDULERS = ("karras", "normal", "simple")
STEPS = (5, 7)
SEARCHES = {
    "BOSS": (search_boss, {}), "GITS, coeff 1.15": (search_gits, {"coeff": 1.15}),
    "GITS, coeff 1.2": (search_gits, {"coeff": 1.2}), "GITS, afs": (search_gits, {"afs": True}),
    "OSS": (search_oss, {}), "OSS from the first level": (search_oss, {"start": "first"})}


def levels_of(on: Problem, few: Problem, grid: list[float], steps: int) -> Iterator[tuple[str, list[float]]]:
    """Levels by name: ComfyUI's, and those found in the grid, on noises that are not judged on; by OSS on few."""
    for name in SCHEDULERS:
        yield name, classic_sigmas(name, on.levels, steps).tolist()
    for name, (search, options) in SEARCHES.items():
        learned = few if search is search_oss else on
        with torch.inference_mode():
            *_, last = search(learned.denoise, other_start(learned), grid, steps=steps, process=on.process, **options)
        yield name, last.state["sigmas"].tolist()[-1 - steps:]  # without the step that afs spares


def main(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(PROBLEMS)}.")],
    scheduler: Annotated[str, typer.Option(help="Of the grid to choose from.")] = "karras",
    intervals: Annotated[int, typer.Option(help="Steps of that grid.", min=8)] = 40,
    count: Annotated[int, typer.Option(help="Pictures of a Shapes model to learn on, and to judge on.", min=4)] = 12,
    few: Annotated[int, typer.Option(help="Pictures that OSS learns on.", min=2)] = 4,
) -> None:
    """Root mean square distance to the converged end, of Euler on levels from ComfyUI and on levels found."""
    on, few_on = problem(name, count), problem(name, few)
    target, grid = on.reference()[0], classic_sigmas(scheduler, on.levels, intervals).tolist()
    shown = Console()
    for steps in STEPS:
        table = Table("levels", "median", "mean", "", title=f"{name}, {steps} steps, grid {scheduler} {intervals}")
        for row, levels in levels_of(on, few_on, grid, steps):
            plan, top = plan_pndm(levels, max_order=1, process=on.process), levels[0] / on.sigmas(1)[0]
            errors = rms(solve(on.denoise, on.start * top, plan) - target)
            table.add_row(row, f"{errors.quantile(0.5):.4f}", f"{errors.mean():.4f}",
                          " ".join(f"{level:.3g}" for level in levels))
        shown.print(table)


if __name__ == "__main__":
    typer.run(main)
