"""The state inside a network, between two of its blocks: read at every evaluation, changed where asked."""
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .attention import grid_of, layers_of, skip_levels, with_attention
from .gradients import Statement, checkpointed

PLACES = ("middle", "fine")


class Tap:
    """What passes one place of a network: `seen` is (B, C, rows, columns) of the last evaluation within `on`, which
    must be of one prompt at CFG 1."""

    def __init__(self, network):
        self.network = getattr(network, "_orig_mod", network)
        self.shape, self.change, self.seen = None, None, None
        self.statement = Statement("network")

    @contextmanager
    def on(self, shape: torch.Size, change: Callable[[Tensor], Tensor] | None = None) -> Iterator[None]:
        """Inside, latents of that shape (B, C, h, w) are evaluated; change(state) -> state is put in seen's place."""
        self.shape, self.change = shape, change
        try:
            yield
        finally:
            self.shape = self.change = None

    @contextmanager
    def with_gradients(self, shape: torch.Size) -> Iterator[None]:
        """As on, and `seen` has a graph back to the latents, each block computed again on the way back."""
        with self.on(shape), torch.enable_grad(), checkpointed(self.network, self.statement):
            yield

    def maps(self, state: Tensor) -> Tensor:
        """A UNet's maps (B, C, rows, columns), kept and changed."""
        if self.shape is None:
            return state
        self._require_alone(state)
        self.seen = state
        return state if self.change is None else self.change(state)

    def rows(self, state: Tensor) -> Tensor:
        """A transformer's rows (B, N, C), of which the picture's come last, kept and changed."""
        if self.shape is None:
            return state
        self._require_alone(state)
        grid = grid_of(self.network, self.shape)
        words = state.shape[1] - math.prod(grid)
        if words < 0:
            raise ValueError(f"a block sees {state.shape[1]} places where the picture has {math.prod(grid)}: another "
                             "patch joins or splits places; take that one off")
        self.seen = state[:, words:].transpose(1, 2).unflatten(2, grid)
        if self.change is None:
            return state
        return torch.cat([state[:, :words], self.change(self.seen).flatten(2).transpose(1, 2)], dim=1)

    def _require_alone(self, state: Tensor) -> None:
        if len(state) != self.shape[0]:
            raise ValueError(f"the network was called with {len(state)} pictures where {self.shape[0]} were asked for; "
                             "give one prompt, neither combined nor of several areas")


def place_of(network, where: str) -> tuple[str, int]:
    """Where a network is tapped: 'middle', halfway, which in UNets is what the middle block gives; 'fine', where a
    UNet is first as fine as its latents on the way up, of transformers halfway too. ValueError for other networks."""
    if hasattr(network, "output_blocks"):
        levels = skip_levels(network)
        return "output", 0 if where == "middle" else levels.index(max(levels))
    layers = layers_of(network)
    if not layers:
        raise ValueError(f"the inside of this model ({type(network).__name__}) can't be reached; this works on UNets "
                         "(SD1.5, SDXL), Flux-like and SD3-like models")
    kind, i, _ = layers[len(layers) // 2]
    return f"{kind}_block", i


def patch_tap(model, network, where: str):
    """(a MODEL with a Tap, that Tap) of the network of a MODEL."""
    tap, patched = Tap(network), model.clone()
    kind, i = place_of(tap.network, where)
    if kind == "output":
        def patch(state: Tensor, skip: Tensor, options: dict) -> tuple[Tensor, Tensor]:
            return (tap.maps(state), skip) if options["block"] == ("output", i) else (state, skip)

        patched.set_model_patch(patch, "output_block_patch")
        return patched, tap
    options = patched.model_options["transformer_options"]
    replaced = options.get("patches_replace", {})
    blocks = replaced.get("dit", {})
    options["patches_replace"] = {**replaced, "dit": {**blocks, (kind, i): _tapping(blocks.get((kind, i)), tap)}}
    return patched, tap


def _tapping(previous, tap: Tap):
    def block(args: dict, more: dict) -> dict:
        args = {**args, "img": tap.rows(args["img"])}
        return previous(args, more) if previous else more["original_block"](args)

    return block


def patch_shared(model, network, shape: torch.Size, share: float, *, attend: Callable):
    """A MODEL whose last `share` of self-attention layers give all pictures of a batch the first one's content (keys
    and values), at CFG 1; shape: of the latents (B, C, h, w). attend(q, k, v, extra): a UNet's own attention."""
    def replacement(q: Tensor, k: Tensor, v: Tensor, *, attend: Callable, image: slice, grid) -> Tensor:
        k, v = k.clone(), v.clone()
        k[:, image], v[:, image] = k[:1, image], v[:1, image]
        return attend(q, k, v)

    network = getattr(network, "_orig_mod", network)
    patched, layers = model.clone(), layers_of(network)
    note = {"grid": grid_of(network, shape)} if hasattr(network, "patch_size") else {}
    patched.model_options["transformer_options"] = with_attention(
        patched.model_options["transformer_options"], network, layers[len(layers) - round(share * len(layers)):],
        replacement, note=note, attend=attend)
    return patched
