"""Adapters beside the attention layers of a network, put on through the patches that both hosts have."""
from torch import Tensor

from ..guidance.agd import Adapters
from .attention import layers_of


def places_of(network) -> dict[str, int]:
    """Where a network takes adapters, and how wide it is there: each attention of a UNet, self and cross, and each
    block of a Flux- or SD3-like transformer. ValueError for other networks."""
    layers = layers_of(network)
    if not layers:
        raise ValueError(f"this model ({type(network).__name__}) has no place for adapters; this works on UNets "
                         "(SD1.5, SDXL), Flux-like and SD3-like models")
    if not hasattr(network, "middle_block"):
        width = getattr(network, "hidden_size", None) or network.img_in.weight.shape[0]
        return {f"{kind}_{i}": width for kind, i, _ in layers}
    places = {}
    for kind, i, inner in layers:
        block = network.middle_block if kind == "middle" else getattr(network, f"{kind}_blocks")[i]
        part = next(part for part in block if hasattr(part, "transformer_blocks")).transformer_blocks[inner]
        for name in ("attn1", "attn2"):
            if getattr(part, name, None) is not None:
                places[f"{kind}_{i}_{inner}_{name}"] = getattr(part, name).to_q.weight.shape[1]
    return places


class Worn:
    """Adapters as they sit on a network: what each attention got on its way in, and the tokens of this evaluation.

    scale: the CFG they stand for; time(sigma: float) -> the model's time.
    """

    def __init__(self, adapters: Adapters, scale: float, time):
        self.adapters, self.scale, self.time = adapters, scale, time
        self.seen, self.tokens = {}, None

    def start(self, noise: Tensor):
        self.tokens = None
        return self.look

    def look(self, context: Tensor, pooled: Tensor | None, *, sigma: Tensor, kinds) -> tuple:
        """Makes the tokens of an evaluation; the conditions stay as they are."""
        if next(self.adapters.parameters()).device != context.device:
            self.adapters.to(context.device)
        words = context.float().clone()  # of inference tensors no gradient can be taken
        numbers = self.scale, self.time(float(sigma.detach()[0]))
        self.tokens = self.adapters.tokens(*(words.new_full((len(words),), value) for value in numbers), words)
        return context, pooled

    def patches(self) -> dict:
        """The patches of a UNet."""
        found = {}
        for name in ("attn1", "attn2"):
            found[f"{name}_patch"] = self._note(name)
            found[f"{name}_output_patch"] = self._add(name)
        return found

    def after(self, layer, x: Tensor) -> Tensor:
        """What goes to a transformer block's output for what came in."""
        return 0.0 if self.tokens is None else self.adapters.added(f"{layer[0]}_{layer[1]}", x, self.tokens)

    def _note(self, name: str):
        def note(x, context, value, extra):
            self.seen[(name, *extra["block"], extra["block_index"])] = x
            return x, context, value

        return note

    def _add(self, name: str):
        def add(out, extra):
            kind, i, inner = *extra["block"], extra["block_index"]
            x = self.seen.pop((name, kind, i, inner))
            place = f"{kind}_{i}_{inner}_{name}"
            return out if self.tokens is None else out + self.adapters.added(place, x, self.tokens)

        return add
