"""Gradients through a network inside a run: computed again block by block, out of inference mode."""
import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .denoiser import NoGradients, own_weights
from .measuring import fingerprint

MIB = 2.0 ** 20
NO_WAY_BACK = ("no gradient comes back through this model: its weights are quantized, or a patch or an attention "
               "backend has no backward pass; load it in fp16, bf16 or fp32 with PyTorch's own attention, or take the "
               "gradient at the prediction alone ('x0 only', 'denoised')")


class Statement:
    """What a gradient keeps in memory, counted while its forward pass runs; tells it once, before the way back."""

    def __init__(self, what: str):
        self.what, self.told = what, False
        self.blocks = self.kept = self.largest = 0

    def tell(self, out: Tensor) -> None:
        """Logs it once for a forward pass that gave out (B, ...), as a warning where a GPU has less free."""
        if self.told:
            return
        self.told = True
        need = self.kept + 2 * self.largest
        free = torch.cuda.mem_get_info(out.device)[0] if out.is_cuda else None
        logging.log(logging.INFO if free is None or need <= free else logging.WARNING,
                    "Odeon: a gradient through the %s takes about %.0f MiB for %d picture%s (%d blocks, each computed "
                    "again on the way back)%s", self.what, need / MIB, len(out), "s" * (len(out) > 1), self.blocks,
                    "" if free is None else f"; {free / MIB:.0f} MiB are free")


def differentiating(predict: Callable, network: nn.Module, *, sigma: Tensor, statement: Statement) -> Callable:
    """Call.predict that also knows gradients=True: each kind is then a call whose graph goes back to x.

    To be called so out of inference mode with gradients on. predict: the plain one, evaluated at sigma unless told.
    Raises NoGradients where the result has no graph.
    """
    def predict_with(*kinds, gradients: bool = False, **changes) -> tuple[Tensor, ...]:
        return tuple(differentiated(kind, **changes) for kind in kinds) if gradients else predict(*kinds, **changes)

    def differentiated(kind: str, **changes) -> Tensor:
        own_weights(network)
        with checkpointed(network, statement):
            out, = predict(kind, **{"sigma": sigma.clone(), **changes})
        if not out.requires_grad:
            raise NoGradients(NO_WAY_BACK)
        statement.tell(out)
        return out

    return predict_with


@contextmanager
def checkpointed(network: nn.Module, statement: Statement | None = None) -> Iterator[None]:
    """Inside, the blocks of a network keep nothing but their inputs for the way back, which computes them again."""
    blocks = [block for block in _blocks(network) if "forward" not in vars(block)]
    for block in blocks:
        block.forward = _again(block, block.forward, None if statement is None or statement.told else statement)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The topmost modules that are called as one and have modules of their own; whole lists are gone through."""
    for child in module.children():
        if isinstance(child, (nn.Sequential, nn.ModuleList, nn.ModuleDict)) or type(child) is nn.Module:
            yield from _blocks(child)
        elif any(True for _ in child.children()):
            yield child


def _again(block: nn.Module, forward: Callable, statement: Statement | None) -> Callable:
    """forward that is computed twice, each time on copies, since some networks add to their inputs in place."""
    def copied(value):
        if isinstance(value, Tensor):
            return value.clone()
        return copy.copy(value) if isinstance(value, (dict, list)) else value

    def run(*args, **kwargs):
        handles = [norm.register_forward_pre_hook(lambda _, inputs: tuple(copied(value) for value in inputs))
                   for norm in block.modules() if "norm" in type(norm).__name__.lower()]
        try:
            return forward(*map(copied, args), **{name: copied(value) for name, value in kwargs.items()})
        finally:
            for handle in handles:
                handle.remove()

    def savable(value):
        return value.clone() if isinstance(value, Tensor) and value.is_inference() else value

    def call(*args, **kwargs):
        args, kwargs = [savable(value) for value in args], {name: savable(value) for name, value in kwargs.items()}
        with _counted(block, args, kwargs, statement):
            return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return call


@contextmanager
def _counted(block: nn.Module, args: list, kwargs: dict, statement: Statement | None) -> Iterator[None]:
    """Adds to a statement what one block keeps, and what it holds while it is computed again."""
    if statement is None:
        yield
        return
    inside = [0]

    def count(_module, _inputs, output) -> None:
        inside[0] += sum(_size(value) for value in (output if isinstance(output, tuple) else (output,)))

    handles = [part.register_forward_hook(count) for part in block.modules() if part is not block]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        statement.blocks += 1
        statement.kept += sum(_size(value) for value in (*args, *kwargs.values()))
        statement.largest = max(statement.largest, inside[0])


def _size(value) -> int:
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0


class Decoder:
    """decode(a LATENT's samples (B, C, h, w)) -> pictures (B, 3, H, W) in about [0, 1], and encode() back, with
    gradients where on.

    codec: a VAE's network, of which a float32 copy of its own is made at the first call: half precision loses
    gradients, and weights that were loaded in inference mode have none. It is on the latents' device only while called.
    """

    def __init__(self, codec: nn.Module):
        self.codec, self.made = codec, None
        self.statements = {"decode": Statement("decoder"), "encode": Statement("encoder")}

    @property
    def about(self) -> dict:
        """What tells its VAE from others."""
        return fingerprint(self.codec, {})

    def __call__(self, latents: Tensor) -> Tensor:
        return (self._passed("decode", latents) + 1.0) / 2.0

    def encode(self, pictures: Tensor) -> Tensor:
        """A LATENT's samples of pictures in [0, 1], whose sides are whole numbers of its places."""
        return self._passed("encode", pictures * 2.0 - 1.0)

    def _passed(self, way: str, value: Tensor) -> Tensor:
        with_gradients = torch.is_grad_enabled() and value.requires_grad
        if self.made is None:
            with torch.inference_mode(False):
                self.made = copy.deepcopy(self.codec).to("cpu", torch.float32).requires_grad_(False).eval()
        with checkpointed(self.made, self.statements[way]) if with_gradients else torch.no_grad():
            found = getattr(self.made.to(value.device), way)(value.float())
        if with_gradients:
            self.statements[way].tell(found)
        return found.to(value.dtype)

    def give_back(self) -> None:
        """Leaves the device."""
        if self.made is not None:
            self.made.to("cpu")
