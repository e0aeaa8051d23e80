"""A plan's coefficients by least squares, row after row, against an accurate run through the same levels."""
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ...measure.dc_ratios import teacher_cost, teacher_states
from ...measure.progress import Progress
from ...samplers.process import VE, Process
from ...samplers.table import Table, table_of
from .teacher import Lesson

RIDGE = 1e-6  # of the mean square of a row's differences, so that nearly equal predictions share their weight


def fit_rows(lesson: Lesson, sigmas: list[float], items: list[int], *, fine_steps: int = 40, process: Process = VE,
             state: dict[str, Tensor] | None = None) -> Iterator[Progress]:
    """Zero-sum changes of every row of the plan's table on these levels, for the least distance of each model call's
    state, and of the end, from the accurate run's: state["change"] (M + 1, M). Needs no gradients.

    The distance is weighed by one over each noise's own, so that the few that end elsewhere do not rule. Rows are taken
    in turn, each on the states that the changed rows before it lead to. Inner calls, whose level is none of sigmas,
    stay as the plan has them. A Progress after each interval of the accurate run. Cost: fit_cost, on these items.
    Source: own; the least squares of one step are those of improved integration approximation, arXiv 2304.11328.
    """
    model, x, kept = lesson.model_of(items), lesson.x[items], dict(state or {})
    if "change" in kept:
        yield Progress(1, 1, kept)
        return
    above = [sigma for sigma in sigmas if sigma > 0.0]
    wanted = {above[0]: None}
    if len(above) > 1:
        for progress in teacher_states(model, x, sigmas, steps=max(fine_steps, len(above) - 1), process=process,
                                       solver="exponential_adams", lag=0, state=kept or None):
            yield progress
        wanted |= dict(zip(above[1:], progress.state["states"]))
    table = table_of(lesson.plan(sigmas))
    change = changes_of(model, x, table, wanted, lesson.targets[items])
    yield Progress(1, 1, {"change": change})


def fit_cost(sigmas: list[float], calls: int, fine_steps: int = 40) -> int:
    """Model calls of fit_rows, each on all of its items."""
    levels = sum(sigma > 0.0 for sigma in sigmas)
    return calls + (teacher_cost(sigmas, max(fine_steps, levels - 1)) if levels > 1 else 0)


@torch.no_grad()
def changes_of(model: Callable, x: Tensor, table: Table, wanted: dict[float, Tensor], ends: Tensor) -> Tensor:
    change, found = torch.zeros_like(table.d), []
    levels = table.levels.tolist()
    for row in range(len(table.x)):
        state = float(table.x[row]) * x
        for coef, denoised in zip(table.d[row].tolist(), found):
            state = state + coef * denoised
        goal = ends if row == len(levels) else wanted.get(levels[row])
        if goal is not None and len(found) > 1:
            weights = _least_squares([value - found[0] for value in found[1:]], goal.to(x) - state)
            weights = torch.cat([-weights.sum()[None], weights])
            change[row, :len(found)] = weights
            for weight, denoised in zip(weights.tolist(), found):
                state = state + weight * denoised
        if row < len(levels):
            found.append(model(state, levels[row]).to(x))
    return change


def _least_squares(basis: list[Tensor], missing: Tensor) -> Tensor:
    """Weights of basis nearest to missing, every item weighed by one over its own mean square, twice over."""
    columns = torch.stack([value.cpu().double().flatten(1) for value in basis], -1)
    goal = missing.cpu().double().flatten(1)
    left = goal
    for _ in range(3):
        share = 1.0 / (left.square().mean(1) + 1e-2 * left.square().mean() + 1e-12)
        gram = torch.einsum("bni,bnj,b->ij", columns, columns, share)
        gram = gram + (RIDGE * gram.diagonal().mean() + 1e-30) * torch.eye(len(gram), dtype=gram.dtype)
        weights = torch.linalg.solve(gram, torch.einsum("bni,bn,b->i", columns, goal, share))
        left = goal - columns @ weights
    return weights
