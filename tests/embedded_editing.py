"""Editing nodes in the embedded runner, on the Shapes networks."""
import functools

from odeon import NODE_CLASS_MAPPINGS


def build(name, /, **changes):
    """What a node gives as it comes from the menu, with changes."""
    cls = NODE_CLASS_MAPPINGS[name]
    inputs = {key: spec[1]["default"] for group in cls.INPUT_TYPES().values() for key, spec in group.items()
              if "default" in spec[1]}
    out = getattr(cls(), cls.FUNCTION)(**{**inputs, **changes})
    return out["result"] if isinstance(out, dict) else out


@functools.cache
def shapes(kind="shapes-unet"):
    """MODEL, CLIP and VAE."""
    return build("OdeonShapesCheckpoint", model=kind)


def words(clip, text):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))
