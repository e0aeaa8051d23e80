"""The cheapest way down a grid of levels in a given number of steps, by Bellman's recursion."""
from itertools import pairwise

import torch
from torch import Tensor


def shortest_path(costs: Tensor, steps: int, *, coeff: float = 1.0) -> list[int]:
    """Indices 0 = k_0 < ... < k_steps = K of the least costs[k_0, k_1] + coeff (costs[k_1, k_2] + coeff (...)).

    costs (K + 1, K + 1): of a step from level i to level j, read above the diagonal only; may be negative. coeff above
    1 weighs later steps more. Among equals the smallest index is taken, first things first.
    Source: Bellman 1957; as in arXiv 2312.16414, algorithm 1, and with coeff in arXiv 2405.11326, section 3.4.
    """
    last = len(costs) - 1
    require_steps(steps, last)
    if coeff <= 0.0:
        raise ValueError(f"coeff must be above 0, got {coeff:g}; 1 weighs all steps alike")
    below = torch.ones_like(costs, dtype=torch.bool).tril()
    if not torch.isfinite(costs[~below]).all():
        raise ValueError("the costs hold NaN or infinite values; the model returned some, try a higher precision or a "
                         "lower CFG")
    costs = costs.double().masked_fill(below, torch.inf)
    left, choices = costs[:, last], []  # what it costs from each level on
    for _ in range(steps - 1):
        left, choice = (costs + coeff * left).min(dim=1)  # the first of equals
        choices.append(choice.tolist())
    path = [0]
    for choice in reversed(choices):
        path.append(choice[path[-1]])
    return [*path, last]


def path_cost(costs: Tensor, path: list[int], *, coeff: float = 1.0) -> float:
    """What shortest_path makes least, of any path."""
    return sum(coeff ** k * costs[i, j].item() for k, (i, j) in enumerate(pairwise(path)))


def uniform_path(intervals: int, steps: int) -> list[int]:
    """Indices nearest to evenly spaced ones, what a choice is held against."""
    return [(2 * k * intervals + steps) // (2 * steps) for k in range(steps + 1)]


def require_steps(steps: int, intervals: int) -> None:
    """Raises ValueError where a grid of so many intervals can't be passed in so many steps."""
    if not 1 <= steps <= intervals:
        raise ValueError(f"steps must lie between 1 and the {intervals} steps of the grid, got {steps}; connect a "
                         "finer schedule, or ask for fewer steps")
