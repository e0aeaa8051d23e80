import logging

import pytest
import torch

from odeon.models.words import CaptionEncoder, CaptionWords, weighted_words

CAPTIONS = ["a red star on sand", "a blue star on sand", "a red ring on blue ground", "a blue ring on red ground"]


@pytest.mark.parametrize(("prompt", "expected"), [
    ("Red STAR", [("red", 1.0), ("star", 1.0)]),
    ("a (red) star", [("a", 1.0), ("red", 1.1), ("star", 1.0)]),
    ("(red:1.5) star", [("red", 1.5), ("star", 1.0)]),
    ("((red)) (blue star:0.5)", [("red", 1.21), ("blue", 0.5), ("star", 0.5)]),
    ("((red:2) star:0.5)", [("red", 1.0), ("star", 0.5)]),
    (r"\(red\) star)", [("red", 1.0), ("star", 1.0)]),
    ("(red", [("red", 1.1)]),
    ("", []), ("  ,;  ", []), ("black-and-white dog's", [("black-and-white", 1.0), ("dog's", 1.0)]),
])
def test_weights_of_words(prompt, expected):
    words = weighted_words(prompt)
    assert [word for word, _ in words] == [word for word, _ in expected]
    assert [weight for _, weight in words] == pytest.approx([weight for _, weight in expected])


def chosen(prompt):
    words = CaptionWords(CAPTIONS)
    rows, pooled = CaptionEncoder(len(words.axes)).encode_token_weights(words.tokenize_with_weights(prompt))
    assert torch.equal(rows.sum(1), pooled)
    score = (rows.mean(1) @ words.matrix.T)[0]
    return [i for i in range(len(CAPTIONS)) if score[i] >= score.max() - 1e-5]


@pytest.mark.parametrize(("prompt", "pictures"), [
    ("red star", [0]), ("star", [0, 1]), ("ring", [2, 3]), ("", [0, 1, 2, 3]), ("elephant", [0, 1, 2, 3]),
    ("red ring", [2]),  # both rings have the word red; the pair tells whose it is
    ("blue ring", [3]), ("(blue:3) star on sand", [1]),
    ("star star star ring", [0, 1, 2, 3]),  # a repeated word counts once
])
def test_prompts_choose(prompt, pictures):
    assert chosen(prompt) == pictures


def test_unknown_words_are_named(caplog):
    with caplog.at_level(logging.WARNING, logger="odeon"):
        CaptionWords(CAPTIONS).tokenize_with_weights("red zebra, violet star")
    assert "No caption has the words violet, zebra" in caplog.text


def test_no_captions_at_all():
    words = CaptionWords(["", ""])
    rows, _ = CaptionEncoder(len(words.axes)).encode_token_weights(words.tokenize_with_weights("anything"))
    assert rows.shape == (1, 1, 1)
    assert words.matrix.shape == (2, 1)
