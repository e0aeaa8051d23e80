"""The self-attention layers of a network, by name, and replacements for some of them in one evaluation."""
import math
import re
from collections.abc import Callable
from itertools import groupby, product

from torch import Tensor

Layer = tuple[str, int, int]  # kind; its place; in a UNet, which transformer of that block, else 0
_CONTROL = "odeon_control"  # a MODEL's own in its transformer_options
_NAME = re.compile(r"(input|middle|output|double|single)(?:\.(\d+)(?:-(\d+))?(?:\.(\d+)(?:-(\d+))?)?)?")


def layers_of(network) -> list[Layer]:
    """Every self-attention layer that can be replaced, in the order they run in; none of networks of other kinds.

    UNets have 'input', 'middle' and 'output' layers, Flux-like transformers 'double' and 'single', SD3-like 'double'.
    """
    if hasattr(network, "middle_block"):
        blocks = [*(("input", i, block) for i, block in enumerate(network.input_blocks)),
                  ("middle", 0, network.middle_block),
                  *(("output", i, block) for i, block in enumerate(network.output_blocks))]
        return [(kind, i, place) for kind, i, block in blocks for part in block
                for place in range(len(getattr(part, "transformer_blocks", ())))]
    doubles = getattr(network, "double_blocks", None) or getattr(network, "joint_blocks", ())
    return [*(("double", i, 0) for i in range(len(doubles))),
            *(("single", i, 0) for i in range(len(getattr(network, "single_blocks", ()))))]


def usual_layers(layers: list[Layer]) -> list[Layer]:
    """Where a perturbation is usual: the middle of a UNet, the second layer of a transformer."""
    return [layer for layer in layers if layer[0] == "middle"] or layers[1:2] or layers


def named_layers(network, names: str) -> tuple[Layer, ...]:
    """The layers that a list of names, with commas between, picks; usual_layers for an empty one.

    A name is a kind ('single'), a place ('double.1'), a range ('single.0-9'), and in UNets with several transformers
    in a block one or some of them ('middle.0.3-5'). ValueError, listing what there is, for one the network lacks.
    """
    layers = layers_of(network)
    if not layers:
        raise ValueError(f"the self-attention of this model ({type(network).__name__}) can't be reached; this works on "
                         "UNets (SD1.5, SDXL), Flux-like and SD3-like models")
    if not names.strip(" ,"):
        return tuple(usual_layers(layers))
    chosen = set()
    for name in (part.strip() for part in names.split(",") if part.strip()):
        found = _matching(layers, name)
        if not found:
            raise ValueError(f"this model has no self-attention layer {name!r}; it has {listed(layers)}")
        chosen.update(found)
    return tuple(layer for layer in layers if layer in chosen)


def _matching(layers: list[Layer], name: str) -> list[Layer]:
    match = _NAME.fullmatch(name.lower())
    if match is None:
        return []
    kind, *numbers = match.groups()
    first, last, inner, inner_last = (None if number is None else int(number) for number in numbers)
    found = [layer for layer in layers if layer[0] == kind]
    for axis, low, high in ((1, first, last), (2, inner, inner_last)):
        if low is not None:
            high = low if high is None else high
            if not {low, high} <= {layer[axis] for layer in found}:
                return []
            found = [layer for layer in found if low <= layer[axis] <= high]
    return found


def listed(layers: list[Layer]) -> str:
    """All layers in words that named_layers reads, ranges where many are alike."""
    blocks = [(block, [layer[2] for layer in found]) for block, found in groupby(layers, key=lambda layer: layer[:2])]
    words = []
    for (kind, inner), found in groupby(blocks, key=lambda block: (block[0][0], len(block[1]))):
        places = [place for (_, place), _ in found]
        runs = groupby(enumerate(places), key=lambda pair: pair[1] - pair[0])
        for _, run in runs:
            run = [place for _, place in run]
            span = f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}"
            words.append(f"{kind}.{span}" + (f".0-{inner - 1}" if inner > 1 else ""))
    return ", ".join(words)


def grid_of(network, shape) -> tuple[int, int]:
    """Rows and columns of a transformer's places for latents of a shape (B, C, h, w)."""
    if len(shape) != 4:
        raise ValueError(f"attention can be changed on pictures, got a latent of {len(shape)} axes; take the node off "
                         "for video")
    return tuple(math.ceil(size / network.patch_size) for size in shape[2:])


def with_attention(options: dict, network, layers, replacement, *, note: dict, attend: Callable) -> dict:
    """Transformer options for one evaluation in which replacement runs in place of some layers' self-attention.

    replacement(q, k, v, attend=..., image=..., grid=...) -> attention, all (B, N, C): see guidance/attention.py; its
    attend is what ran there before. note["grid"] must be set before a transformer runs: grid_of of its input.
    attend(q, k, v, extra): a UNet's own attention. The options that come in stay as they are.
    """
    replaced = {name: dict(places) for name, places in options.get("patches_replace", {}).items()}
    for kind, i, inner in layers:
        if kind in ("input", "middle", "output"):
            here = replaced.setdefault("attn1", {})
            previous = here.get((kind, i, inner)) or here.get((kind, i)) or attend
            here[kind, i, inner] = _unet_layer(replacement, previous)
    chosen = {(f"{kind}_block", i) for kind, i, _ in layers if kind in ("double", "single")}
    if chosen:
        here = replaced.setdefault("dit", {})
        flipped = getattr(getattr(network, "double_blocks", [None])[0], "flipped_img_txt", False)
        for place in {("double_block", 0), *chosen}:  # the first tells how many rows are words
            here[place] = _dit_layer(replacement if place in chosen else None, here.get(place), note, flipped=flipped)
    return {**options, "patches_replace": replaced}


def _unet_layer(replacement, previous):
    def layer(q: Tensor, k: Tensor, v: Tensor, extra: dict) -> Tensor:
        grid = tuple(extra["activations_shape"][-2:])
        _require_places(q.shape[1], math.prod(grid))
        _require_places(k.shape[1], math.prod(grid))
        return replacement(q, k, v, attend=lambda q, k, v: previous(q, k, v, extra), image=slice(0, q.shape[1]),
                           grid=grid)

    return layer


def _dit_layer(replacement, previous, note: dict, *, flipped: bool):
    """A block whose attention is replaced on the way through transformer_options, around what replaced the block."""
    def block(args: dict, more: dict) -> dict:
        if "txt" in args:
            note["words"] = args["txt"].shape[1]
        if replacement is not None:
            options = args["transformer_options"]
            override = _override(replacement, options.get("optimized_attention_override"), note, flipped=flipped)
            args = {**args, "transformer_options": {**options, "optimized_attention_override": override}}
        return previous(args, more) if previous else more["original_block"](args)

    return block


def _override(replacement, previous, note: dict, *, flipped: bool):
    def attention(function, q: Tensor, k: Tensor, v: Tensor, heads: int, *rest, **options) -> Tensor:
        apart = options.get("skip_reshape", False)  # (B, heads, N, d) instead of (B, N, heads d)
        rows, picture = q.shape[-2 if apart else 1], math.prod(note["grid"])

        def joined(value: Tensor) -> Tensor:
            value = value.transpose(1, 2) if apart else value
            return value.reshape(*value.shape[:2], -1)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if apart:
                q, k, v = (value.unflatten(-1, (heads, -1)).transpose(1, 2) for value in (q, k, v))
            if previous is None:
                return function(q, k, v, heads, *rest, **options)
            return previous(function, q, k, v, heads, *rest, **options)

        own = rows < note["words"] + picture  # a second attention of the picture alone (SD3.5 medium)
        first = 0 if own or flipped else note["words"]
        _require_places(rows, picture if own else rows)
        return replacement(*map(joined, (q, k, v)), attend=attend, image=slice(first, first + picture),
                           grid=note["grid"])

    return attention


def _require_places(found: int, expected: int) -> None:
    if found != expected:
        raise ValueError(f"a self-attention sees {found} places where the picture has {expected}: another patch joins, "
                         "splits or adds places (token merging, HyperTile, references); take that one off")


def patch_control(model, network, control, attend: Callable):
    """A MODEL of a UNet whose every attention, of places and of words, runs control.attention (an AttentionControl).

    What replaced a layer's attention before runs inside. attend(q, k, v, extra): a UNet's own attention.
    """
    layers = [layer for layer in layers_of(network) if layer[0] in ("input", "middle", "output")]
    if not layers:
        raise ValueError(f"attention control works on UNets (SD1.5, SDXL), got a {type(network).__name__}; on "
                         "Flux-like and SD3-like models take FlowEdit or InfEdit without it")
    patched = model.clone()
    before = patched.model_options["transformer_options"].get("patches_replace", {})
    for name, (kind, i, inner) in product(("attn1", "attn2"), layers):
        here = before.get(name, {})
        previous = here.get((kind, i, inner)) or here.get((kind, i)) or attend
        patched.set_model_patch_replace(_controlled(control, (name, kind, i, inner), previous), name, kind, i, inner)
    patched.model_options["transformer_options"][_CONTROL] = lambda: control  # ComfyUI copies what is no function
    return patched


def _controlled(control, layer: tuple, previous):
    def attention(q: Tensor, k: Tensor, v: Tensor, extra: dict) -> Tensor:
        grid = tuple(extra["activations_shape"][-2:])
        if control.running:
            _require_places(q.shape[1], math.prod(grid))
        return control.attention(q, k, v, attend=lambda q, k, v: previous(q, k, v, extra), layer=layer,
                                 kinds=extra["cond_or_uncond"], heads=extra["n_heads"], grid=grid)

    return attention


def control_of(model):
    """The AttentionControl of a MODEL, None without one."""
    made = model.model_options.get("transformer_options", {}).get(_CONTROL)
    return made and made()


def around_blocks(replaced: dict, layers, after) -> dict:
    """patches_replace with after(layer, rows that come in) added to the picture's rows of transformer blocks."""
    here = dict(replaced.get("dit", {}))
    for layer in layers:
        place = (f"{layer[0]}_block", layer[1])
        here[place] = _adding(here.get(place), layer, after)
    return {**replaced, "dit": here}


def _adding(previous, layer: Layer, after):
    def block(args: dict, more: dict) -> dict:
        added = after(layer, args["img"])  # first: ComfyUI's blocks change what comes in
        out = previous(args, more) if previous else more["original_block"](args)
        return {**out, "img": out["img"] + added}

    return block


def skip_levels(network) -> list[int]:
    """The resolution, counted from the deepest, of each of a UNet's output blocks; ValueError for other networks."""
    if not hasattr(network, "output_blocks"):
        raise ValueError(f"this model ({type(network).__name__}) has no skip connections; this works on UNets (SD1.5, "
                         "SDXL)")
    levels, level = [], 0
    for block in network.output_blocks:
        levels.append(level)
        level += any(type(part).__name__ == "Upsample" for part in block)
    return levels


def patch_network(model, patches: dict):
    """A MODEL with one more patch at each of some places inside its network: {"output_block_patch": patch, ...}."""
    patched = model.clone()
    for name, patch in patches.items():
        patched.set_model_patch(patch, name)
    return patched


def patch_blocks(model, layers, after):
    """A MODEL whose transformer blocks add after(layer, rows in) to the picture's rows they give."""
    patched = model.clone()
    options = patched.model_options["transformer_options"]
    options["patches_replace"] = around_blocks(options.get("patches_replace", {}), layers, after)
    return patched
