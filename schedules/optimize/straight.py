"""What single straight steps miss of an accurate run: the costs that BOSS and GITS choose levels by."""
from collections import deque
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ...measure.progress import Progress
from ...samplers.linear import Step
from .shortest import path_cost, shortest_path, uniform_path
from .teacher import of_items

METRICS = ("dev", "l1", "l2", "squared")


@torch.no_grad()
def straight_costs(model: Callable, x: Tensor, plan: list[Step], *, metric: str, batch: int = 16,
                   state: dict[str, Tensor] | None = None) -> Iterator[Progress]:
    """The mean over x of what a straight step from each level of a plan to each later one misses of the plan's run.

    x (B, ...) at the first level. plan: K steps of one model call each, that share their history. A step from level i
    goes on along v = (x - D) / sigma of the run's own state there. state["costs"] (K + 1, K + 1) float64 is the result
    once state["samples"] is B, state["ends"] (B, ...) where the run leads. metric, of a step that reaches y and the
    run's state x_j at the same level: 'squared' |y - x_j|^2, 'l2' |y - x_j|, 'l1' the sum of |y - x_j|, 'dev' by how
    much farther y lies from the straight line between the run's two ends than x_j does, which may be negative.
    batch: samples at once. A Progress after each model call; its state, on the CPU, holds the run of one batch, and a
    run that is given it goes on bit for bit. Cost: straight_cost.
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    total, calls = straight_cost(len(x), len(plan), batch), 0
    levels = [plan[0].sigma, *(step.sigma_next for step in plan)]
    state = dict(state) if state else {
        "costs": torch.zeros(len(levels), len(levels), dtype=torch.float64),
        "samples": torch.zeros((), dtype=torch.int64), "ends": torch.zeros(0, *x.shape[1:], dtype=_kept(x))}
    for first in range(int(state["samples"]), len(x), batch):
        starts, calls = x[first:first + batch], first // batch * len(plan)
        for states, predictions in _run(of_items(model, slice(first, first + batch)), starts, plan, state):
            state |= {"states": states, "predictions": predictions}
            yield Progress(calls + len(predictions), total, state.copy(), predictions[-1])
        states, predictions = state.pop("states"), state.pop("predictions")
        state |= {"costs": state["costs"] + _costs(states, predictions, levels, metric) / len(x),
                  "samples": state["samples"] + len(starts), "ends": torch.cat([state["ends"], states[-1]])}
    yield Progress(total, total, state)


def straight_cost(samples: int, steps: int, batch: int = 16) -> int:
    """Model calls of straight_costs, each on up to `batch` samples."""
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    return steps * -(-samples // batch)


def chosen(costs: Tensor, levels: list[float], steps: int, *, coeff: float = 1.0) -> dict[str, Tensor]:
    """The cheapest levels, their indices and cost, and the cost of evenly spaced indices, as tensors of a state."""
    path = shortest_path(costs, steps, coeff=coeff)
    even = uniform_path(len(levels) - 1, steps)
    numbers = {"sigmas": [levels[k] for k in path], "cost": path_cost(costs, path, coeff=coeff),
               "uniform_cost": path_cost(costs, even, coeff=coeff)}
    return {"indices": torch.tensor(path), **{key: torch.tensor(value, dtype=torch.float64)
                                              for key, value in numbers.items()}}


def _kept(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _run(model: Callable, x: Tensor, plan: list[Step], state: dict[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """The states (n + 1, B, ...) and predictions (n, B, ...) so far of a run, on the CPU, after each model call.

    Those in `state` are not made again: the history is filled from them.
    """
    states = torch.empty(len(plan) + 1, *x.shape, dtype=_kept(x))
    predictions = torch.empty(len(plan), *x.shape, dtype=_kept(x))
    known = len(state.get("predictions", ()))
    states[0] = x
    if known:
        states[:known + 1], predictions[:known] = state["states"], state["predictions"]
    history = deque(maxlen=max(len(update.d_coefs) for step in plan for update in step.updates))
    for i, step in enumerate(plan):
        at = states[i].to(x)
        denoised = predictions[i].to(x) if i < known else model(at, step.sigma).to(x)
        kept = step.keep[0](at, (denoised,)) if step.keep else denoised
        history.appendleft(kept)
        if i < known:
            continue
        predictions[i] = denoised
        states[i + 1] = step.predict(at, (denoised, *history) if step.keep else history)
        yield states[:i + 2], predictions[:i + 1]


def _costs(states: Tensor, predictions: Tensor, levels: list[float], metric: str) -> Tensor:
    """The sum over a batch of what each step misses, (K + 1, K + 1) float64."""
    states, predictions = (values.flatten(2).double() for values in (states, predictions))
    costs, missed = torch.zeros(len(levels), len(levels), dtype=torch.float64), _missed(states, metric)
    for i, denoised in enumerate(predictions):
        slope = (states[i] - denoised) / levels[i]
        for j in range(i + 1, len(levels)):
            costs[i, j] = missed(states[i] + (levels[j] - levels[i]) * slope, j).sum()
    return costs


def _missed(states: Tensor, metric: str) -> Callable[[Tensor, int], Tensor]:
    """missed(reached (B, n), j) -> (B,): how far that is from the state of level j."""
    if metric == "squared":
        return lambda reached, j: (reached - states[j]).square().sum(1)
    if metric != "dev":
        return lambda reached, j: (reached - states[j]).norm(p=int(metric[1]), dim=1)
    end = states[-1]
    line = torch.nn.functional.normalize(end - states[0], dim=1, eps=0.0)

    def deviation(x: Tensor) -> Tensor:
        gap = end - x
        return (gap - (gap * line).sum(1, keepdim=True) * line).norm(dim=1)

    own = [deviation(state) for state in states]
    return lambda reached, j: deviation(reached) - own[j]
