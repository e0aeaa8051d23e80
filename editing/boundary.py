"""Boundary diffusion: what tells two kinds of pictures apart at one noise level, and pictures moved across it."""
from typing import NamedTuple

import torch
from torch import Tensor

MODES = ("add_distance", "set_distance")
SPACES = ("both", "z", "h")


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
    try:
        from sklearn.model_selection import cross_val_score
        from sklearn.svm import SVC
    except ImportError as error:
        raise ImportError("finding a boundary needs scikit-learn; pip install 'odeon[science]' brings it") from error
    fewest = min(len(positive), len(negative))
    if fewest < 2:
        raise ValueError(f"a boundary needs at least 2 examples of either kind, got {len(positive)} and "
                         f"{len(negative)}; 50 of each are usual")
    points = torch.cat([positive, negative]).flatten(1).double().cpu()
    sides, machine = [1] * len(positive) + [-1] * len(negative), SVC(kernel="linear", C=c)
    machine.fit(points.numpy(), sides)
    weights = torch.tensor(machine.coef_[0], dtype=torch.float64)
    length = weights.norm()
    if not length > 1e-9:
        raise ValueError("the two kinds of examples are the same, so nothing lies between them; connect others")
    normal, folds = weights / length, min(fewest, 5)
    along = points @ normal
    accuracy = cross_val_score(machine, points.numpy(), sides, cv=folds).mean() if folds > 2 else machine.score(
        points.numpy(), sides)
    offsets = along[len(positive):].mean().item(), along[:len(positive)].mean().item()
    return Plane(normal, float(machine.intercept_[0] / length), offsets, float(accuracy))


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
