"""Attention control for editing by words."""
import logging

import torch

from .. import host
from ..editing.attention_control import AttentionControl
from ..editing.words import WordMap, word_map
from .inputs import FLOAT, MODEL, SOCKET


class OdeonAttentionControl:
    TITLE = "Attention control"
    DESCRIPTION = "For InfEdit on UNets: edits keep the layout, and change only where the changed words look."
    SEARCH_ALIASES = ["infedit", "uac", "unified attention control", "prompt to prompt", "p2p", "masactrl",
                      "cross attention", "replace one word"]
    RETURN_TYPES = ("MODEL", "CONDITIONING", "CONDITIONING")
    RETURN_NAMES = ("model", "source", "target")
    OUTPUT_TOOLTIPS = ("The model to sample with, by InfEdit (DDCM); other samplers run as without this node.",
                       "The words that describe the picture, for InfEdit's source.",
                       "The words for what it should become, for the positive of the node that samples.")
    FUNCTION = "patch"
    CATEGORY = "Odeon/editing"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": MODEL,
            "clip": SOCKET("CLIP", "Reads both prompts; it goes with the model."),
            "source_text": ("STRING", {"default": "", "multiline": True, "dynamicPrompts": True,
                                       "tooltip": "Words that describe the picture as it is."}),
            "target_text": ("STRING", {"default": "", "multiline": True, "dynamicPrompts": True,
                                       "tooltip": "The same with the words changed that should change it."}),
            "cross_replace": FLOAT(0.7, 0.0, 1.0, "Share of the steps in which words look where they looked in the "
                                   "picture. Higher keeps places, lower allows other shapes."),
            "self_replace": FLOAT(0.3, 0.0, 1.0, "Share of the steps in which the whole layout is the picture's; lower "
                                  "for another shape or place."),
            "blend": FLOAT(0.6, 0.0, 1.0, "The edit shows where the changed words look at least so much; 0 "
                           "everywhere."),
            "keep_words": ("STRING", {"default": "", "tooltip": "Words of the new prompt whose places stay as they "
                                      "were: background, sky."}),
            "keep": FLOAT(0.6, 0.0, 1.0, "Places where keep_words look at least so much stay untouched.",
                          advanced=True),
        }}

    def patch(self, model, clip, source_text, target_text, keep_words, **shares):
        patched = controlled(model, clip, [(source_text, target_text)], keep_words, **shares)
        return (patched, *(clip.encode_from_tokens_scheduled(clip.tokenize(text))
                           for text in (source_text, target_text)))


def controlled(model, clip, prompts: list[tuple[str, str]], keep_words: str = "", **shares):
    """A MODEL under AttentionControl of pairs of prompts (before, after), one for all pictures or one for each."""
    rows = [_compared(clip, *pair, keep_words) for pair in prompts]
    words = WordMap(*(torch.cat(values) for values in zip(*(words for words, _ in rows))))
    return host.patch_control(model, AttentionControl(words, torch.cat([kept for _, kept in rows]), **shares))


def _compared(clip, old: str, new: str, keep_words: str) -> tuple[WordMap, torch.Tensor]:
    """The words of two prompts, and which tokens of the new one are to be kept (1, T)."""
    features = [clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0][0] for text in (old, new)]
    before, after = (_tokens(clip, text, len(rows)) for text, rows in zip((old, new), features))
    marks = {*_tokens(clip, "", len(features[1]), exact=False), 0}  # start, end and filling
    words = word_map(before, after, *(rows.float().cpu() for rows in features))
    spoken = torch.tensor([[token not in marks for token in after]])
    words = words._replace(edited=words.edited & spoken)
    if bool(spoken.any()) and not bool((spoken & ~words.edited).any()):
        logging.warning("Odeon: the prompts %r and %r share no word; attention control then keeps the layout alone",
                        old, new)
    held = set(_tokens(clip, keep_words, 0, exact=False)) - marks - {None}
    if not held <= set(after):
        raise ValueError(f"keep_words are to be words of the new prompt {new!r}, got {keep_words!r}")
    return words, torch.tensor([[token in held for token in after]])


def _tokens(clip, text: str, count: int, *, exact: bool = True) -> list:
    """A token for each of a prompt's `count` features, None for what is no word; exact=False: however many."""
    found = []
    for value in clip.tokenize(text).values():
        pairs = [pair for part in value for pair in (part if isinstance(part, list) else [part])]
        tokens = [pair[0] if isinstance(pair[0], int) else None for pair in pairs]
        if not exact or len(tokens) == count:
            return tokens
        found.append(tokens)
    short = [tokens for tokens in found if len(tokens) < count]
    if not short:
        raise ValueError(f"this text encoder gives {count} features for {[*map(len, found)]} tokens, so that words "
                         "can't be told apart; attention control works with those of SD1.5, SDXL and Shapes")
    return short[0] + [0] * (count - len(short[0]))


NODES = (OdeonAttentionControl,)
