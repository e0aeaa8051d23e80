"""Prompts that choose pictures by the words of their captions."""
import logging
import re

import torch
from torch import Tensor, nn

_WORD = re.compile(r"[a-z0-9]+(?:[-'][a-z0-9]+)*")
_PIECE = re.compile(r"\\[()]|\(|:\s*[+-]?\d*\.?\d+\s*\)|\)|[^\\():]+|.", re.DOTALL)


def weighted_words(prompt: str) -> list[tuple[str, float]]:
    """Lower-case words of a prompt with their weights: (word) is 1.1, (word:1.5) is 1.5, brackets multiply."""
    words, stack, starts = [], [1.0], []
    for piece in _PIECE.findall(prompt):
        if piece == "(":
            starts.append(len(words))
            stack.append(stack[-1] * 1.1)
        elif piece.endswith(")") and piece[0] != "\\" and starts:
            start, inner = starts.pop(), stack.pop()
            if piece != ")":
                factor = float(piece[1:-1]) * stack[-1] / inner
                words[start:] = [(word, weight * factor) for word, weight in words[start:]]
        else:
            words += [(word, stack[-1]) for word in _WORD.findall(piece.lower())]
    return words


def _features(words: list[tuple[str, float]]) -> dict[str, float]:
    """Words and neighbouring pairs, each with its largest weight; a pair counts as its heavier word."""
    features = {}
    pairs = [(f"{a} {b}", max(u, v)) for (a, u), (b, v) in zip(words, words[1:])]
    for name, weight in [*words, *pairs]:
        features[name] = max(weight, features.get(name, weight))
    return features


class CaptionWords:
    """The words of a list of captions, and of neighbouring pairs of words ("red star"), as vector axes."""

    def __init__(self, captions: list[str]):
        of_each = [_features(weighted_words(caption)) for caption in captions]
        self.axes = {name: i for i, name in enumerate(sorted(set().union(*of_each)))}
        self.matrix = torch.zeros(len(captions), max(len(self.axes), 1))
        for row, features in zip(self.matrix, of_each):
            row[[self.axes[name] for name in features]] = 1.0

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **options) -> dict:
        """ComfyUI's tokenizer call: {"odeon": [(axis, weight), ...]}; unknown words are named in the log."""
        words = weighted_words(text)
        unknown = sorted({word for word, _ in words if word not in self.axes})
        if unknown:
            logging.getLogger("odeon").warning("No caption has the word%s %s; the prompt goes on without.",
                                               "s" * (len(unknown) > 1), ", ".join(unknown))
        return {"odeon": [(self.axes[name], weight) for name, weight in _features(words).items() if name in self.axes]}

    def state_dict(self) -> dict:
        return {}


class TextEncoder(nn.Module):
    """What ComfyUI's CLIP asks of a text encoder besides encode_token_weights; always gives its last layer."""
    dtypes = frozenset({torch.float32})

    def reset_clip_options(self) -> None:
        """No layers to choose."""

    def set_clip_options(self, options: dict) -> None:
        """No layers to choose."""

    def load_sd(self, sd: dict):
        return self.load_state_dict(sd, strict=False)


class CaptionEncoder(TextEncoder):
    """Turns tokens into conditioning: one row a token, the weight on the token's axis; (1, tokens, axes)."""

    def __init__(self, axes: int):
        super().__init__()
        self.axes = axes

    def encode_token_weights(self, tokens: dict) -> tuple[Tensor, Tensor]:
        """The conditioning (1, tokens, axes) and its sum over tokens (1, axes); no tokens give one zero row."""
        rows = torch.zeros(1, max(len(tokens["odeon"]), 1), max(self.axes, 1))
        for i, (axis, weight) in enumerate(tokens["odeon"]):
            rows[0, i, axis] = weight
        return rows, rows.sum(1)
