"""The inside of ComfyUI's networks: self-attention replaced for an evaluation, patches, conditions on their way in."""
import comfy.patcher_extension
from comfy.ldm.modules.attention import optimized_attention

from .adapters import places_of
from .attention import grid_of, named_layers, skip_levels
from .attention import patch_control as patch_unet
from .attention import with_attention as options_with_attention

_CONDITIONS = "odeon_conditions"  # a run's own changes of conditions in its transformer_options


def attention_layers(model, names: str):
    """The self-attention layers of a MODEL that a list of names picks, for Call.predict's attention (named_layers)."""
    return named_layers(network_of(model), names)


def levels_of_skips(model) -> list[int]:
    """The resolution, counted from the deepest, at which each output block of a MODEL's UNet takes its skip."""
    return skip_levels(network_of(model))


def network_of(model):
    """The network of a MODEL."""
    network = model.get_model_object("diffusion_model")
    return getattr(network, "_orig_mod", network)  # of a compiled one


def patch_control(model, control):
    """A MODEL under an AttentionControl; see attention.patch_control."""
    return patch_unet(model, network_of(model), control, own_attention)


def adapter_places(model) -> dict[str, int]:
    """Where a MODEL takes adapters and how wide it is there; see places_of."""
    return places_of(network_of(model))


def patch_conditions(model, start):
    """A MODEL whose conditions change on their way into the network.

    start(noise) -> change, called at the start of every run with its noise (B, ...);
    change(context, pooled, *, sigma, kinds) -> (context, pooled): rows of the batch in equal pieces, one for each of
    kinds (0 for the positive, 1 for the negative), sigma (B',). Either may be None. Outside a run nothing changes.
    """
    def begin(executor, noise, *args, **kwargs):
        options = executor.class_obj.model_options.setdefault("transformer_options", {})
        options[_CONDITIONS] = {**options.get(_CONDITIONS, {}), start: start(noise)}
        return executor(noise, *args, **kwargs)

    def apply(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **others):
        options = transformer_options or {}
        change = options.get(_CONDITIONS, {}).get(start)
        if change is not None:
            context, pooled = change(c_crossattn, others.get("y"), sigma=t, kinds=options["cond_or_uncond"])
            c_crossattn, others = context, others if pooled is None else {**others, "y": pooled}
        return executor(x, t, c_concat, c_crossattn, control, options, **others)

    patched, kinds = model.clone(), comfy.patcher_extension.WrappersMP
    patched.add_wrapper_with_key(kinds.OUTER_SAMPLE, "odeon", begin)
    patched.add_wrapper_with_key(kinds.APPLY_MODEL, "odeon", apply)
    return patched


def fresh_conditions(options: dict, noise) -> dict:
    """model_options of one more guider in a run: the run's changes of conditions with states of their own."""
    inner = options.get("transformer_options", {})
    if _CONDITIONS in inner:
        inner[_CONDITIONS] = {start: start(noise) for start in inner[_CONDITIONS]}
    return options


def with_attention(model, options: dict, attention) -> dict:
    """model_options for evaluations of a BaseModel in which attention = (layers, replacement) holds."""
    network, note = getattr(model.diffusion_model, "_orig_mod", model.diffusion_model), {}
    inner = options_with_attention(options.get("transformer_options", {}), network, *attention, note=note,
                                   attend=own_attention)

    def look(executor, x, *args, **kwargs):
        if hasattr(network, "patch_size"):
            note["grid"] = grid_of(network, x.shape)
        return executor(x, *args, **kwargs)

    kind = comfy.patcher_extension.WrappersMP.APPLY_MODEL
    wrappers = inner.get("wrappers", {})
    inner["wrappers"] = {**wrappers, kind: {**wrappers.get(kind, {}), "odeon attention": [look]}}
    return {**options, "transformer_options": inner}


def own_attention(q, k, v, extra):
    """A UNet's own attention (B, N, C)."""
    return optimized_attention(q, k, v, extra["n_heads"], attn_precision=extra["attn_precision"],
                               transformer_options=extra)
