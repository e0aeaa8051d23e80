"""Dragging: a noisy latent moved by gradients until what was at some points of the picture is at others."""
import math
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..measure.progress import Progress

_PAIR = re.compile(r"\s*(-?[\d.]+)\s*,\s*(-?[\d.]+)\s*->\s*(-?[\d.]+)\s*,\s*(-?[\d.]+)\s*")
BETAS, EPS = (0.9, 0.999), 1e-8  # Adam's


class Point(NamedTuple):
    """A place to drag, in places of the feature map (x, y): from handle to target, with the weights of the patch that
    moves, (2 r_m + 1)^2, and of the window it is sought in, (2 r_p + 1)^2; near: how near is there. It is known again
    by the (2 known_by + 1)^2 features round it, 0 by its own."""
    handle: tuple[int, int]
    target: tuple[float, float]
    moves: Tensor
    sought: Tensor
    near: float = 2.0
    known_by: int = 0


class Dragging(NamedTuple):
    """Numbers of a drag: at most `iterations` steps of Adam with the rate lr, what stays weighing lam; patient: one
    step more, up to `most`, for each in which a point moves less than an even pace over all would have it."""
    iterations: int = 80
    lr: float = 0.01
    lam: float = 0.1
    patient: bool = False
    most: int = 500


def pairs_of_text(text: str, size: tuple[int, int]) -> list[tuple[float, float, float, float]]:
    """(x, y, x to, y to) in px of each line 'x,y -> x,y', for a picture of (width, height); empty lines are skipped.

    ValueError for lines that are none and points outside the picture.
    """
    pairs = []
    for line in filter(str.strip, re.split(r"[\n;]", text)):
        match = _PAIR.fullmatch(line)
        try:
            pair = tuple(map(float, match.groups())) if match else ()
        except ValueError:
            pair = ()
        if not pair:
            raise ValueError(f"points must be lines such as '40,60 -> 80,60', got {line.strip()!r}")
        for x, y in (pair[:2], pair[2:]):
            if not (0.0 <= x <= size[0] - 1 and 0.0 <= y <= size[1] - 1):
                raise ValueError(f"the point {x:g},{y:g} lies outside the picture of {size[0]} x {size[1]} px; points "
                                 f"go from 0,0 to {size[0] - 1},{size[1] - 1}")
        pairs.append(pair)
    return pairs


def plain_point(handle: tuple[int, int], target: tuple[float, float], *, r_m: int = 1, r_p: int = 3) -> Point:
    """A point whose square patch moves and is sought in a square window: DragDiffusion's. Above the published r_m of 1,
    where the patch may be all of a thing, it is known again by the patch, not by its middle alone, and must come to 1
    place of its target."""
    squares = (torch.ones(2 * r + 1, 2 * r + 1, dtype=torch.bool) for r in (r_m, r_p))
    return Point(handle, target, *squares) if r_m == 1 else Point(handle, target, *squares, near=1.0, known_by=r_m)


def drag(see: Callable, latent: Tensor, points: list[Point], options: Dragging, *, size: tuple[int, int],
         keep: Tensor | None = None, state: dict | None = None) -> Iterator[Progress]:
    """Moves a latent (1, C, h, w), of unit variance; the last state's "latent" is the one whose handles came nearest.

    see(latent) -> (features (1, C', h', w'), the state one step on, the prediction), with graphs back to the latent;
    features are read at size (rows, columns), in which the points are. keep: 1 where that state shall stay as it was.
    states hold "handles" (n, 2) too, those of "latent".
    Source: Shi et al. 2023, arXiv 2306.14435, section 3.3; Chen et al. 2024, arXiv 2410.12696 (patience, windows).
    """
    kept = state or _begun(latent, points)
    now, limit = kept["now"].to(latent), max(options.iterations, int(kept["limit"]))
    first = None
    if state:  # what the drag began from
        first = _seen(see, kept["start"].to(latent), size)
    while True:
        with torch.enable_grad():
            at = now.detach().clone().requires_grad_()
            features, step, denoised = see(at)
            features = functional.interpolate(features.float(), size=size, mode="bilinear", align_corners=False)
        first = first or (features.detach(), step.detach())
        kept = _tracked(kept, now, features.detach(), first[0], points)
        paces = torch.tensor([math.dist(point.handle, point.target) / limit for point in points])
        behind = options.patient and bool((kept["moved"] < paces).any())
        limit = min(limit + behind, max(options.most, options.iterations))
        done = int(kept["done"])
        yield Progress(done, limit, {**kept, "limit": torch.tensor(limit)}, preview=denoised.detach())
        left = [i for i, point in enumerate(points) if _apart(point, kept["at"][i]) >= point.near]
        if not left or done >= limit:
            return
        with torch.enable_grad():
            loss = sum(_pull(features, points[i], kept["at"][i]) for i in left)
            if keep is not None:
                loss = loss + options.lam * ((step - first[1]) * keep).abs().sum()
            slope, = torch.autograd.grad(loss, at)
        del features, step, loss
        now, kept = _adam(now, slope, kept, options.lr)


def _begun(latent: Tensor, points: list[Point]) -> dict[str, Tensor]:
    handles = torch.tensor([point.handle for point in points]).reshape(-1, 2)
    zero = torch.zeros_like(latent)
    return {"start": latent, "now": latent, "latent": latent, "handles": handles, "at": handles, "mean": zero,
            "square": zero, "done": torch.tensor(0), "limit": torch.tensor(0), "nearest": torch.tensor(math.inf),
            "moved": torch.full((len(points),), math.inf)}


def _seen(see: Callable, latent: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    features, step, _ = see(latent)
    return functional.interpolate(features.float(), size=size, mode="bilinear",
                                  align_corners=False).detach(), step.detach()


def _tracked(kept: dict, now: Tensor, features: Tensor, first: Tensor, points: list[Point]) -> dict:
    """The state with the handles where they are now; the best latent so far is kept."""
    at = kept["at"]
    if int(kept["done"]):
        at = torch.stack([_found(features, first, point, at[i]) for i, point in enumerate(points)])
    moved = (at - kept["at"]).float().norm(dim=1) if int(kept["done"]) else kept["moved"]
    apart = sum((_apart(point, place) for point, place in zip(points, at)), 0.0)
    nearer = {"latent": now, "handles": at, "nearest": torch.tensor(apart)} if apart <= float(kept["nearest"]) else {}
    return {**kept, "now": now, "at": at, "moved": moved, **nearer}


def _found(features: Tensor, first: Tensor, point: Point, place: Tensor) -> Tensor:
    """Where in the window round a place the features are most like the handle's own at the start."""
    x, y = place.tolist()
    radius, (height, width) = len(point.sought) // 2, features.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(y - radius, y + radius + 1),
                                   torch.arange(x - radius, x + radius + 1), indexing="ij")
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width) & point.sought
    inside[radius, radius] = True
    rows, columns = rows[inside], columns[inside]
    x, y = (torch.tensor([at]) for at in point.handle)
    wanted = _around(first, x, y, point.known_by)
    best = int((_around(features, columns, rows, point.known_by) - wanted).abs().sum((0, 2, 3)).argmin())
    return torch.stack([columns[best], rows[best]])


def _around(features: Tensor, x: Tensor, y: Tensor, radius: int) -> Tensor:
    """The features (C, n, 2 radius + 1, 2 radius + 1) round n places, those at the edge repeated beyond it."""
    height, width = features.shape[-2:]
    steps = torch.arange(-radius, radius + 1)
    rows, columns = (y[:, None, None] + steps[:, None]), (x[:, None, None] + steps)
    return features[0][:, rows.clamp(0, height - 1), columns.clamp(0, width - 1)]


def _apart(point: Point, place: Tensor) -> float:
    return math.dist(point.target, place.tolist())


def _pull(features: Tensor, point: Point, place: Tensor) -> Tensor:
    """How unlike the patch at a place is from the one a step further to the target, which is to become it."""
    x, y = place.tolist()
    length = _apart(point, place)
    radius, (height, width) = len(point.moves) // 2, features.shape[-2:]
    steps = torch.arange(-radius, radius + 1, dtype=torch.float32, device=features.device)
    columns, rows = (x + steps).clamp(0, width - 1), (y + steps).clamp(0, height - 1)
    here = features.detach()[0][:, rows.long()][:, :, columns.long()]
    ahead = _between(features, columns + (point.target[0] - x) / length, rows + (point.target[1] - y) / length)
    weights = point.moves.to(here)
    return weights.numel() * ((here - ahead).abs() * weights).mean()


def _between(features: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """Features (C, rows, columns) read between places, by straight lines."""
    height, width = features.shape[-2:]
    y, x = torch.meshgrid(2.0 * rows / (height - 1) - 1.0, 2.0 * columns / (width - 1) - 1.0, indexing="ij")
    return functional.grid_sample(features, torch.stack([x, y], -1)[None], align_corners=True,
                                  padding_mode="border")[0]


def _adam(now: Tensor, slope: Tensor, kept: dict, lr: float) -> tuple[Tensor, dict]:
    """The latent after a step of Adam, and the state with its averages."""
    done = int(kept["done"]) + 1
    mean = BETAS[0] * kept["mean"].to(slope) + (1.0 - BETAS[0]) * slope
    square = BETAS[1] * kept["square"].to(slope) + (1.0 - BETAS[1]) * slope.square()
    step = (mean / (1.0 - BETAS[0] ** done)) / ((square / (1.0 - BETAS[1] ** done)).sqrt() + EPS)
    return now - lr * step, {**kept, "mean": mean, "square": square, "done": torch.tensor(done)}
