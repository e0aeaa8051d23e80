"""Which word of one prompt stands for which of another."""
import itertools

import pytest
import torch

from odeon.editing.words import WordMap, aligned, refined, word_map

FEATURES = torch.eye(8)


def mapped(old, new, old_features=None, new_features=None):
    words = word_map(old, new, FEATURES[:len(old)] if old_features is None else old_features,
                     FEATURES[:len(new)] if new_features is None else new_features)
    return [value[0].tolist() for value in words]


def most_pairs(old, new):
    """By trying all subsets of old in order."""
    for count in range(min(len(old), len(new)), -1, -1):
        for chosen in itertools.combinations(range(len(old)), count):
            rest = iter(new)
            if all(old[i] in rest for i in chosen):
                return count
    return 0


def test_alignment_pairs_as_many_equal_tokens_in_order_as_can_be():
    rng = torch.Generator().manual_seed(0)
    for _ in range(60):
        old, new = (torch.randint(0, 4, (int(size),), generator=rng).tolist()
                    for size in torch.randint(1, 7, (2,), generator=rng))
        pairs = aligned(old, new)
        assert [i for i, _ in pairs if i is not None] == list(range(len(old)))
        assert [j for _, j in pairs if j is not None] == list(range(len(new)))
        both = [(i, j) for i, j in pairs if i is not None and j is not None]
        assert all(old[i] == new[j] for i, j in both) and len(both) == most_pairs(old, new)
    assert aligned([None], [None]) == [(0, None), (None, 0)]


def test_equal_prompts_are_each_other_s():
    assert mapped("abc", "abc") == [[0, 1, 2], [True] * 3, [False] * 3]


def test_a_replaced_word_takes_the_attention_of_the_one_taken_out():
    assert mapped(["a", "red", "star"], ["a", "blue", "star"]) == [[0, 1, 2], [True] * 3, [False, True, False]]


def test_a_word_put_in_has_its_own_and_those_after_it_move():
    source, shared, edited = mapped(["a", "star"], ["a", "red", "star"])
    assert shared == [True, False, True] and edited == [False, True, False] and source[::2] == [0, 1]


def test_in_a_gap_of_several_the_nearest_by_features_counts():
    old, new = ["x", "dog", "hat", "y"], ["x", "cap", "cat", "y"]
    near = torch.eye(8)[[0, 2, 1, 3]] + 0.1
    assert mapped(old, new, FEATURES[:4], near)[0] == [0, 2, 1, 3]


def test_prompts_that_share_no_word_are_matched_by_features_alone():
    source, shared, edited = mapped("ab", "cde", FEATURES[:2], FEATURES[[1, 0, 1]])
    assert source == [1, 0, 1] and shared == [True] * 3 and edited == [True] * 3


def test_refined_maps_are_taken_where_words_are_shared():
    old, new = torch.rand(2, 3, 5, 4), torch.rand(2, 3, 5, 6)
    words = WordMap(torch.tensor([[0, 3, 1, 1, 0, 2]]), torch.tensor([[True, True, False, True, False, True]]),
                    torch.zeros(1, 6, dtype=torch.bool))
    out = refined(old, new, words)
    for j in range(6):
        taken = old[..., words.source[0, j]] if words.shared[0, j] else new[..., j]
        assert torch.equal(out[..., j], taken)
    each = WordMap(*(torch.cat([value, value.flip(1)]) for value in words))
    assert torch.equal(refined(old, new, each)[:1], out[:1]) and not torch.equal(refined(old, new, each)[1:], out[1:])


def test_features_of_another_length_are_refused():
    with pytest.raises(ValueError, match="need features of 2 and 3 tokens"):
        word_map("ab", "abc", FEATURES[:2], FEATURES[:2])
