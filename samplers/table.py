"""A whole solver as one table of numbers, whatever plan it came from: for gradients, optimizers and files."""
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .linear import Step, Update, run


class Table(NamedTuple):
    """M model calls, each on a combination of the start and the predictions so far, and the end, one more combination.

    levels (M,): the sigma of each call. x (M + 1,): the share of the start state in the input of each call, and in the
    end. d (M + 1, P M): the coefficients of the P predictions that each call leaves, in call order, zero from the
    diagonal on: of D, and with P = 2 of what guidance made of it behind it, D - D_u (Step's `guided`). All float64.
    noise (M + 1, K): of the K draws of fresh noise, in their order.
    First law of an exact solver: x[m] alpha_start + the sum of D's d[m, j] = alpha of the level of call m.
    """
    levels: Tensor
    x: Tensor
    d: Tensor
    noise: Tensor

    @property
    def guided(self) -> bool:
        return self.d.shape[1] > len(self.levels)


def table_of(steps: list[Step]) -> Table:
    """The table of a plan, exact to rounding: the loop is run once on basis vectors. Plans that read what the model
    predicts without the prompt are a ValueError."""
    calls = sum(1 + len(step.stages) for step in steps)
    draws = sum(bool(update.noise_coef) for step in steps for update in step.updates)
    basis, levels, inputs = torch.eye(1 + calls + draws, dtype=torch.float64), [], []
    drawn = iter(basis[1 + calls:])

    def record(x: Tensor, sigma: float) -> Tensor:
        levels.append(float(sigma))
        inputs.append(x[0].clone())
        return basis[len(levels)][None]

    inputs.append(run(record, basis[:1], steps, noise_sampler=lambda sigma, sigma_next: next(drawn)[None])[0])
    rows = torch.stack(inputs)
    return Table(torch.tensor(levels, dtype=torch.float64), rows[:, 0], rows[:, 1:1 + calls], rows[:, 1 + calls:])


def run_table(model: Callable, x: Tensor, table: Table, noises: Sequence[Tensor] = (), *,
              found: list[Tensor] | None = None) -> Tensor:
    """The end of a run from x (B, ...), the same as run() of the plan up to rounding; gradients flow through model,
    x and every number of the table. model(x, sigma: 0-dim tensor) -> D; of a guided one model.apart(x, sigma) -> D,
    D - D_u. noises: the draws, each shaped as x. found: the predictions of the first calls, where they are known; those
    of the others are added to it."""
    if len(noises) != table.noise.shape[1]:
        raise ValueError(f"this table takes {table.noise.shape[1]} draws of noise, got {len(noises)}")
    found = [] if found is None else found
    for place in range(len(found) // (1 + table.guided), len(table.x)):
        state = table.x[place].to(x) * x
        for coef, value in [*zip(table.d[place], found), *zip(table.noise[place], noises)]:
            state = state + coef.to(x) * value
        if place < len(table.levels):
            found += model.apart(state, table.levels[place]) if table.guided else [model(state, table.levels[place])]
    return state


def steps_of_table(table: Table, sigma_end: float = 0.0) -> list[Step]:
    """A plan with the numbers of a table without noise: every call a step, its state carried on from the last one's."""
    levels = [*table.levels.tolist(), sigma_end]
    shares, rows, each = table.x.tolist(), table.d.tolist(), 1 + table.guided
    steps = []
    for m in range(len(levels) - 1):
        ratio = shares[m + 1] / shares[m]
        coefs = [rows[m + 1][j] - ratio * rows[m][j] for j in reversed(range(each * (m + 1)))]
        steps.append(Step(levels[m], levels[m + 1], Update(ratio, tuple(coefs)), guided=table.guided))
    return steps


def widened(table: Table, each: int) -> Table:
    """The same run, with room for `each` predictions of every call (see Table): coefficients of the others are 0."""
    d = torch.zeros(*table.d.shape, each, dtype=table.d.dtype)
    d[..., 0] = table.d
    return table._replace(d=d.flatten(1))


def smooth_table(plan: Callable[[list[float]], list[Step]], sigmas: Tensor, *, first: int = 0) -> Table:
    """The table of plan(sigmas), differentiable in sigmas (N + 1,) float64.

    Its slopes are differences of fourth order of the plan itself, right to about 1e-9 of the numbers: no plan has to
    know of gradients. Levels before `first` count as fixed, and so does a last level of 0. first = 1 where sigmas
    starts at a flow's 1, which plans treat as a point of its own.
    Source: own.
    """
    levels = sigmas.detach().tolist()
    table = table_of(plan(levels))
    flat = torch.cat([part.reshape(-1) for part in table])
    slopes = torch.zeros(len(flat), len(levels), dtype=torch.float64)
    for i in range(first, len(levels) - (levels[-1] == 0.0)):
        slopes[:, i] = _slope(plan, levels, i)
    parts = (flat + slopes @ (sigmas - sigmas.detach())).split([part.numel() for part in table])
    return Table(*(part.reshape(old.shape) for part, old in zip(parts, table)))


def _slope(plan: Callable, levels: list[float], i: int) -> Tensor:
    """d(numbers of the table)/d(levels[i])."""
    reach = 1e-3 * min(abs(levels[i] - levels[j]) for j in (i - 1, i + 1) if 0 <= j < len(levels))

    def at(places: int) -> Tensor:
        sigmas = [*levels[:i], levels[i] + places * reach, *levels[i + 1:]]
        return torch.cat([part.reshape(-1) for part in table_of(plan(sigmas))])

    return (8.0 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12.0 * reach)
