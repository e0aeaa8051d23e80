"""Attention shared by the evaluations of an edit, so that it keeps the layout and changes what the words change."""
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from .words import WordMap, refined

SELF, CROSS = "attn1", "attn2"


class AttentionControl:
    """Attention control of InfEdit for one pair of prompts: what a MODEL's attention layers and the sampler share.

    words: of the new prompt (B, T), one row for all pictures or for each; kept (B, T): tokens that stand for what must
    not change, besides. cross_replace, self_replace: the shares of the steps at whose start the words' maps and the
    layout are taken from the picture that is described. blend, keep: thresholds in [0, 1] on the maps of edited and of
    kept words, 0 is off. Outside a run nothing changes.
    Source: Xu et al. 2023, arXiv 2312.04965, section 4.2 and algorithm 3.
    """

    def __init__(self, words: WordMap, kept: Tensor, *, cross_replace: float = 0.7, self_replace: float = 0.3,
                 blend: float = 0.6, keep: float = 0.6):
        for name, value in (("cross_replace", cross_replace), ("self_replace", self_replace), ("blend", blend),
                            ("keep", keep)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], got {value}")
        self.words, self.kept = words, kept
        self.cross_replace, self.self_replace, self.blend, self.keep = cross_replace, self_replace, blend, keep
        self.running = None

    def begin(self, steps: int) -> "ControlledRun":
        """What takes the differences of a run (see ControlledRun.__call__)."""
        return ControlledRun(self, steps)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, *, attend: Callable, layer: tuple, kinds: list[int],
                  heads: int, grid: tuple[int, int]) -> Tensor:
        """Attention (B', N, C) of one layer: attend(q, k, v) outside a run. layer[0]: SELF or CROSS; kinds: 0 for each
        piece of the batch under the positive, 1 for the negative; grid: rows and columns of the N places."""
        if self.running is None:
            return attend(q, k, v)
        return self.running.attention(q, k, v, attend=attend, layer=layer, kinds=kinds, heads=heads, grid=grid)


class ControlledRun:
    """One run: source, target and mutual evaluations of each step, and what they keep for each other."""

    def __init__(self, control: AttentionControl, steps: int):
        self.control, self.steps, self.done = control, steps, 0
        self.kept: dict = {}
        self.maps: dict[str, list[Tensor]] = {}
        self.mutual = self.branch = None

    def __call__(self, model: Callable, source: Callable, x: Tensor, at: Tensor, *, alpha: float, sigma: float,
                 offset: Tensor) -> Tensor:
        """The offset of the next step, D(wanted) - D(source) at x + alpha offset and x, where the words' maps let it
        through, else that of the mutual evaluation: the source's words and content in the layout of the edit."""
        if self.mutual is None:
            self.mutual = torch.zeros_like(offset)
        self.kept, self.maps = {}, {"edited": [], "kept": []}
        before = self._evaluated("source", source, x, at)
        found = self._evaluated("target", model, x + alpha * offset, at) - before
        self.mutual = self._evaluated("mutual", source, x + alpha * self.mutual, at) - before
        self.done, self.kept = self.done + 1, {}
        lowest = 0.15 * math.hypot(alpha, sigma) / alpha if alpha > 0.0 else math.inf
        return self._blended(found, max(self.control.blend, lowest)) if self.done > 1 else found

    def _evaluated(self, branch: str, denoise: Callable, x: Tensor, at: Tensor) -> Tensor:
        self.branch, self.size = branch, x.shape[-2:]
        self.control.running = self
        try:
            return denoise(x, at)
        finally:
            self.control.running = None

    @property
    def share(self) -> float:
        return (self.done + 1) / self.steps

    def attention(self, q: Tensor, k: Tensor, v: Tensor, *, attend: Callable, layer: tuple, kinds: list[int],
                  heads: int, grid: tuple[int, int]) -> Tensor:
        if len(set(kinds)) != len(kinds):
            raise ValueError("attention control needs one CONDITIONING each for the words before and after; take nodes "
                             "that combine several, or prompts for areas, off")
        pieces = []
        for kind, *values in zip(kinds, *(value.chunk(len(kinds)) for value in (q, k, v))):
            if layer[0] == SELF:
                pieces.append(attend(*self._self(layer, kind, values)))
            elif kind == 0:
                pieces.append(self._cross(layer, *values, attend=attend, heads=heads, grid=grid))
            else:
                pieces.append(attend(*values))
        return torch.cat(pieces)

    def _self(self, layer: tuple, kind: int, values: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """What self-attention runs on in this branch; an evaluation the source does without counts as its positive."""
        q, k, v = values
        early = self.share < self.control.self_replace
        if self.branch == "source":
            self.kept.setdefault((layer, kind), (q, k, v))
            return q, k, v
        source = self.kept.get((layer, kind)) or self.kept[layer, 0]
        if self.branch == "target":
            self.kept[layer, kind, "target"] = q
            return (*source[:2], v) if early else (q, k, v)
        wanted = self.kept.get((layer, kind, "target"))
        wanted = self.kept[layer, 0, "target"] if wanted is None else wanted
        return (source[0] if early else wanted, *source[1:])

    def _cross(self, layer: tuple, q: Tensor, k: Tensor, v: Tensor, *, attend: Callable, heads: int,
               grid: tuple[int, int]) -> Tensor:
        words, replace = self.control.words, self.share <= self.control.cross_replace
        blended = self._is_blended(grid)
        if not (replace or blended) or (self.branch == "mutual" and not blended):
            return attend(q, k, v)
        expected = words.source.shape[1] if self.branch == "target" else None
        if expected is not None and k.shape[1] != expected:
            raise ValueError(f"attention control was made for a prompt of {expected} tokens, the model sees "
                             f"{k.shape[1]}; sample with the CONDITIONING that the attention control node gives, and a "
                             "negative of up to 75 words")
        maps = attention_maps(q, k, heads)
        if self.branch == "source":
            self.kept.setdefault(layer, maps)
            return from_maps(maps, v, heads) if replace else attend(q, k, v)
        if self.branch == "mutual":
            self.maps["edited"].append(self._seen(refined(maps, self.kept[layer, "own"], words), words.edited, grid))
            return attend(q, k, v)
        base = refined(self.kept[layer], maps, words)
        if blended:
            self.kept[layer, "own"] = maps
            self.maps["kept"].append(self._seen(base, self.control.kept, grid))
        return from_maps(base, v, heads) if replace else attend(q, k, v)

    def _is_blended(self, grid: tuple[int, int]) -> bool:
        """Whether a layer's maps say where the words are: layers of about a quarter of the latent's size, or half of a
        small one's."""
        size = min(self.size)
        return size // 4 <= min(grid) <= max(size // 4, 8) and (self.control.blend > 0.0 or self.control.keep > 0.0)

    @staticmethod
    def _seen(maps: Tensor, chosen: Tensor, grid: tuple[int, int]) -> Tensor:
        """Mean over heads (B, T, h, w) of maps (B, heads, N, T), 0 for tokens that are not chosen (B or 1, T)."""
        mean = maps.mean(1).transpose(1, 2).unflatten(2, grid)
        return mean * chosen.to(mean.device)[:, :, None, None]

    def _blended(self, found: Tensor, threshold: float) -> Tensor:
        """found, the mutual offset where edited words are seen less than the threshold, and none where kept words are;
        in the last step the mutual one where both are."""
        edited, kept = self._place("edited"), self._place("kept")
        shows = torch.zeros_like(found, dtype=torch.bool)
        if edited is not None and self.control.blend > 0.0:
            anywhere = self.control.words.edited.any(1).to(found.device)[:, None, None, None]
            shows = shows | (edited > threshold) & anywhere
            found = torch.where(shows | ~anywhere, found, self.mutual)
        if kept is not None and self.control.keep > 0.0 and bool(self.control.kept.any()):
            both = shows & (self.done == self.steps)
            found = torch.where(kept > self.control.keep, torch.where(both, self.mutual, 0.0), found)
        return found

    def _place(self, name: str) -> Tensor | None:
        """Where words are seen (B, 1, h, w), relative to where they are most: 1 there."""
        if not self.maps[name]:
            return None
        widest = max(value.shape[-1] for value in self.maps[name])
        layers = [value for value in self.maps[name] if value.shape[-1] == widest]
        seen = torch.stack(layers).mean(0).amax(1, keepdim=True)
        seen = functional.interpolate(seen, size=tuple(self.size), mode="nearest")
        return seen / seen.amax((1, 2, 3), keepdim=True).clamp(min=1e-12)


def attention_maps(q: Tensor, k: Tensor, heads: int) -> Tensor:
    """softmax(q k^T / sqrt(d)) (B, heads, N, T) in float32 of queries (B, N, C) and keys (B, T, C)."""
    q, k = (value.float().unflatten(-1, (heads, -1)).transpose(1, 2) for value in (q, k))
    return (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)


def from_maps(maps: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention (B, N, C) of maps (B, heads, N, T) on values (B, T, C)."""
    return (maps @ v.float().unflatten(-1, (heads, -1)).transpose(1, 2)).transpose(1, 2).flatten(-2).to(v.dtype)
