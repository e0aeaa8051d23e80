"""BOSS: the levels of a grid whose straight steps add up to the least squared error."""
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ...measure.progress import Progress
from ...samplers.pndm import plan_pndm
from ...samplers.process import VE, Process
from .shortest import require_steps
from .straight import chosen, straight_costs


@torch.no_grad()
def search_boss(model: Callable, x: Tensor, sigmas: list[float], *, steps: int, process: Process = VE, batch: int = 16,
                state: dict[str, Tensor] | None = None) -> Iterator[Progress]:
    """steps + 1 levels of `sigmas`, both its ends among them, with the least sum of squared errors of Euler's steps.

    Each step is taken from the state of Euler's run over the whole grid, so that what builds up along a sparse run does
    not count. x (B, ...) at sigmas[0]; the cost is the mean over B, 100 in the paper, of the sum over the elements.
    model(x, sigma: float) -> denoised. sigmas: the grid, strictly decreasing, the last may be 0. batch: samples at
    once. The last state has "sigmas" (steps + 1,) float64, "indices" into the grid, "costs" (K + 1, K + 1), "cost" and
    "uniform_cost", the sum for evenly spaced indices. Cost: straight_cost(B, K, batch) model calls.
    Source: Nguyen et al. 2023, arXiv 2312.16414, section 3.2 and algorithm 1, in x and sigma on VE and flow models.
    """
    require_steps(steps, len(sigmas) - 1)
    plan = plan_pndm(sigmas, max_order=1, process=process)  # Euler
    for progress in straight_costs(model, x, plan, metric="squared", batch=batch, state=state):
        yield progress
    found = progress.state
    yield progress._replace(state={**found, **chosen(found["costs"], sigmas, steps)})
