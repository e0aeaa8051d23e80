"""Dragging: on features that are the latent itself, with superpixels, and the node on Shapes."""
import pytest
import torch
from embedded_editing import build, shapes, words

from odeon.editing.drag import Dragging, Point, drag, pairs_of_text, plain_point
from odeon.editing.superpixels import adaptive_window, facing, nearest_centre, superpixels, window


def blob(x, y, size=32):
    rows, columns = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij")
    spot = torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 18.0)
    return torch.stack([spot * height for height in (2.0, -1.0, 1.5, 0.5)])[None]


def itself(latent):
    """A network whose features, next state and prediction are the latent."""
    return latent, latent, latent


def dragged(points, see=itself, latent=None, state=None, keep=None, **options):
    latent = blob(10, 16) if latent is None else latent
    return list(drag(see, latent, points, Dragging(**{"iterations": 200, "lr": 0.1, **options}), size=(32, 32),
                     keep=keep, state=state))


ACROSS = plain_point((10, 16), (18.0, 16.0))


def test_a_blob_dragged_by_8_px_arrives_and_the_rest_stays():
    keep = torch.ones(1, 1, 32, 32)
    keep[..., 8:24, 2:28] = 0.0
    start, end = blob(10, 16), dragged([ACROSS], keep=keep)[-1]
    latent = end.state["latent"]
    assert (end.state["handles"][0] - torch.tensor([18, 16])).float().norm() < 2.0 and end.done < 200
    assert ((latent - start) * keep).abs().max() < 1e-2
    assert latent[0, 0, 16, 17] > 1.5 * start[0, 0, 16, 17]


def test_a_large_patch_is_known_again_where_its_middle_is_like_all_of_a_thing():
    """A disc of one colour, 2 places further to the right at each look."""
    def see(latent):
        disc = (blob(10 + 2 * len(seen), 16)[:, :1] > 0.5).float()
        seen.append(disc)
        return disc + 0.0 * latent[:, :1], latent, latent

    for r_m, places in ((6, [10, 12, 14]), (1, None)):
        seen = []
        found = [int(progress.state["at"][0, 0]) for progress in dragged(
            [plain_point((10, 16), (18.0, 16.0), r_m=r_m)], see=see, iterations=2)]
        assert (found == places) == (r_m == 6), found


def test_several_points_and_the_other_way():
    end = dragged([plain_point((10, 16), (10.0, 10.0)), plain_point((22, 16), (22.0, 22.0))],
                  latent=blob(10, 16) + blob(22, 16))[-1]
    assert (end.state["handles"] - torch.tensor([[10, 10], [22, 22]])).float().norm(dim=1).max() < 2.0


def test_no_points_and_points_that_are_there_change_nothing():
    for points in ([], [plain_point((10, 16), (11.0, 16.0))]):
        progress, = dragged(points)
        assert progress.done == 0 and torch.equal(progress.state["latent"], blob(10, 16))


def test_an_interrupted_drag_goes_on_where_it_was_and_can_be_ended_there():
    whole = dragged([ACROSS], iterations=12)
    half = dragged([ACROSS], iterations=5)
    rest = dragged([ACROSS], iterations=12, state=half[-1].state)
    assert rest[-1].done == whole[-1].done == 12
    assert torch.allclose(rest[-1].state["latent"], whole[-1].state["latent"], atol=1e-5)
    ended = dragged([ACROSS], iterations=1, state=whole[-1].state)
    assert len(ended) == 1 and torch.equal(ended[0].state["latent"], whole[-1].state["latent"])


def test_the_nearest_latent_is_kept():
    states = [progress.state for progress in dragged([ACROSS], iterations=40, lr=0.5)]
    assert float(states[-1]["nearest"]) == min(float(state["nearest"]) for state in states)


def test_a_full_region_is_the_plain_square():
    labels = torch.zeros(32, 32, dtype=torch.long)
    full = adaptive_window(labels, (10, 16), (18.0, 16.0), 3, segments=200)
    assert torch.equal(full, facing(3, (1.0, 0.0))) and full.sum() == 28
    same = Point((10, 16), (18.0, 16.0), torch.ones(3, 3, dtype=torch.bool), torch.ones(7, 7, dtype=torch.bool))
    one, other = (dragged([point], iterations=10)[-1].state["latent"] for point in (ACROSS, same))
    assert torch.equal(one, other)


def test_windows_keep_to_the_region_that_faces_the_target():
    labels = torch.zeros(32, 32, dtype=torch.long)
    labels[:, 12:] = 1
    half = adaptive_window(labels, (10, 16), (18.0, 16.0), 4, segments=200)
    assert half[:, 4:6].all() and not half[:, :4].any() and not half[:, 6:].any()
    labels[:] = torch.arange(1024).reshape(32, 32)  # regions of one place: the facing half of the disc
    disc = adaptive_window(labels, (10, 16), (18.0, 16.0), 3, segments=8)
    assert disc[3, 6] and not disc[0, 6] and not disc[:, :3].any()
    corner = window(torch.ones(8, 8, dtype=torch.bool), (0, 0), 2)
    assert corner.shape == (5, 5) and corner.sum() == 9
    assert nearest_centre(torch.arange(64).reshape(8, 8) // 4 % 2, 1, 1) == pytest.approx(4.0)


def test_patience_adds_steps_while_a_point_falls_behind():
    still = [progress.done for progress in dragged([ACROSS], iterations=5, lr=1e-6, patient=True, most=9)]
    assert still[-1] > 5 and dragged([ACROSS], iterations=5, lr=1e-6)[-1].done == 5


def test_superpixels_are_whole_and_as_many_as_asked_for():
    from scipy.ndimage import label

    images, _ = build("OdeonShapes", count=1, size=128)
    found = superpixels(images[0].movedim(-1, 0), segments=64)
    assert abs(int(found.max()) + 1 - 64) <= 13 and found.unique().numel() == found.max() + 1
    assert all(label((found == i).numpy())[1] == 1 for i in found.unique())


def test_superpixels_are_scikit_image_s():
    """Up to who gets the pixels halfway: every pair of places is together in both, or in neither, but for few."""
    segmentation = pytest.importorskip("skimage.segmentation",
                                       reason="scikit-image is not installed: superpixels were NOT compared with it")
    images, _ = build("OdeonShapes", count=1, size=128)
    ours = superpixels(images[0].movedim(-1, 0), segments=64, compactness=30.0).flatten()
    theirs = segmentation.slic(images[0].numpy(), n_segments=64, compactness=30.0, start_label=0)
    table = torch.zeros(int(ours.max()) + 1, int(theirs.max()) + 1)
    table.index_put_((ours, torch.from_numpy(theirs).flatten().long()), torch.tensor(1.0), accumulate=True)
    assert table.max(1).values.sum() > 0.9 * ours.numel() and table.max(0).values.sum() > 0.9 * ours.numel()


def test_points_are_read_and_bad_ones_named():
    assert pairs_of_text("1,2 -> 3,4\n\n 5.5 , 6->7,8 ", (9, 9)) == [(1.0, 2.0, 3.0, 4.0), (5.5, 6.0, 7.0, 8.0)]
    assert pairs_of_text("", (9, 9)) == []
    with pytest.raises(ValueError, match="points must be lines such as '40,60 -> 80,60', got '1 2 3 4'"):
        pairs_of_text("1 2 3 4", (9, 9))
    with pytest.raises(ValueError, match="the point 9,1 lies outside the picture of 9 x 8 px"):
        pairs_of_text("1,1 -> 9,1", (9, 8))


def options_for(kind, side=60):
    model, clip, vae = shapes(kind)
    images, _ = build("OdeonShapes", count=2, size=64, data_seed=4)
    return {"model": model, "vae": vae, "positive": words(clip, ""), "image": images[:, :side], "steps": 4,
            "strength": 0.6, "n_pix_step": 2, "lr": 0.05}


def test_masks_are_filled_up_as_the_pictures_were():
    from odeon.nodes import editing_drag

    pictures, mask = torch.zeros(2, 3, 64, 72), torch.zeros(1, 30, 35)
    mask[..., 20:] = 1.0
    found = editing_drag._filled(mask, pictures, (60, 70))
    assert found.shape == (2, 1, 64, 72) and found[..., 42:].min() > 0.9 and not found[..., :38].any()
    each = editing_drag._filled(torch.stack([mask[0], 1.0 - mask[0]]), pictures, (60, 70))
    assert torch.allclose(each.sum(0), torch.ones(1, 64, 72))
    with pytest.raises(ValueError, match="one mask, or one for each of the 2 pictures, got 3"):
        editing_drag._filled(torch.zeros(3, 8, 8), pictures, (60, 70))


@pytest.mark.parametrize("kind", ["shapes-unet", "shapes-dit-small"])
def test_the_node_drags_any_size_and_gives_the_model_back(kind):
    options = options_for(kind)
    network = options["model"].network
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    out, report = build("OdeonDrag", points="20,30 -> 40,30", **options)
    assert out.shape == (2, 60, 64, 3) and torch.isfinite(out).all()
    assert [line.split(":")[0] for line in report.splitlines()] == ["picture 1", "picture 2"]
    alone, _ = build("OdeonDrag", points="20,30 -> 40,30", **{**options, "image": options["image"][1:]})
    assert (alone - out[1:]).abs().max() < 1e-3
    still, report = build("OdeonDrag", points="", **options)
    assert "no points" in report and (still - out).abs().max() > 1e-3
    assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())
    assert not any("forward" in vars(module) for module in network.modules())
    assert all(not value.requires_grad for value in network.parameters())


def test_a_radius_takes_more_along():
    options = options_for("shapes-dit-small")
    outs = [build("OdeonDrag", points="20,30 -> 40,30", **options, radius=radius)[0] for radius in (2, 20)]
    assert torch.equal(outs[0], build("OdeonDrag", points="20,30 -> 40,30", **options)[0])
    assert (outs[1] - outs[0]).abs().max() > 1e-3


def test_a_mask_of_another_size_holds_the_rest():
    options = options_for("shapes-dit-small")
    mask = torch.zeros(1, 30, 32)
    mask[:, :, :16] = 1.0
    free, held = (build("OdeonDrag", points="20,30 -> 40,30", **options, mask=mask, lam=lam)[0] for lam in (0.0, 100.0))
    still, _ = build("OdeonDrag", points="", **options)
    assert (held - still)[:, :, 40:].abs().mean() < (free - still)[:, :, 40:].abs().mean()


def test_adaptive_with_a_region():
    region = torch.zeros(1, 60, 64)
    region[:, 10:50, 8:40] = 1.0
    out, report = build("OdeonDrag", points="20,30 -> 40,30", mode="adaptive", region=region,
                        **{**options_for("shapes-dit-small"), "n_segments": 30})
    assert torch.isfinite(out).all() and "wanted 40,30" in report


def test_what_is_told_of_memory(caplog):
    caplog.set_level("INFO")
    build("OdeonDrag", points="20,30 -> 40,30", **options_for("shapes-dit-small"))
    assert sum("a gradient through the network takes about" in line for line in caplog.messages) == 2  # two pictures
