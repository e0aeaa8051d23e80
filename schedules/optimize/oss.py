"""OSS: the levels of a grid by which a few Euler steps, each from where those before led, end nearest to many."""
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from ...measure.progress import Progress
from ...samplers.process import VE, Process
from .shortest import require_steps, uniform_path

MERGES = ("median", "first")
STARTS = ("scaled", "first", "published")
AT_ONCE = 2 ** 22  # numbers of states that are held against the teacher's together


@torch.no_grad()
def search_oss(model: Callable, x: Tensor, sigmas: list[float], *, steps: int, process: Process = VE,
               start: str = "scaled", merge: str = "median", norm: float = 2.0, channels: int = 0, frames: int = 0,
               state: dict[str, Tensor] | None = None) -> Iterator[Progress]:
    """At most steps + 1 levels of `sigmas`, the last among them, for each item of x, and merged to one list for all.

    Layer k of a table holds, for every level, the state reached in k steps that is nearest to that of Euler's run over
    the whole grid; one more step from all of these makes the next layer, where it is better. So what builds up along
    a sparse run counts, but only one state a level lives on, and the end need not be the best there is.
    x (B, ...) at sigmas[0]; model(x, sigma: float) -> denoised. sigmas: the grid, strictly decreasing, the last may be
    0. start: the first level may be any, and x there is scaled by the ratio of the levels as samplers scale noise
    ('scaled'), or left as it is ('published', for flow models; a sampler must then leave it, too), or it is sigmas[0]
    ('first'). merge: the mean of the two middle ones of each index over the items ('median'), towards less noise, or
    the 'first' item's list; steps that coincide are left out. Nearness is the mean of |difference|^norm, over the first
    `channels` of axis 1 and over `frames` evenly spaced places of axis 2 of video latents; 0 is all.
    The last state has "sigmas" float64, "indices" into the grid, "paths" (B, steps + 1), "ends" (steps, B), the table's
    nearness at the last level after each layer, and "cost" and "uniform_cost", the mean over B of what runs along the
    merged list and along evenly spaced indices end with. Cost: oss_cost model calls, each of all B.
    Source: Pei et al. 2025, arXiv 2503.21774, section 3, and the authors' code.
    """
    _check(x, sigmas, steps, start=start, merge=merge, norm=norm, channels=channels, frames=frames)
    process.lams(sigmas)
    last, total = len(sigmas) - 1, oss_cost(len(sigmas) - 1, steps, start=start)
    if state and "sigmas" in state:
        yield Progress(total, total, state)
        return
    state = dict(state) if state else {"teacher": x[None].to("cpu", torch.promote_types(x.dtype, torch.float32))}
    for teacher, denoised in _teacher(model, x, sigmas, state["teacher"]):
        state["teacher"] = teacher
        yield Progress(len(teacher) - 1, total, state.copy(), denoised)
    missed = _missed(state["teacher"], norm, channels, frames)
    if "parents" not in state:
        state |= _empty_table(state["teacher"][0], sigmas, scaled=start == "scaled")
    for k in range(len(state["parents"]), steps):
        places = _places(k, last, start)
        before = last + sum(len(_places(layer, last, start)) for layer in range(k))
        for slopes, denoised in _slopes(model, x, sigmas, state=state, places=places):
            state["slopes"] = slopes
            yield Progress(before + len(slopes), total, state.copy(), denoised)
        state = _next_layer(state, sigmas, places, missed)
    if not torch.isfinite(state["ends"][-1]).all():
        raise ValueError("the model returned NaN or infinite values on the way; try a higher precision or a lower CFG")
    paths = _traced(state["parents"])
    indices = sorted(set(merged(paths, merge)))
    ends = [_end(model, x, [sigmas[i] for i in path], top=sigmas[0] if start == "scaled" else None)
            for path in (indices, uniform_path(last, steps))]
    cost, uniform_cost = (missed(end.cpu()[None], last).mean() for end in ends)
    yield Progress(total, total, {
        "indices": torch.tensor(indices), "sigmas": torch.tensor([sigmas[i] for i in indices], dtype=torch.float64),
        "paths": torch.tensor(paths), "ends": state["ends"], "cost": cost, "uniform_cost": uniform_cost})


def oss_cost(intervals: int, steps: int, *, start: str = "scaled") -> int:
    """Model calls of search_oss: the grid, then each layer a little less, and two runs to compare."""
    return intervals + sum(len(_places(k, intervals, start)) for k in range(steps)) + 2 * steps


def _check(x: Tensor, sigmas: list[float], steps: int, *, start: str, merge: str, norm: float, channels: int,
           frames: int) -> None:
    require_steps(steps, len(sigmas) - 1)
    if start not in STARTS:
        raise ValueError(f"start must be one of {', '.join(STARTS)}, got {start!r}")
    if merge not in MERGES:
        raise ValueError(f"merge must be one of {', '.join(MERGES)}, got {merge!r}")
    if norm <= 0.0:
        raise ValueError(f"norm must be above 0, got {norm:g}; 2 is usual")
    if not 0 <= channels <= x.shape[1]:
        raise ValueError(f"channels must lie between 0 (all) and this latent's {x.shape[1]}, got {channels}")
    if frames and x.ndim != 5:
        raise ValueError(f"frames is for video latents (B, C, F, H, W), got one of {x.ndim} axes; set it to 0")
    if not 0 <= frames <= (x.shape[2] if x.ndim == 5 else 0):
        raise ValueError(f"frames must lie between 0 (all) and this latent's {x.shape[2]}, got {frames}")


def _teacher(model: Callable, x: Tensor, sigmas: list[float], known: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The states (n + 1, B, ...) so far of Euler's run over the grid, on the CPU, after each model call."""
    states = torch.empty(len(sigmas), *known.shape[1:], dtype=known.dtype)
    states[:len(known)] = known
    for i in range(len(known) - 1, len(sigmas) - 1):
        slope, denoised = _slope(model, x, states[i], sigmas[i])
        states[i + 1] = states[i] + (sigmas[i + 1] - sigmas[i]) * slope
        yield states[:i + 2], denoised


def _slope(model: Callable, like: Tensor, state: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """((x - D) / sigma beside `state`, D as the model gave it)."""
    denoised = model(state.to(like), sigma)
    return (state - denoised.to(state)) / sigma, denoised


def _missed(teacher: Tensor, norm: float, channels: int, frames: int) -> Callable[[Tensor, int], Tensor]:
    """missed(reached (n, B, ...), first) -> (n, B) float64: how far from the teacher's states from level `first` on."""
    def seen(states: Tensor) -> Tensor:
        states = states[:, :, :channels or None]
        if frames:
            states = states[:, :, :, torch.linspace(0, states.shape[3] - 1, frames).long()]
        return states.flatten(2).double()

    goals = seen(teacher)
    return lambda reached, first: (seen(reached) - goals[first:first + len(reached)]).abs().pow(norm).mean(2)


def _places(k: int, last: int, start: str) -> list[int]:
    """Levels that layer k steps from: those before k don't change any more."""
    return [0] if k == 0 and start == "first" else list(range(k, last))


def _empty_table(x: Tensor, sigmas: list[float], *, scaled: bool) -> dict[str, Tensor]:
    """No step yet: a state for each level, and nothing near."""
    shape = (len(sigmas), len(x))
    states = torch.stack([x * (sigma / sigmas[0]) if scaled else x for sigma in sigmas])
    return {"states": states, "nearness": torch.full(shape, torch.inf, dtype=torch.float64),
            "parents": torch.zeros(0, *shape, dtype=torch.int64), "ends": torch.zeros(0, len(x), dtype=torch.float64)}


def _slopes(model: Callable, x: Tensor, sigmas: list[float], *, state: dict[str, Tensor], places: list[int]
            ) -> Iterator[tuple[Tensor, Tensor]]:
    """The slopes (n, B, ...) so far at the table's states, after each model call."""
    states, known = state["states"], state.get("slopes", ())
    slopes = torch.empty(len(places), *states.shape[1:], dtype=states.dtype)
    for n, slope in enumerate(known):
        slopes[n] = slope
    for n in range(len(known), len(places)):
        slopes[n], denoised = _slope(model, x, states[places[n]], sigmas[places[n]])
        yield slopes[:n + 1], denoised


def _next_layer(state: dict[str, Tensor], sigmas: list[float], places: list[int], missed) -> dict[str, Tensor]:
    """The table after one more step from each of places along state["slopes"]."""
    states, nearness, parents = state["states"].clone(), state["nearness"].clone(), state["parents"]
    parent = parents[-1].clone() if len(parents) else torch.zeros_like(nearness, dtype=torch.int64)
    levels, count = torch.tensor(sigmas, dtype=torch.float64), max(AT_ONCE // states[0].numel(), 1)
    for i, slope in zip(places, state["slopes"]):
        for first in range(i + 1, len(sigmas), count):
            at = slice(first, first + count)
            moves = (levels[at] - levels[i]).to(slope).reshape(-1, *[1] * slope.ndim)
            reached = state["states"][i] + moves * slope
            found = missed(reached, first)
            better = found < nearness[at]
            nearness[at][better], states[at][better] = found[better], reached[better]
            parent[at][better] = i
    return {"teacher": state["teacher"], "states": states, "nearness": nearness,
            "parents": torch.cat([parents, parent[None]]), "ends": torch.cat([state["ends"], nearness[-1:]])}


def _traced(parents: Tensor) -> list[list[int]]:
    """The indices that lead to the last level, for each item; 0 repeats where fewer steps were enough."""
    paths = []
    for item in range(parents.shape[2]):
        path = [parents.shape[1] - 1]
        for parent in parents.flip(0):
            path.append(parent[path[-1], item].item())
        paths.append(path[::-1])
    return paths


def merged(paths: list[list[int]], merge: str) -> list[int]:
    if merge == "first":
        return paths[0]
    middle = len(paths) // 2
    places = [sorted(place) for place in zip(*paths)]
    return [-(-(place[-1 - middle] + place[-middle]) // 2) for place in places]


def _end(model: Callable, x: Tensor, levels: list[float], *, top: float | None) -> Tensor:
    """Where Euler's run along these levels ends: from x, or from what x at level `top` is scaled to at the first."""
    x = x if top is None else x * (levels[0] / top)
    for sigma, sigma_next in pairwise(levels):
        x = x + (sigma_next - sigma) * (x - model(x, sigma).to(x)) / sigma
    return x
