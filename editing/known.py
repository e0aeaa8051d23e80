"""What a run keeps of a picture: masks and latents brought to the size and batch of the state."""
import torch
from torch import Tensor
from torch.nn.functional import interpolate


def new_share(area: Tensor | None, mask: Tensor | None, like: Tensor) -> Tensor:
    """Where a picture is made anew, 1, or kept, 0, in the shape of the state (B, 1 or C, ...).

    area: a MASK (1 or B, H, W) of any size, brought to the state's as ComfyUI does, so that edges may lie between;
    mask: that of the run itself (B, C, ...), used where area is None. Raises ValueError without either, and for both.
    """
    if area is not None and mask is not None:
        raise ValueError("there are two masks, this sampler's own and the LATENT's noise mask; take one of them off")
    if mask is not None:
        return mask.to(like)
    if area is None:
        raise ValueError("there is no mask: connect one to the sampler, or set the LATENT's noise mask; white is made "
                         "anew")
    if like.ndim < 4:
        raise ValueError(f"a mask needs a picture or a video, got a latent of shape {tuple(like.shape)}")
    share = area.reshape(-1, 1, *area.shape[-2:]).to(like)
    share = interpolate(share, size=like.shape[-2:], mode="bilinear")
    return _for_batch(share, len(like), "mask").reshape(len(like), *[1] * (like.ndim - 3), *like.shape[-2:])


def known_latent(known: Tensor | None, clean: Tensor, like: Tensor) -> Tensor:
    """The clean latent (B, C, ...) that is kept: known (1 or B, ...), else the one the run was given.

    Raises ValueError for another size, and where it is empty.
    """
    found = clean if known is None else known
    if found.shape[1:] != like.shape[1:]:
        raise ValueError(f"what is kept has the size {tuple(found.shape[1:])}, the run {tuple(like.shape[1:])}; "
                         "encode it with the same VAE at the same width and height")
    if not torch.any(found):
        raise ValueError("there is no picture to keep: the latent is empty; encode a picture (VAE Encode) for "
                         "the sampler's latent_image")
    return _for_batch(found.to(like), len(like), "kept latent")


def _for_batch(value: Tensor, count: int, what: str) -> Tensor:
    if len(value) not in (1, count):
        raise ValueError(f"need one {what}, or one for each of {count} pictures, got {len(value)}")
    return value.expand(count, *value.shape[1:])
