"""The training recipes on a few scenes: the loss falls as the log says, a killed run goes on bit for bit."""
import shutil

import pytest
import torch

from odeon.guidance.classifiers import load_torchscript
from odeon.models.shapes import COLOURS, SHAPES, Scene, Thing
from odeon.models.text import TOKENS
from odeon.models.train import captioned, harness, minority
from odeon.models.train.__main__ import RECIPES
from odeon.models.train.captioned import NAMES, layout_of
from odeon.models.weights import FOLDER

CAPTIONED = [name for name in RECIPES if name not in ("shapes-vae", "shapes-judge", "shapes-unet-minority")]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A training folder with the weights that recipes start from, and a pool of few scenes."""
    monkeypatch.setattr(captioned, "POOL", 96)
    monkeypatch.setattr(captioned.CaptionedRecipe, "measured_count", 1)
    for name in ("shapes-unet", "shapes-unet-v", "shapes-unet-few"):
        monkeypatch.setattr(RECIPES[name], "batch", 16)
    for path in FOLDER.glob("shapes-*"):
        shutil.copy(path, tmp_path)
    start = tmp_path / "shapes-unet-v.safetensors"
    if not start.is_file():
        from safetensors.torch import load_file, save_file

        save_file(load_file(tmp_path / "shapes-unet.safetensors"), start,
                  metadata={"odeon": "0.1.0", "model": "shapes-unet-v"})
    return tmp_path


def mean_loss(card, part):
    return sum(row["loss"] for row in part(card["losses"])) / len(part(card["losses"]))


@pytest.mark.parametrize("name", CAPTIONED)
def test_every_recipe_learns_and_measures_itself(name, folder, monkeypatch):
    from safetensors import safe_open

    monkeypatch.setattr(harness, "WARM_UP", 5)
    monkeypatch.setattr(harness, "LOG_EVERY", 5)
    steps = 60 if name.startswith("shapes-dit") else 20
    recipe = RECIPES[name](folder)
    monkeypatch.setattr(recipe, "measured_at", {**recipe.measured_at, "steps": 2})
    card = harness.train(recipe, folder, steps=steps)
    assert card["steps"] == steps and len(card["losses"]) >= 2
    if not recipe.__class__.__dict__.get("starts_from"):  # the others start near their end
        assert card["losses"][-1]["loss"] < 0.8 * card["losses"][0]["loss"]
    if "names" in card["losses"][0]:
        assert card["losses"][-1]["names"] < card["losses"][0]["names"]
    else:  # the student, which names nothing: its own loss is about what it starts with
        assert card["losses"][-1]["total"] < 1.5 * card["losses"][0]["total"]
    assert {"things_1", "things_2", "things_3", "cfg", "steps"} <= card["quality"].keys()
    with safe_open(folder / f"{name}.safetensors", "pt") as file:
        assert not [key for key in file.keys() if not key.startswith(("network.", "text."))]  # noqa: SIM118


def test_a_killed_run_of_a_network_goes_on_where_it_was(folder, monkeypatch):
    recipe = RECIPES["shapes-dit-small"]
    monkeypatch.setattr(recipe, "finish", lambda self, model: {})
    whole = harness.train(recipe(folder), folder / "whole", steps=30)

    class Killed(recipe):
        calls = 0

        def loss(self, model, generator):
            losses = super().loss(model, generator)
            self.calls += 1
            if self.calls == 17:
                raise KeyboardInterrupt
            return losses

    monkeypatch.setattr(harness, "SAVE_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        harness.train(Killed(folder), folder / "cut", steps=30)
    again = harness.train(recipe(folder), folder / "cut", steps=30)
    assert again["losses"][-1] == whole["losses"][-1]
    from safetensors.torch import load_file

    weights = [load_file(folder / part / "shapes-dit-small.safetensors") for part in ("whole", "cut")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_the_minority_classifier_is_learned_and_written_as_torchscript(folder, monkeypatch):
    monkeypatch.setattr(minority, "POOL", 100)
    monkeypatch.setattr(minority, "HELD_OUT", 100)
    monkeypatch.setattr(minority, "REPEATS", 1)
    monkeypatch.setattr(harness, "WARM_UP", 5)
    recipe = RECIPES["shapes-unet-minority"](folder)
    card = harness.train(recipe, folder, steps=40)
    assert card["losses"][-1]["loss"] < card["losses"][0]["loss"] and card["quality"]["bins"] == minority.BINS
    assert recipe.bins.bincount().tolist() == [25] * minority.BINS
    network = load_torchscript(folder / "shapes-unet-minority.pt")
    for size in ((16, 16), (24, 8)):
        assert network(torch.randn(2, 4, *size), torch.tensor([0.0, 999.0])).shape == (2, minority.BINS)


def test_muon_moves_matrices_by_orthogonal_steps():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3), torch.nn.Linear(4, 4))
    optimizer = harness.Optimizers(model, [model[0].weight], 1e-2)
    before = model[0].weight.detach().clone()
    (model[0](torch.randn(2, 8, 5, 5)).square().sum() + model[1](torch.randn(3, 4)).sum()).backward()
    optimizer.step(1.0)
    moved = (model[0].weight - before).flatten(1)
    sizes = torch.linalg.svdvals(moved.detach())
    assert sizes.min() > 0.5 * sizes.max(), "not orthogonal"


def test_layout_names_what_lies_at_each_place():
    scene = Scene((Thing("star", "red", "large", "left", (32.0, 64.0), 20.0),
                   Thing("ring", "blue", "small", "right", (96.0, 64.0), 9.0)), "sand")
    shape, colour, size = layout_of(scene).long()
    assert shape[8, 4] == SHAPES.index("star") and colour[8, 4] == list(COLOURS).index("red") and size[8, 4] == 1
    assert shape[8, 12] == SHAPES.index("ring") and size[8, 12] == 0
    assert (shape[0, 0], colour[0, 0], size[0, 0]) == (NAMES[0] - 1, NAMES[1] - 1, NAMES[2] - 1)
    assert 12 <= (shape == SHAPES.index("star")).sum() <= 30 and 3 <= (shape == SHAPES.index("ring")).sum() <= 9


def test_some_captions_are_emptied_and_some_sizes_left_open(folder):
    recipe = RECIPES["shapes-dit-small"](folder)
    recipe.draw_pool()
    rows = recipe.numbers(["a small red star left of a large blue ring on sand"] * 2000,
                          torch.Generator().manual_seed(0))
    words = (rows > 0).sum(1)
    assert rows.shape == (2000, TOKENS)
    assert 0.07 < (words == 0).float().mean() < 0.13
    full = words.max()
    assert 0.2 < ((words > 0) & (words < full)).float().mean() < 0.32
