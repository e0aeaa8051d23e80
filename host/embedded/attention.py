"""The inside of the embedded networks: self-attention replaced for an evaluation, patches, conditions."""
from ...models.unet import attend
from ..adapters import places_of
from ..attention import grid_of, named_layers, skip_levels
from ..attention import patch_control as patch_unet
from ..attention import with_attention as options_with_attention


def attention_layers(model, names: str):
    """The self-attention layers of a MODEL that a list of names picks, for Call.predict's attention (named_layers)."""
    return named_layers(model.network, names)


def levels_of_skips(model) -> list[int]:
    """The resolution, counted from the deepest, at which each output block of a MODEL's UNet takes its skip."""
    return skip_levels(model.network)


def network_of(model):
    """The network of a MODEL."""
    return model.network


def patch_control(model, control):
    """A MODEL under an AttentionControl; see attention.patch_control."""
    return patch_unet(model, model.network, control, own_attention)


def own_attention(q, k, v, _extra):
    """A UNet's own attention (B, N, C)."""
    return attend(q, k, v)


def adapter_places(model) -> dict[str, int]:
    """Where a MODEL takes adapters and how wide it is there; see places_of."""
    return places_of(model.network)


def patch_conditions(model, start):
    """A MODEL whose conditions change on their way into the network.

    start(noise) -> change, called at the start of every run with its noise (B, ...);
    change(context, pooled, *, sigma, kinds) -> (context, pooled): rows of the batch in equal pieces, one for each of
    kinds (0 for the positive, 1 for the negative), sigma (B',). Either may be None. Outside a run nothing changes.
    """
    return model.with_rule("conditions", start)


def with_attention(model, options: dict, attention, shape) -> dict:
    """Transformer options for an evaluation on latents of a shape in which attention = (layers, replacement) holds."""
    grid = grid_of(model.network, shape) if hasattr(model.network, "patch_size") else None
    return options_with_attention({**model.model_options["transformer_options"], **options}, model.network,
                                  *attention, note={"grid": grid}, attend=lambda q, k, v, extra: attend(q, k, v))
