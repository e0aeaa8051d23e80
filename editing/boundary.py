"""Boundary diffusion: what tells two kinds of pictures apart at one noise level, and pictures moved across it."""
import math
from typing import NamedTuple

import torch
from torch import Tensor

MODES = ("add_distance", "set_distance")
SPACES = ("both", "z", "h")
TOLERANCE, MOST_PAIRS = 1e-4, 100_000  # of support_vectors: a pair's gain in units of the margin; pairs moved at most


class Plane(NamedTuple):
    """A hyperplane between two sets of points: <point, normal> + bias is above 0 on the positive side.

    normal: (d,) of length 1. offsets: the mean of <point, normal> on the negative and on the positive side. accuracy:
    share of points on their own side, of points that a plane was not fitted to where there are at least 3 of each kind.
    """
    normal: Tensor
    bias: float
    offsets: tuple[float, float]
    accuracy: float

    @property
    def gap(self) -> float:
        """How far the two sides' means lie apart along the normal."""
        return self.offsets[1] - self.offsets[0]


class Boundary(NamedTuple):
    """The planes found in noisy latents z, scaled to unit variance, and in the network's hidden state h.

    sigmas: the rising levels that examples were inverted by, to that of the planes; shape: of one latent; about: what
    it was found on.
    """
    z: Plane
    h: Plane
    sigmas: tuple[float, ...]
    shape: tuple[int, ...]
    about: dict


def fitted_plane(positive: Tensor, negative: Tensor, *, c: float = 1.0) -> Plane:
    """The plane of a linear support vector machine between two sets of points (n, ...), (m, ...).

    c: how dear a point on the wrong side is. Source: Zhu et al. 2023, arXiv 2302.08357, section 3.3.
    """
    fewest = min(len(positive), len(negative))
    if fewest < 2:
        raise ValueError(f"a boundary needs at least 2 examples of either kind, got {len(positive)} and "
                         f"{len(negative)}; 50 of each are usual")
    points = torch.cat([positive, negative]).flatten(1).double().cpu()
    middle = points.mean(0)
    points = points - middle  # rounds less; the plane is the same
    gram, sides = points @ points.T, torch.tensor([1.0] * len(positive) + [-1.0] * len(negative), dtype=torch.float64)
    shares, bias = support_vectors(gram, sides, c)
    weights = shares @ points
    length = weights.norm()
    if not length > 1e-9:
        raise ValueError("the two kinds of examples are the same, so nothing lies between them; connect others")
    normal = weights / length
    along = (points + middle) @ normal
    right = (gram @ shares + bias) * sides > 0.0
    if fewest > 2:
        right = _right_unseen(gram, sides, c, folds=min(fewest, 5))
    offsets = along[sides < 0.0].mean().item(), along[sides > 0.0].mean().item()
    return Plane(normal, float(bias / length - middle @ normal), offsets, right.double().mean().item())


def support_vectors(gram: Tensor, sides: Tensor, c: float) -> tuple[Tensor, Tensor]:
    """(side times weight of each point, bias) of a linear support vector machine, all of float64.

    gram (n, n): inner products of the points; sides (n,): 1 or -1. The least of |w|^2 / 2 + c sum of what a point lacks
    to 1 on its own side; w is the sum of shares times points. Two points at a time are moved until no pair gains.
    Source: Fan, Chen and Lin 2005, Working set selection using second order information, its WSS 2.
    """
    shares, pulls, own = torch.zeros_like(sides), sides.clone(), gram.diagonal()
    top, bottom = c * sides.clamp(min=0.0), c * sides.clamp(max=0.0)
    for _ in range(MOST_PAIRS):
        up, down = (pulls.where(shares < top, pulls.new_tensor(-math.inf)),
                    pulls.where(shares > bottom, pulls.new_tensor(math.inf)))
        i = int(up.argmax())
        gains, curves = (up[i] - down).clamp(min=0.0), (own[i] + own - 2.0 * gram[i]).clamp(min=1e-12)
        if gains.max() < TOLERANCE:
            free = (shares < top) & (shares > bottom)
            return shares, pulls[free].mean() if free.any() else (up.max() + down.min()) / 2.0
        j = int((gains.square() / curves).argmax())
        step = min(gains[j] / curves[j], top[i] - shares[i], shares[j] - bottom[j])
        ends = shares[i] + step, shares[j] - step  # at a bound to the bit: those that are not say where the margin is
        shares[i] = top[i] if step == top[i] - shares[i] else ends[0]
        shares[j] = bottom[j] if step == shares[j] - bottom[j] else ends[1]
        pulls -= step * (gram[i] - gram[j])
    raise ValueError(f"no boundary was found in {MOST_PAIRS} moves: the two kinds are hardly different; lower c, or "
                     "connect others")


def _right_unseen(gram: Tensor, sides: Tensor, c: float, *, folds: int) -> Tensor:
    """Whether each point lies on its own side of a plane that was fitted without it and others."""
    fold = torch.cat([torch.arange(int(count)) * folds // int(count) for count in (sides > 0.0).unique_consecutive(
        return_counts=True)[1]])
    right = torch.zeros_like(sides, dtype=torch.bool)
    for k in range(folds):
        fitted, held = fold != k, fold == k
        shares, bias = support_vectors(gram[fitted][:, fitted], sides[fitted], c)
        right[held] = (gram[held][:, fitted] @ shares + bias) * sides[held] > 0.0
    return right


def moved(points: Tensor, plane: Plane, distance: float, *, mode: str = "add_distance") -> Tensor:
    """points (B, ...) moved along the plane's normal.

    add_distance: by `distance`, towards the positive side where it is above 0; 0 changes nothing. set_distance: until
    <point, normal> is `distance`, counted from the origin as published, so that the bias does not enter.
    Source: Zhu et al. 2023, arXiv 2302.08357, eq. 7.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    normal = plane.normal.to(points).reshape(points.shape[1:])
    if mode == "add_distance":
        return points + distance * normal
    axes = tuple(range(1, points.ndim))
    return points + (distance - (points * normal).sum(axes, keepdim=True)) * normal


def as_far_in(plane: Plane, other: Plane, distance: float, *, mode: str = "add_distance") -> float:
    """The distance in `plane`'s space that is the same share of the gap between its two sides as `distance` is in
    other's."""
    share = plane.gap / other.gap
    return distance * share if mode == "add_distance" else plane.offsets[0] + (distance - other.offsets[0]) * share


def length_ratio(x: Tensor, clean: Tensor, sigma: float, *, alpha: float) -> float:
    """The mean length of states (B, ...) over that of noised clean ones, sqrt(alpha^2 |x_0|^2 + sigma^2 d)."""
    lengths = (alpha ** 2 * clean.flatten(1).square().sum(1) + sigma ** 2 * clean[0].numel()).sqrt()
    return (x.flatten(1).norm(dim=1) / lengths).mean().item()


def mixing_level(sigmas: list[float], ratios: list[float], *, tolerance: float = 0.01) -> float | None:
    """The lowest of rising levels from which on inverted pictures are as long as noised ones again, within the
    tolerance: there the two are mixed. ratios: length_ratio at each level. None where they never come back.

    Levels below the first that leaves the tolerance don't count: hardly any noise is in them.
    Source: Zhu et al. 2023, arXiv 2302.08357, section 3.2, its radius rule.
    """
    out = [i for i, ratio in enumerate(ratios) if abs(ratio - 1.0) > tolerance]
    return sigmas[out[-1] + 1] if out and out[-1] + 1 < len(sigmas) else None
