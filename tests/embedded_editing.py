"""Editing nodes in the embedded runner, on the Shapes networks."""
import functools

from odeon.bench.shapes import node as build


@functools.cache
def shapes(kind="shapes-unet"):
    """MODEL, CLIP and VAE."""
    return build("OdeonShapesCheckpoint", model=kind)


def words(clip, text):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))
