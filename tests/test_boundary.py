"""Boundary search and edit: planes between two sets, the claim on the exact mixture, and the nodes on Shapes."""
import math

import pytest
import torch
from embedded_editing import build, shapes, words
from gmm import LABELS, MEANS, STDS, WEIGHTS, denoise

from odeon.editing.boundary import Plane, as_far_in, fitted_plane, length_ratio, mixing_level, moved, support_vectors
from odeon.editing.path import euler_path


def drawn(label, count, seed):
    """Pictures of one class of the mixture."""
    generator = torch.Generator().manual_seed(seed)
    component = torch.multinomial(WEIGHTS * (label == LABELS), count, replacement=True, generator=generator)
    noise = torch.randn(count, MEANS.shape[1], generator=generator, dtype=torch.float64)
    return MEANS[component] + STDS[component][:, None] * noise


def shares(x):
    """How likely class 1 is for each."""
    log = WEIGHTS.log() - 0.5 * (x[:, None] - MEANS).square().sum(-1) / STDS ** 2 - x.shape[1] * STDS.log()
    return torch.softmax(log, dim=1)[:, LABELS == 1].sum(1)


def last(path):
    *_, (x, _) = path
    return x


def test_the_edit_takes_nine_of_ten_to_the_other_class_on_the_mixture():
    rising = [0.02 * (0.3 / 0.02) ** (i / 40) for i in range(41)]
    unit = math.sqrt(1.0 + rising[-1] ** 2)
    one, zero = (last(euler_path(denoise, drawn(label, 100, seed=label), rising)) / unit for label in (1, 0))
    plane = fitted_plane(one, zero)
    assert plane.accuracy > 0.95
    z = last(euler_path(denoise, drawn(0, 100, seed=9), rising)) / unit
    assert shares(last(euler_path(denoise, unit * z, [*rising[::-1], 0.0]))).mean() < 0.05
    edited = last(euler_path(denoise, unit * moved(z, plane, 1.5 * plane.gap), [*rising[::-1], 0.0]))
    assert (shares(edited) > 0.5).double().mean() > 0.9


def test_a_plane_lies_across_what_tells_two_clouds_apart():
    generator = torch.Generator().manual_seed(0)
    cloud = torch.randn(200, 3, 8, generator=generator, dtype=torch.float64)
    apart = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    apart = 5.0 * apart / apart.norm()
    plane = fitted_plane(cloud[:100] + apart, cloud[100:], c=0.01)
    assert plane.normal.norm() == pytest.approx(1.0) and plane.accuracy > 0.95
    assert plane.normal @ apart.flatten() / 5.0 > 0.95
    assert plane.gap == pytest.approx(5.0, abs=1.0)
    assert ((cloud[:100] + apart).flatten(1) @ plane.normal + plane.bias).gt(0.0).double().mean() > 0.95
    with pytest.raises(ValueError, match="at least 2 examples of either kind, got 1 and 100"):
        fitted_plane(cloud[:1], cloud[100:])
    with pytest.raises(ValueError, match="the two kinds of examples are the same"):
        fitted_plane(cloud[:5], cloud[:5])


@pytest.mark.parametrize("counts, size, apart, c", [((40, 40), 16, 4.0, 0.1), ((20, 30), 1024, 1.0, 1.0),
                                                    ((30, 30), 3, 1.0, 1.0), ((2, 2), 5, 1.0, 1.0)])
def test_the_plane_is_scikit_learn_s(counts, size, apart, c):
    svm = pytest.importorskip("sklearn.svm", reason="scikit-learn is not installed: the plane was NOT compared with it")
    from sklearn.model_selection import cross_val_score

    generator = torch.Generator().manual_seed(size)
    points = 3.0 + torch.randn(sum(counts), size, generator=generator, dtype=torch.float64)
    points[:counts[0], 0] += apart
    sides, machine = [1] * counts[0] + [-1] * counts[1], svm.SVC(kernel="linear", C=c, tol=1e-9)
    machine.fit(points.numpy(), sides)
    weights, plane = torch.tensor(machine.coef_[0]), fitted_plane(points[:counts[0]], points[counts[0]:], c=c)
    assert (plane.normal - weights / weights.norm()).norm() < 1e-3
    assert plane.bias == pytest.approx(machine.intercept_[0] / weights.norm().item(), abs=1e-2)
    if min(counts) > 2:
        unseen = cross_val_score(machine, points.numpy(), sides, cv=5).mean()
        assert plane.accuracy == pytest.approx(unseen, abs=1e-9)


def test_a_support_vector_machine_is_at_its_least():
    """The conditions of Karush, Kuhn and Tucker, and a search that does not end is named."""
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(60, 8, generator=generator, dtype=torch.float64)
    sides = torch.where(points[:, 0] + 2.0 * torch.randn(60, generator=generator, dtype=torch.float64) > 0.0, 1.0, -1.0)
    shares, bias = support_vectors(points @ points.T, sides.double(), 0.7)
    weights, margins = shares * sides, sides * (points @ (points.T @ shares) + bias)
    assert shares.sum().abs() < 1e-9 and weights.min() >= 0.0 and weights.max() <= 0.7
    assert (margins[weights == 0.0] > 1.0 - 1e-3).all() and (margins[weights == 0.7] < 1.0 + 1e-3).all()
    assert (margins[(weights > 0.0) & (weights < 0.7)] - 1.0).abs().max() < 1e-3
    with pytest.raises(ValueError, match="lower c, or connect others"):
        support_vectors(torch.full((4, 4), torch.nan, dtype=torch.float64), sides[:4].double(), 1.0)


def plane_of(seed=0, offsets=(-1.0, 3.0), size=12):
    normal = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Plane(normal / normal.norm(), 0.5, offsets, 1.0)


def test_moving_sets_or_adds_a_distance_and_where_it_is_already_nothing():
    x, plane = torch.randn(5, 12, dtype=torch.float64), plane_of()
    there = moved(x, plane, 7.0, mode="set_distance")
    assert (there @ plane.normal - 7.0).abs().max() < 1e-6
    assert (moved(there, plane, 7.0, mode="set_distance") - there).abs().max() < 1e-12
    assert torch.equal(moved(x, plane, 0.0), x)
    assert ((moved(x, plane, -2.0) - x) @ plane.normal + 2.0).abs().max() < 1e-12
    with pytest.raises(ValueError, match="mode must be one of"):
        moved(x, plane, 1.0, mode="further")


def test_a_distance_is_the_same_share_of_another_space_s_gap():
    z, h = plane_of(offsets=(-1.0, 3.0)), plane_of(offsets=(10.0, 50.0))
    assert as_far_in(h, z, 2.0) == pytest.approx(20.0)
    assert as_far_in(h, z, -1.0, mode="set_distance") == pytest.approx(10.0)
    assert as_far_in(h, z, 3.0, mode="set_distance") == pytest.approx(50.0)


def test_the_level_is_where_lengths_come_back():
    levels = [0.1, 0.2, 0.4, 0.8, 1.6]
    assert mixing_level(levels, [1.0, 0.95, 0.97, 0.995, 1.0]) == 0.8
    assert mixing_level(levels, [1.0, 0.95, 0.97, 0.98, 0.9]) is None
    assert mixing_level(levels, [1.0] * 5) is None
    x0 = torch.randn(6, 3, 4, 4, dtype=torch.float64)
    noise = torch.randn(6, 3, 4, 4, dtype=torch.float64)
    noise = noise - (noise * x0).sum((1, 2, 3), keepdim=True) / x0.square().sum((1, 2, 3), keepdim=True) * x0
    noise = noise * math.sqrt(48.0) / noise.flatten(1).norm(dim=1)[:, None, None, None]
    assert length_ratio(0.3 * x0 + 0.7 * noise, x0, 0.7, alpha=0.3) == pytest.approx(1.0)


def examples(kind, count=6):
    """(MODEL, words, latents of white squares, latents of red squares) at 64 px, drawn plainly."""
    model, clip, vae = shapes(kind)
    pictures = torch.full((2 * count, 64, 64, 3), 0.4)
    for i in range(2 * count):
        pictures[i, 10 + 2 * (i % count):34 + 2 * (i % count), 20:44] = torch.tensor(
            [0.95, 0.95, 0.95] if i < count else [0.9, 0.1, 0.1])
    latents = vae.encode(pictures)
    return model, words(clip, ""), {"samples": latents[:count]}, {"samples": latents[count:]}


@pytest.mark.parametrize("kind, level", [("shapes-unet", 1.5), ("shapes-dit-small", 0.5)])
def test_the_nodes_find_a_boundary_and_move_across_it(kind, level):
    model, conditioning, positive, negative = examples(kind)
    options = {"model": model, "conditioning": conditioning}
    boundary, report = build("OdeonBoundarySearch", latents_positive=positive, latents_negative=negative, steps=6,
                             sigma_mix=level, **options)
    assert boundary.sigmas[-1] == pytest.approx(level) and len(boundary.sigmas) == 7
    assert boundary.z.accuracy > 0.8 and boundary.h.accuracy > 0.8 and "told apart" in report
    in_parts, _ = build("OdeonBoundarySearch", latents_positive=positive, latents_negative=negative, steps=6,
                        sigma_mix=level, batch=5, **options)
    assert (in_parts.h.normal - boundary.h.normal).abs().max() < 1e-3

    def edited(latent=negative, **changes):
        out, = build("OdeonBoundaryEdit", latent=latent, boundary=boundary, **{
            **options, "eta": 0.0, "distance": boundary.z.gap, **changes})
        return out["samples"]

    kept, to = edited(distance=0.0), positive["samples"].mean(0)
    assert (kept - negative["samples"]).square().mean().sqrt() < 0.3  # what DDIM's way there and back loses
    before = (kept - to).square().mean()
    assert (edited(space="z") - to).square().mean() < 0.7 * before
    for changes in ({"space": "h"}, {"space": "both"}, {"space": "h", "delayed_h": True}):
        assert (edited(**changes) - kept).abs().max() > 0.01
    assert torch.equal(edited(eta=1.0, seed=3), edited(eta=1.0, seed=3))
    alone = edited({"samples": negative["samples"][2:3]}, eta=1.0)
    assert (alone - edited(eta=1.0)[2:3]).abs().max() < 1e-3


def test_the_level_found_by_itself_is_told():
    model, conditioning, positive, negative = examples("shapes-dit-small", count=3)
    boundary, report = build("OdeonBoundarySearch", model=model, conditioning=conditioning, latents_positive=positive,
                             latents_negative=negative, steps=4)
    assert 0.0 < boundary.sigmas[-1] < 1.0 and "level: sigma" in report.splitlines()[0]


def test_bad_input_is_named():
    model, conditioning, positive, negative = examples("shapes-dit-small", count=3)
    options = {"model": model, "conditioning": conditioning}
    search = {"latents_positive": positive, "latents_negative": negative, "steps": 3, "sigma_mix": 0.5, **options}
    boundary, _ = build("OdeonBoundarySearch", **search)
    with pytest.raises(ValueError, match="both kinds of examples need one size"):
        build("OdeonBoundarySearch", **{**search, "latents_negative": {"samples": torch.zeros(3, 4, 4, 4)}})
    with pytest.raises(ValueError, match="the level must lie above the model's lowest"):
        build("OdeonBoundarySearch", **{**search, "sigma_mix": 2.0})
    edit = {"boundary": boundary, "latent": positive, **options}
    with pytest.raises(ValueError, match="bring the picture to the size of the examples"):
        build("OdeonBoundaryEdit", **{**edit, "latent": {"samples": torch.zeros(1, 4, 4, 4)}})
    with pytest.raises(ValueError, match="was found on another model"):
        build("OdeonBoundaryEdit", **{**edit, "model": shapes("shapes-dit")[0]})
    with pytest.raises(ValueError, match="can't keep to a noise mask"):
        build("OdeonBoundaryEdit", **{**edit, "latent": {**positive, "noise_mask": torch.ones(1, 1, 8, 8)}})
