"""The trained Shapes family: parts by their properties, shipped weights by what they do on held-out scenes."""
import logging
import random
import shutil

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from odeon.models.autoencoder import ShapesAutoencoder
from odeon.models.dit import CONFIGS, ShapesDiT
from odeon.models.judge import Asked, Reading, agreement, kernel_distance, parse_caption
from odeon.models.shapes import sample_scene
from odeon.models.text import TOKENS, WORDS, ShapesTextEncoder, ShapesTokenizer
from odeon.models.train import harness
from odeon.models.train.autoencoder import AutoencoderRecipe
from odeon.models.train.scenes import pictures_of, scenes_of, to_unit
from odeon.models.unet import ShapesUNet
from odeon.models.weights import FOLDER, NETWORKS, card, load_weights, shapes_autoencoder, shapes_judge, shapes_network

FILES = sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def test_standardized_latents_change_no_picture():
    torch.manual_seed(0)
    model = ShapesAutoencoder((8, 16, 24))
    pixels = torch.rand(2, 3, 64, 64) * 2.0 - 1.0
    before, latents = model.decode(model.encode(pixels)), model.encode(pixels)
    mean, std = torch.tensor([1.0, -2.0, 0.5, 0.0]), torch.tensor([0.5, 2.0, 1.0, 3.0])
    log_variance = model.moments(pixels)[1]
    model.standardize(mean, std)
    wide = (1, 4, 1, 1)
    assert torch.allclose(model.encode(pixels), (latents - mean.reshape(wide)) / std.reshape(wide), atol=1e-5)
    assert torch.allclose(model.moments(pixels)[1], log_variance - 2.0 * std.log().reshape(wide), atol=1e-5)
    assert torch.allclose(model.decode(model.encode(pixels)), before, atol=1e-5)


def test_every_caption_has_its_tokens(caplog):
    rng, tokenizer = random.Random(0), ShapesTokenizer()
    with caplog.at_level(logging.WARNING, logger="odeon"):
        longest = max(len(tokenizer.tokenize_with_weights(sample_scene(rng, 3).caption)["odeon"]) for _ in range(300))
    assert longest <= TOKENS and not caplog.text
    with caplog.at_level(logging.WARNING, logger="odeon"):
        tokens = tokenizer.tokenize_with_weights("a (red:1.5) dragon on sand")["odeon"]
    assert "know no word like dragon" in caplog.text
    assert tokens == [(tokenizer.numbers["red"], 1.5), (tokenizer.numbers["on"], 1.0), (tokenizer.numbers["sand"], 1.0)]


def test_word_weights_move_away_from_the_empty_prompt():
    torch.manual_seed(0)
    tokenizer, encoder = ShapesTokenizer(), ShapesTextEncoder().eval()
    plain, twice, empty = (encoder.encode_token_weights(tokenizer.tokenize_with_weights(text))[0]
                           for text in ("red star", "(red:2) star", ""))
    assert plain.shape == (1, TOKENS, 64)
    assert torch.allclose(twice[:, 0], empty[:, 0] + 2.0 * (plain[:, 0] - empty[:, 0]), atol=1e-5)
    assert torch.allclose(twice[:, 1:], plain[:, 1:], atol=1e-6)


def test_unet_starts_at_zero_and_takes_other_sizes():
    torch.manual_seed(0)
    model = ShapesUNet()
    out = model(torch.randn(2, 4, 16, 24), torch.tensor([0, 999]), torch.randn(2, TOKENS, 64))
    assert out.shape == (2, 4, 16, 24)
    assert torch.equal(out, model.out[2].bias[None, :, None, None].expand_as(out))
    assert model(torch.randn(1, 4, 17, 9), torch.tensor([5]), torch.randn(1, TOKENS, 64)).shape == (1, 4, 17, 9)


def test_dit_starts_at_zero_takes_other_sizes_and_stays_a_small_one():
    torch.manual_seed(0)
    costs = []
    for config in CONFIGS.values():
        model, inputs = ShapesDiT(config), (torch.randn(2, 4, 17, 24), torch.rand(2), torch.randn(2, TOKENS, 64))
        with FlopCounterMode(display=False) as counter:
            assert torch.equal(model(*inputs, torch.randn(2, 64)), torch.zeros(2, 4, 17, 24))
        costs.append(counter.get_total_flops())
    assert costs[0] >= 5 * costs[1]


@pytest.mark.parametrize("objects", [1, 2, 3])
def test_captions_are_read_back(objects):
    rng = random.Random(objects)
    for _ in range(100):
        scene = sample_scene(rng, objects)
        asked, ground = parse_caption(scene.caption)
        assert [tuple(thing) for thing in asked] == [(t.shape, t.colour, t.size, t.place) for t in scene.things]
        assert ground == scene.ground


def test_captions_may_leave_things_open():
    asked, ground = parse_caption("red star left of a blue ring")
    assert asked == [Asked("star", "red", None, "left"), Asked("ring", "blue", None, "right")] and ground is None
    with pytest.raises(ValueError, match="the judge needs captions like"):
        parse_caption("a house")


def test_agreement_counts_each_part():
    star, ring = ("star", "red", "small", 0, 0, 0), ("ring", "blue", "large", 0, 0, 0)
    caption = "a small red star left of a large blue ring on sand"
    assert set(agreement(Reading({"left": star, "right": ring}, "sand"), caption).values()) == {1.0}
    swapped = agreement(Reading({"left": ring, "right": star}, "sand"), caption)
    assert swapped["place"] == swapped["ground"] == 1.0
    assert swapped["object"] == swapped["colour"] == swapped["shape"] == swapped["scene"] == 0.0
    half = agreement(Reading({"left": star}, "night"), caption)
    assert (half["object"], half["place"], half["ground"], half["scene"]) == (0.5, 0.5, 0.0, 0.0)
    extra = agreement(Reading({"left": star, "right": ring, "top": star}, "sand"), caption)
    assert extra["object"] == 1.0 and extra["scene"] == 0.0


def test_kernel_distance_is_unbiased_and_sees_a_shift():
    generator = torch.Generator().manual_seed(0)
    same = [kernel_distance(torch.randn(60, 8, generator=generator), torch.randn(60, 8, generator=generator))
            for _ in range(60)]
    assert abs(sum(same) / len(same)) < 0.02
    assert kernel_distance(torch.randn(60, 8, generator=generator), 1.0 + torch.randn(60, 8, generator=generator)) > 0.5


class ShortRecipe(AutoencoderRecipe):
    """The real recipe on a small model and a few scenes."""
    name, steps, batch, ema = "short", 100, 8, 0.9

    def build(self):
        self.pool = pictures_of(scenes_of(20, 1, held_out=False))
        return ShapesAutoencoder((8, 16, 24))

    def finish(self, model):
        return {}


def test_training_lowers_the_loss_and_goes_on_where_it_was_killed(tmp_path):
    whole = harness.train(ShortRecipe(), tmp_path / "whole")
    assert whole["losses"][-1]["loss"] < 0.8 * whole["losses"][0]["loss"]

    class Killed(ShortRecipe):
        def loss(self, model, generator):
            losses = super().loss(model, generator)
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == 65:
                raise KeyboardInterrupt
            return losses

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness, "SAVE_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            harness.train(Killed(), tmp_path / "cut")
    again = harness.train(ShortRecipe(), tmp_path / "cut")
    assert again["losses"][-1] == whole["losses"][-1]
    weights = [load_file(tmp_path / name / "short.safetensors") for name in ("whole", "cut")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def load_file(path):
    from safetensors.torch import load_file

    return load_file(path)


def test_shipped_files_are_small_and_have_cards():
    assert sorted(["shapes-judge", "shapes-vae", *NETWORKS]) == FILES
    assert sum((FOLDER / f"{name}.safetensors").stat().st_size for name in FILES) < 48e6
    for name in FILES:
        assert {"steps", "seconds", "machine", "threads", "losses", "quality", "parameters"} <= card(name).keys()


@pytest.mark.parametrize("name", FILES)
def test_damaged_weights_are_named(name, tmp_path):
    with pytest.raises(ValueError, match="are missing; install Odeon again, or make them with"):
        load_weights(name, tmp_path)
    data = (FOLDER / f"{name}.safetensors").read_bytes()
    (tmp_path / f"{name}.safetensors").write_bytes(data[:len(data) // 2])
    with pytest.raises(ValueError, match="can't be read .*damaged"):
        load_weights(name, tmp_path)
    other = next(file for file in FILES if file != name)
    shutil.copy(FOLDER / f"{other}.safetensors", tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match=f"holds {other} of version .*, need {name} of version"):
        load_weights(name, tmp_path)


def test_judge_reads_true_held_out_scenes():
    judge, scenes = shapes_judge(), scenes_of(400, 77, held_out=True)
    readings = [reading for part in to_unit(pictures_of(scenes)).split(50) for reading in judge.read(part)]
    rows = [agreement(reading, scene.caption) for reading, scene in zip(readings, scenes)]
    assert sum(row["object"] for row in rows) / len(rows) >= 0.99
    assert card("shapes-judge")["quality"]["object"] >= 0.99


def test_autoencoder_keeps_held_out_scenes():
    model, judge = shapes_autoencoder(), shapes_judge()
    scenes = scenes_of(100, 78, held_out=True)
    pixels = to_unit(pictures_of(scenes))
    with torch.no_grad():
        latents = model.encode(pixels)
        out = model.decode(latents).clamp(-1.0, 1.0)
    assert latents.shape == (100, 4, 16, 16)
    assert -10.0 * torch.log10((out - pixels).square().mean() / 4.0) > 30.0
    assert (latents.std((0, 2, 3)) - 1.0).abs().max() < 0.2
    rows = [agreement(reading, scene.caption) for reading, scene in zip(judge.read(out), scenes)]
    assert sum(row["object"] for row in rows) / len(rows) > 0.95


def test_a_trained_network_and_its_text_encoder_come_back_apart(tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    parts = torch.nn.ModuleDict({"network": ShapesUNet(), "text": ShapesTextEncoder()})
    save_file(parts.state_dict(), tmp_path / "shapes-unet.safetensors",
              metadata={"odeon": "0.1.0", "model": "shapes-unet"})
    trained = shapes_network("shapes-unet", tmp_path)
    assert all(torch.equal(trained.weights[key], value) for key, value in parts["network"].state_dict().items())
    numbers = torch.randint(len(WORDS), (2, TOKENS))
    assert torch.allclose(trained.text(numbers), parts["text"].eval()(numbers), atol=1e-6)
