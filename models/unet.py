"""The Shapes UNet for the embedded runner: the layout and parameter names of the network that ComfyUI builds.

Weights move between the two unchanged; `CONFIG` is what ComfyUI's class takes. Patches in transformer_options are
called where ComfyUI calls them and with the same arguments: attn1 and attn2 (patch, replace and output), input and
output blocks (before and after the skip), middle_patch between the two attentions.
Source: Rombach et al. 2022, arXiv 2112.10752.
"""
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

CONFIG = {"image_size": 16, "in_channels": 4, "out_channels": 4, "model_channels": 64, "num_res_blocks": [1, 1],
          "channel_mult": [1, 2], "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1],
          "transformer_depth_middle": 1, "context_dim": 64, "num_heads": 4, "use_spatial_transformer": True,
          "legacy": False, "use_linear_in_transformer": True, "adm_in_channels": None, "use_temporal_attention": False}
HEADS = 4


def timestep_embedding(timesteps: Tensor, width: int) -> Tensor:
    """Cosines and sines of timesteps (B,) at `width` / 2 frequencies from 1 down to 1 / 10000: (B, width)."""
    half = width // 2
    places = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    frequencies = torch.exp(-math.log(10000.0) * places / half)
    angles = timesteps[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class ResBlock(nn.Module):
    """Two convolutions, the timestep added between them."""

    def __init__(self, channels: int, out: int, embedding: int):
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(32, channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, out))
        self.out_layers = nn.Sequential(nn.GroupNorm(32, out), nn.SiLU(), nn.Dropout(0.0),
                                        nn.Conv2d(out, out, 3, padding=1))
        self.skip_connection = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, embedding: Tensor, _context: Tensor, _options: dict) -> Tensor:
        hidden = self.in_layers(x) + self.emb_layers(embedding)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(hidden)


class Attention(nn.Module):
    """The parameters of attention of queries (B, N, C) on keys and values made of a context (B, M, D)."""

    def __init__(self, channels: int, context: int):
        super().__init__()
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k, self.to_v = (nn.Linear(context, channels, bias=False) for _ in range(2))
        self.to_out = nn.Sequential(nn.Linear(channels, channels), nn.Dropout(0.0))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention (B, N, C) of queries, keys and values, heads side by side in C."""
    q, k, v = (value.unflatten(-1, (HEADS, -1)).transpose(1, 2) for value in (q, k, v))
    with torch.autocast(q.device.type, enabled=False):  # the CPU's backward pass of bf16 attention is slow
        out = functional.scaled_dot_product_attention(q.float(), k.float(), v.float())
    return out.to(q.dtype).transpose(1, 2).flatten(-2)


class GatedLinear(nn.Module):
    """A linear layer, gated by the GELU of its other half."""

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.proj = nn.Linear(channels, 2 * out)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * functional.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        inner = 4 * channels
        self.net = nn.Sequential(GatedLinear(channels, inner), nn.Dropout(0.0), nn.Linear(inner, channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    """Attention among places, attention on the words, a feed-forward layer."""

    def __init__(self, channels: int, context: int):
        super().__init__()
        self.attn1, self.attn2 = Attention(channels, channels), Attention(channels, context)
        self.ff = FeedForward(channels)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor, options: dict) -> Tensor:
        extra = {**options, "n_heads": HEADS, "dim_head": x.shape[-1] // HEADS, "attn_precision": None}
        patches, replaced = extra.pop("patches", {}), extra.pop("patches_replace", {})
        hidden = self.norm1(x)
        x = x + _attended(self.attn1, "attn1", hidden, hidden, patches, replaced, extra)
        for patch in patches.get("middle_patch", ()):
            x = patch(x, extra)
        x = x + _attended(self.attn2, "attn2", self.norm2(x), context, patches, replaced, extra)
        return x + self.ff(self.norm3(x))


def _attended(layer: Attention, name: str, x: Tensor, context: Tensor, patches: dict, replaced: dict,
              extra: dict) -> Tensor:
    """One attention with what patches make of its inputs, of itself and of its output."""
    value = context
    for patch in patches.get(f"{name}_patch", ()):
        x, context, value = patch(x, context, value, extra)
    q, k, v = layer.to_q(x), layer.to_k(context), layer.to_v(value)
    here, others = extra.get("block"), replaced.get(name, {})
    replacement = others and (others.get((*here, 0)) or others.get(here))
    out = layer.to_out(replacement(q, k, v, extra) if replacement else attend(q, k, v))
    for patch in patches.get(f"{name}_output_patch", ()):
        out = patch(out, extra)
    return out


class SpatialTransformer(nn.Module):
    """A transformer block over the places of a feature map."""

    def __init__(self, channels: int, context: int):
        super().__init__()
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.proj_in, self.proj_out = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, context)])

    def forward(self, x: Tensor, _embedding: Tensor, context: Tensor, options: dict) -> Tensor:
        options = {**options, "activations_shape": list(x.shape), "block_index": 0}
        hidden = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))
        hidden = self.proj_out(self.transformer_blocks[0](hidden, context, options))
        return x + hidden.transpose(1, 2).reshape(x.shape)


class Downsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, _embedding: Tensor, _context: Tensor, _options: dict) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, _embedding: Tensor, _context: Tensor, options: dict) -> Tensor:
        return self.conv(functional.interpolate(x, size=options["skip_size"], mode="nearest"))


class InputConvolution(nn.Conv2d):
    def forward(self, x: Tensor, _embedding: Tensor, _context: Tensor, _options: dict) -> Tensor:
        return super().forward(x)


class ShapesUNet(nn.Module):
    """x (B, 4, h, w), timesteps (B,), context (B, TOKENS, 64) -> predicted noise (B, 4, h, w)."""

    def __init__(self):
        super().__init__()
        width, context = CONFIG["model_channels"], CONFIG["context_dim"]
        wide, embedding = 2 * width, 4 * width
        self.width = width
        self.time_embed = nn.Sequential(nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))

        def block(channels: int, out: int, *more: nn.Module) -> nn.ModuleList:
            return nn.ModuleList([ResBlock(channels, out, embedding), SpatialTransformer(out, context), *more])

        self.input_blocks = nn.ModuleList([
            nn.ModuleList([InputConvolution(4, width, 3, padding=1)]), block(width, width),
            nn.ModuleList([Downsample(width)]), block(width, wide)])
        self.middle_block = nn.ModuleList([*block(wide, wide), ResBlock(wide, wide, embedding)])
        self.output_blocks = nn.ModuleList([
            block(2 * wide, wide), block(wide + width, wide, Upsample(wide)), block(wide + width, width),
            block(2 * width, width)])
        self.out = nn.Sequential(nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, 4, 3, padding=1))
        self._start_as_identity()

    def _start_as_identity(self) -> None:
        """Zeroes the last layer of every residual branch and of the network."""
        for module in self.modules():
            if isinstance(module, ResBlock):
                nn.init.zeros_(module.out_layers[3].weight)
            if isinstance(module, SpatialTransformer):
                nn.init.zeros_(module.proj_out.weight)
        nn.init.zeros_(self.out[2].weight)

    @property
    def dtype(self) -> torch.dtype:
        return self.out[2].weight.dtype

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, transformer_options: dict | None = None,
                **_options) -> Tensor:
        options = {**(transformer_options or {}), "original_shape": list(x.shape), "transformer_index": 0}
        patches = options.get("patches", {})
        embedding = self.time_embed(timestep_embedding(timesteps, self.width).to(x.dtype))
        skips = []
        for i, block in enumerate(self.input_blocks):
            here = {**options, "block": ("input", i)}
            x = _through(block, x, embedding, context, here)
            for patch in patches.get("input_block_patch", ()):
                x = patch(x, here)
            skips.append(x)
            for patch in patches.get("input_block_patch_after_skip", ()):
                x = patch(x, here)
        x = _through(self.middle_block, x, embedding, context, {**options, "block": ("middle", 0)})
        for i, block in enumerate(self.output_blocks):
            here, skip = {**options, "block": ("output", i)}, skips.pop()
            for patch in patches.get("output_block_patch", ()):
                x, skip = patch(x, skip, here)
            if skips:
                here["skip_size"] = skips[-1].shape[-2:]
            x = _through(block, torch.cat([x, skip], dim=1), embedding, context, here)
        return self.out(x)


def _through(block: nn.ModuleList, x: Tensor, embedding: Tensor, context: Tensor, options: dict) -> Tensor:
    for layer in block:
        x = layer(x, embedding, context, options)
    return x
