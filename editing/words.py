"""Which word of one prompt stands for which of another."""
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class WordMap(NamedTuple):
    """For each token of the new prompt: its token of the old one, whether it takes that one's attention, and whether
    it says something new. All (B, T), one row for each pair of prompts."""
    source: Tensor  # int64, places in the old prompt
    shared: Tensor  # bool: False for words that were put in
    edited: Tensor  # bool: words that were replaced or put in

    def __add__(self, other: "WordMap") -> "WordMap":
        """The rows of both."""
        return WordMap(*(torch.cat(pair) for pair in zip(self, other)))


def aligned(old: Sequence, new: Sequence) -> list[tuple[int | None, int | None]]:
    """Pairs (place in old, place in new) in order, by Needleman and Wunsch 1970; None is a gap.

    Only equal tokens are paired, as many as can be without crossing; None among the tokens equals nothing.
    """
    counts = [[0] * (len(new) + 1) for _ in range(len(old) + 1)]
    for i in reversed(range(len(old))):
        for j in reversed(range(len(new))):
            same = old[i] is not None and old[i] == new[j]
            counts[i][j] = max(counts[i + 1][j], counts[i][j + 1], counts[i + 1][j + 1] + same if same else 0)
    pairs, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        both = i < len(old) and j < len(new)
        if both and old[i] is not None and old[i] == new[j] and counts[i][j] == counts[i + 1][j + 1] + 1:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif j == len(new) or (both and counts[i + 1][j] >= counts[i][j + 1]):
            pairs.append((i, None))
            i += 1
        else:
            pairs.append((None, j))
            j += 1
    return pairs


def word_map(old: Sequence, new: Sequence, old_features: Tensor, new_features: Tensor) -> WordMap:
    """The WordMap (1, T) of two prompts of tokens, T = len(new), and their features (len, d) of the text encoder.

    Equal tokens that align are each other's. In a gap between those a new word stands for the old one there whose
    features are nearest by cosine; where nothing was taken out it is put in, with no old word.
    Source: Xu et al. 2023, arXiv 2312.04965, appendix, after the refinement of Hertz et al. 2022, arXiv 2208.01626.
    """
    if (len(old), len(new)) != (len(old_features), len(new_features)):
        raise ValueError(f"need features of {len(old)} and {len(new)} tokens, got {len(old_features)} and "
                         f"{len(new_features)}")
    source, shared, edited = [0] * len(new), [True] * len(new), [True] * len(new)
    gap_old, gap_new = [], []

    def close_gap() -> None:
        for j in gap_new:
            if gap_old:
                near = torch.cosine_similarity(old_features[gap_old].double(), new_features[j].double(), dim=1)
                source[j] = gap_old[int(near.argmax())]
            shared[j] = bool(gap_old)
        gap_old.clear()
        gap_new.clear()

    for i, j in aligned(old, new):
        if i is not None and j is not None:
            close_gap()
            source[j], edited[j] = i, False
        elif i is not None:
            gap_old.append(i)
        else:
            gap_new.append(j)
    close_gap()
    return WordMap(*(torch.tensor([row]) for row in (source, shared, edited)))


def refined(old: Tensor, new: Tensor, words: WordMap) -> Tensor:
    """Attention maps (B, heads, N, T) on the new prompt's tokens: those of the old one, (B, heads, N, S), where a token
    has one, else its own."""
    rows = len(new)
    places = words.source.to(new.device).expand(rows, -1)[:, None, None].expand(new.shape)
    return torch.where(words.shared.to(new.device)[:, None, None], old.gather(-1, places), new)
