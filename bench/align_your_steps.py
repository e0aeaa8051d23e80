"""What the Align Your Steps optimizer gains with DPM-Solver++(2M): `python -m odeon.bench.align_your_steps NAME`."""
import itertools
import time
from collections.abc import Iterator
from typing import Annotated, NamedTuple

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ..samplers.dpm_solver_pp import plan_dpm_solver_pp
from ..samplers.process import VE
from ..schedules.align_your_steps import align_your_steps_sigmas
from ..schedules.classic import classic_sigmas
from ..schedules.optimize.align_your_steps import AlignYourSteps, align_your_steps
from ..schedules.optimize.klub import SOLVERS
from ..schedules.optimize.teacher import score_of
from .schedules_problems import Problem, problem, shapes_problem

NAMES = ("exact-ve", "exact-flow", "shapes-unet", "shapes-dit")
NAMED = ("karras", "normal", "simple")
CFG = 3.0


class Row(NamedTuple):
    name: str
    errors: Tensor
    levels: list[float]
    cost: str = ""


def rows_of(on: Problem, targets: Tensor, steps: int, asked: AlignYourSteps, kept: dict[str, Tensor]) -> Iterator[Row]:
    """ComfyUI's schedules and the published one, then what was found from two of them with either bound; the table of
    the bound is measured once and kept."""
    def plan(levels: list[float]) -> list:
        return plan_dpm_solver_pp(levels, process=on.process)

    given = {name: classic_sigmas(name, on.levels, steps).tolist() for name in NAMED}
    if on.process is VE:
        given["AYS SD1.5"] = align_your_steps_sigmas(steps).tolist()
    for name, levels in given.items():
        lesson = on.lesson(plan, targets)
        yield Row(name, lesson.errors(plan(levels), lesson.judging), levels)
    for start, solver in itertools.product(("simple", "karras"), SOLVERS):
        began, lesson = time.process_time(), on.lesson(plan, targets)
        *_, last = align_your_steps(lesson, given[start], asked._replace(solver=solver, steps=steps, steps_init=steps),
                                    process=on.process, state=kept, batch=32)
        kept.update({name: value for name, value in last.state.items() if name.startswith("spread.")})
        yield Row(f"found from {start}, {solver}", last.state["errors"], last.state["sigmas"].tolist(),
                  f"sweep {int(last.state['kept'])} of {len(last.state['klubs']) - 1}, bound "
                  f"{last.state['klubs'][0]:.4g} to {last.state['klubs'][int(last.state['kept'])]:.4g}, {last.done} "
                  f"calls, {time.process_time() - began:.0f} s")


@torch.inference_mode()
def main(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(NAMES)}.")],
    steps: Annotated[list[int] | None, typer.Option(help="Numbers of steps; 7 and 10 without.")] = None,
    count: Annotated[int, typer.Option(help="Pictures of a Shapes model; a third is held back to be judged on.")] = 24,
    paths: Annotated[int, typer.Option(help="mc_samples of the node.")] = 64,
    end: Annotated[str, typer.Option(help="As in the node.")] = "zero",
) -> None:
    """Root mean square distance to an accurate run on noises that nothing was chosen by."""
    shapes = name.startswith("shapes")
    on = shapes_problem(name, CFG, count, count // 3) if shapes else problem(name)
    targets, off = on.targets()
    asked, kept = AlignYourSteps(mc_samples=paths, refine=0, end=end), {}
    for number in steps or (7, 10):
        table = Table("levels", "median", "mean", "", "", title=f"{name}{f', CFG {CFG:g}' * shapes}, {number} steps, "
                      f"end {end}; the teacher is off by {off:.2g}")
        for row in rows_of(on, targets, number, asked, kept):
            score = score_of(row.errors)
            table.add_row(row.name, f"{score.median:.4f}", f"{score.mean:.4f}", row.cost,
                          " ".join(f"{level:.3g}" for level in row.levels))
        Console(width=200).print(table)


if __name__ == "__main__":
    typer.run(main)
