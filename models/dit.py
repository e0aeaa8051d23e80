"""The Shapes diffusion transformers for the embedded runner: the layout and parameter names of ComfyUI's Flux network.

Weights move between the two unchanged; `CONFIGS` holds what ComfyUI's class takes.
Source: Peebles & Xie 2023, arXiv 2212.09748; Esser et al. 2024, arXiv 2403.03206 (joint attention of words and
picture); the single blocks are the parallel layers of Dehghani et al. 2023, arXiv 2302.05442.
"""
import torch
from torch import Tensor, nn
from torch.nn import functional

from .unet import timestep_embedding

_SHARED = {"image_model": "flux", "in_channels": 4, "out_channels": 4, "vec_in_dim": 64, "context_in_dim": 64,
           "mlp_ratio": 4.0, "axes_dim": [8, 12, 12], "theta": 100, "patch_size": 2, "qkv_bias": True,
           "guidance_embed": False}
CONFIGS = {"shapes-dit": {**_SHARED, "hidden_size": 128, "num_heads": 4, "depth": 2, "depth_single_blocks": 4},
           "shapes-dit-small": {**_SHARED, "hidden_size": 64, "num_heads": 2, "depth": 1, "depth_single_blocks": 2}}
TIME_WIDTH = 256


class Embedder(nn.Module):
    """Two linear layers on a vector."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.in_layer, self.out_layer = nn.Linear(width, hidden), nn.Linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_layer(functional.silu(self.in_layer(x)))


class Scale(nn.Module):
    """Root-mean-square norm of the last axis, scaled by channel."""

    def __init__(self, width: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x.float(), self.scale.shape, self.scale.float(), eps=1e-6).to(x.dtype)


class HeadNorm(nn.Module):
    """Norms of queries and keys (B, heads, N, d)."""

    def __init__(self, width: int):
        super().__init__()
        self.query_norm, self.key_norm = Scale(width), Scale(width)


class JointAttention(nn.Module):
    """The parameters of one stream's part of an attention over both streams."""

    def __init__(self, hidden: int, heads: int):
        super().__init__()
        self.qkv, self.norm = nn.Linear(hidden, 3 * hidden), HeadNorm(hidden // heads)
        self.proj = nn.Linear(hidden, hidden)


class Modulation(nn.Module):
    """`count` vectors (B, 1, hidden) from the conditioning vector."""

    def __init__(self, hidden: int, count: int):
        super().__init__()
        self.count, self.lin = count, nn.Linear(hidden, count * hidden)

    def forward(self, vec: Tensor) -> tuple[Tensor, ...]:
        return self.lin(functional.silu(vec))[:, None].chunk(self.count, dim=-1)


def _normed(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm without parameters, then scale and shift."""
    return functional.layer_norm(x, x.shape[-1:], eps=1e-6) * (1.0 + scale) + shift


def _heads_of(qkv: Tensor, heads: int, norm: HeadNorm) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (B, heads, N, d) out of (B, N, 3 heads d)."""
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return norm.query_norm(q), norm.key_norm(k), v


def _attend(q: Tensor, k: Tensor, v: Tensor, angles: Tensor, options: dict) -> Tensor:
    """Attention (B, N, heads d) of queries and keys turned by their places' angles (N, d / 2).

    options["optimized_attention_override"] takes its place where it is set, called as ComfyUI calls it.
    """
    dtype, override = v.dtype, options.get("optimized_attention_override")
    with torch.autocast(v.device.type, enabled=False):  # the CPU's backward pass of bf16 attention is slow
        cos, sin = angles.cos(), angles.sin()
        q, k, v = _turned(q.float(), cos, sin), _turned(k.float(), cos, sin), v.float()
        if override is None:
            out = _heads_joined(q, k, v, q.shape[1])
        else:
            out = override(_heads_joined, q, k, v, q.shape[1], mask=None, skip_reshape=True,
                           transformer_options=options)
    return out.to(dtype)


def _heads_joined(q: Tensor, k: Tensor, v: Tensor, heads: int, **_options) -> Tensor:
    """Attention (B, N, heads d) of heads (B, heads, N, d)."""
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs of neighbouring channels of x (B, heads, N, d) as points of the plane, turned."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([cos * a - sin * b, sin * a + cos * b], dim=-1).flatten(-2)


class DoubleBlock(nn.Module):
    """Words and picture, each with weights of its own, attending to both."""

    def __init__(self, hidden: int, heads: int, mlp_ratio: float):
        super().__init__()
        self.heads, inner = heads, int(hidden * mlp_ratio)
        for stream in ("img", "txt"):
            self.add_module(f"{stream}_mod", Modulation(hidden, 6))
            self.add_module(f"{stream}_attn", JointAttention(hidden, heads))
            self.add_module(f"{stream}_mlp", nn.Sequential(nn.Linear(hidden, inner), nn.GELU(approximate="tanh"),
                                                           nn.Linear(inner, hidden)))

    def forward(self, img: Tensor, txt: Tensor, vec: Tensor, angles: Tensor,
                options: dict) -> tuple[Tensor, Tensor]:
        img_mod, txt_mod = self.img_mod(vec), self.txt_mod(vec)
        streams = [_heads_of(attn.qkv(_normed(x, *mod[:2])), self.heads, attn.norm) for x, attn, mod in
                   ((txt, self.txt_attn, txt_mod), (img, self.img_attn, img_mod))]
        attended = _attend(*(torch.cat(pair, dim=2) for pair in zip(*streams)), angles, options)
        seen_txt, seen_img = attended.split([txt.shape[1], img.shape[1]], dim=1)
        img = img + img_mod[2] * self.img_attn.proj(seen_img)
        img = img + img_mod[5] * self.img_mlp(_normed(img, *img_mod[3:5]))
        txt = txt + txt_mod[2] * self.txt_attn.proj(seen_txt)
        return img, txt + txt_mod[5] * self.txt_mlp(_normed(txt, *txt_mod[3:5]))


class SingleBlock(nn.Module):
    """Attention and feed-forward side by side over words and picture as one sequence."""

    def __init__(self, hidden: int, heads: int, mlp_ratio: float):
        super().__init__()
        self.heads, inner = heads, int(hidden * mlp_ratio)
        self.linear1, self.linear2 = nn.Linear(hidden, 3 * hidden + inner), nn.Linear(hidden + inner, hidden)
        self.norm, self.modulation = HeadNorm(hidden // heads), Modulation(hidden, 3)
        self.split = [3 * hidden, inner]

    def forward(self, x: Tensor, vec: Tensor, angles: Tensor, options: dict) -> Tensor:
        shift, scale, gate = self.modulation(vec)
        qkv, inner = self.linear1(_normed(x, shift, scale)).split(self.split, dim=-1)
        seen = _attend(*_heads_of(qkv, self.heads, self.norm), angles, options)
        return x + gate * self.linear2(torch.cat([seen, functional.gelu(inner, approximate="tanh")], dim=-1))


class LastLayer(nn.Module):
    def __init__(self, hidden: int, out: int):
        super().__init__()
        self.linear = nn.Linear(hidden, out)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 2 * hidden))

    def forward(self, x: Tensor, vec: Tensor) -> Tensor:
        return self.linear(_normed(x, *self.adaLN_modulation(vec)[:, None].chunk(2, dim=-1)))


class ShapesDiT(nn.Module):
    """x (B, 4, h, w), sigma (B,), context (B, N, 64), y (B, 64) -> predicted velocity eps - x_0 (B, 4, h, w)."""

    def __init__(self, config: dict):
        super().__init__()
        hidden, heads = config["hidden_size"], config["num_heads"]
        self.patch_size, self.theta, self.axes = config["patch_size"], config["theta"], config["axes_dim"]
        values = config["in_channels"] * self.patch_size ** 2
        self.img_in, self.txt_in = nn.Linear(values, hidden), nn.Linear(config["context_in_dim"], hidden)
        self.time_in, self.vector_in = Embedder(TIME_WIDTH, hidden), Embedder(config["vec_in_dim"], hidden)
        self.double_blocks, self.single_blocks = (
            nn.ModuleList(kind(hidden, heads, config["mlp_ratio"]) for _ in range(config[depth]))
            for kind, depth in ((DoubleBlock, "depth"), (SingleBlock, "depth_single_blocks")))
        self.final_layer = LastLayer(hidden, values)
        self._start_as_identity()

    def _start_as_identity(self) -> None:
        """Zeroes every modulation, so that all gates are shut, and the last layer."""
        for module in self.modules():
            if isinstance(module, Modulation):
                nn.init.zeros_(module.lin.weight)
                nn.init.zeros_(module.lin.bias)
        for layer in (self.final_layer.linear, self.final_layer.adaLN_modulation[1]):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def dtype(self) -> torch.dtype:
        return self.img_in.weight.dtype

    def angles(self, height: int, width: int, words: int, device: torch.device) -> Tensor:
        """Turn of each channel pair (words + height * width, d / 2); words stand at place 0."""
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        places = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).double()
        places = torch.cat([places.new_zeros(words, 3), places])
        turns = [places[:, i, None] * self.theta ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
                 for i, size in enumerate(self.axes)]
        return torch.cat(turns, dim=1).float().to(device)

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, y: Tensor | None = None,
                transformer_options: dict | None = None, **_options) -> Tensor:
        options = transformer_options or {}
        replaced = options.get("patches_replace", {}).get("dit", {})
        height, width = x.shape[-2:]
        x = functional.pad(x, (0, -width % self.patch_size, 0, -height % self.patch_size), mode="circular")
        rows, columns = x.shape[-2] // self.patch_size, x.shape[-1] // self.patch_size
        img = functional.pixel_unshuffle(x, self.patch_size).flatten(2).transpose(1, 2)
        img, txt = self.img_in(img), self.txt_in(context)
        y = x.new_zeros(len(x), self.vector_in.in_layer.in_features) if y is None else y
        vec = self.time_in(timestep_embedding(1000.0 * timesteps, TIME_WIDTH).to(x.dtype)) + self.vector_in(y)
        shared = {"vec": vec, "pe": self.angles(rows, columns, txt.shape[1], x.device),
                  "transformer_options": options}
        for i, block in enumerate(self.double_blocks):
            def double(args: dict, block: nn.Module = block) -> dict:
                img, txt = block(args["img"], args["txt"], args["vec"], args["pe"], args["transformer_options"])
                return {"img": img, "txt": txt}

            out = _through(replaced.get(("double_block", i)), double, {"img": img, "txt": txt, **shared})
            img, txt = out["img"], out["txt"]
        both = torch.cat([txt, img], dim=1)
        for i, block in enumerate(self.single_blocks):
            def single(args: dict, block: nn.Module = block) -> dict:
                return {"img": block(args["img"], args["vec"], args["pe"], args["transformer_options"])}

            both = _through(replaced.get(("single_block", i)), single, {"img": both, **shared})["img"]
        out = self.final_layer(both[:, txt.shape[1]:], vec).transpose(1, 2).unflatten(2, (rows, columns))
        return functional.pixel_shuffle(out, self.patch_size)[..., :height, :width]


def _through(replacement, block, args: dict) -> dict:
    """The block's answer, or that of what a patch put in its place, which may call it."""
    return block(args) if replacement is None else replacement(args, {"original_block": block})
