"""Adapters that teach a network what CFG would predict, in a single evaluation (adapter guidance distillation)."""
import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..measure.progress import Progress
from ..samplers.process import VE, Process
from ..samplers.transfer import ddim

FREQUENCIES = 128
BESIDE = ("iterations", "losses")  # of the state of distill, beside the weights


class ScalarEncoder(nn.Module):
    """A number (B,) as a token (B, hidden): random Fourier features, four layers, a norm."""

    def __init__(self, hidden: int):
        super().__init__()
        self.register_buffer("frequencies", torch.randn(FREQUENCIES))
        self.register_buffer("phases", torch.rand(FREQUENCIES))
        widths = [FREQUENCIES, *[hidden] * 4]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))
        self.norm = nn.LayerNorm(hidden)

    def forward(self, value: Tensor) -> Tensor:
        out = torch.cos(2.0 * math.pi * (value[:, None] * self.frequencies + self.phases))
        for layer in self.layers[:-1]:
            out = functional.relu(layer(out))
        return self.norm(self.layers[-1](out))


class Adapter(nn.Module):
    """What is added to one attention's output (B, N, C): attention of its input on the tokens; 0 untrained."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.to_q, self.to_out = nn.Linear(channels, hidden, bias=False), nn.Linear(hidden, channels)
        self.to_k, self.to_v = (nn.Linear(hidden, hidden, bias=False) for _ in range(2))
        nn.init.zeros_(self.to_out.weight)
        nn.init.zeros_(self.to_out.bias)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        seen = functional.scaled_dot_product_attention(
            *(value[:, None] for value in (self.to_q(x), self.to_k(tokens), self.to_v(tokens))))
        return self.to_out(seen[:, 0])


class Adapters(nn.Module):
    """An adapter for each of some places of a network, and what they all look at.

    channels: the width at each place, by its name. words: the width of the prompt's tokens. Tokens are the scale, the
    model's time in [0, 1] and the prompt, with sinusoidal positions. Untrained adapters add exactly 0.
    Source: Jensen & Sadat 2025, arXiv 2503.07274, section 4; its published code for the sizes.
    """

    def __init__(self, channels: dict[str, int], *, words: int, hidden: int = 320):
        super().__init__()
        self.scale, self.time = ScalarEncoder(hidden), ScalarEncoder(hidden)
        self.words = nn.Linear(words, hidden)
        self.places = nn.ModuleDict({name: Adapter(width, hidden) for name, width in channels.items()})

    def tokens(self, scale: Tensor, time: Tensor, words: Tensor) -> Tensor:
        """(B, 2 + M, hidden) of scales (B,), times (B,) and the prompt's tokens (B, M, words)."""
        both = torch.cat([self.scale(scale)[:, None], self.time(time)[:, None], self.words(words)], dim=1)
        return both + _positions(both.shape[1], both.shape[2]).to(both)

    def added(self, name: str, x: Tensor, tokens: Tensor) -> Tensor:
        """What the adapter of a place adds to the output of what got x (B, N, C), in x's precision."""
        return self.places[name](x.float(), tokens).to(x.dtype)


def _positions(count: int, width: int) -> Tensor:
    """Sines and cosines (count, width) of the places 0, 1, ..."""
    rates = torch.exp(-math.log(10000.0) * torch.arange(0, width, 2, dtype=torch.float32) / width)
    angles = torch.arange(count, dtype=torch.float32)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]


@torch.no_grad()
def trajectories(model: Callable, x: Tensor, sigmas: list[float], *, process: Process = VE,
                 state: dict[str, Tensor] | None = None) -> Iterator[Progress]:
    """DDIM from x (B, ...) down the sigmas: state["x"] and state["denoised"] (steps, B, ...), on the CPU, as it goes.

    model(x, sigma: float) -> D, guided. A Progress after each step; the same call with its state goes on behind it.
    """
    seen, found = ([] if state is None else list(state[name]) for name in ("x", "denoised"))
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        if i >= len(found):
            denoised = model(x, sigma)
            seen.append(x.float().cpu())
            found.append(denoised.float().cpu())
            yield Progress(i + 1, len(sigmas) - 1, {"x": torch.stack(seen), "denoised": torch.stack(found)}, denoised)
        x_coef, d_coef = ddim(process, sigma, sigma_next)
        x = x_coef * seen[i].to(x) + d_coef * found[i].to(x)
    if state is not None and len(state["x"]) == len(sigmas) - 1:
        yield Progress(len(sigmas) - 1, len(sigmas) - 1, state)


def distill(model: Callable, adapters: Adapters, taught: dict[str, Tensor], *, iterations: int, picks: int = 8,
            rate: float = 1e-4, warm_up: int = 100, seed: int = 0,
            state: dict[str, Tensor] | None = None) -> Iterator[Progress]:
    """Trains adapters until one evaluation says what CFG said; its last state holds their weights.

    model(x, sigma: float, scale: float, run: int) -> D of the network with the adapters, gradients on. taught: "x",
    "denoised" (runs, steps, B, ...), "scales" (runs,), "sigmas" (steps,). Every iteration takes `picks` runs and steps
    by chance; the loss is the mean square of (D - guided D) / sigma, the prediction's own error. AdamW, a linear
    warm-up, then a cosine down to 0. state["losses"] (iterations,) and state["iterations"] come beside the weights.
    Source: Jensen & Sadat 2025, arXiv 2503.07274, section 4.
    """
    begun = 0 if state is None else int(state["iterations"])
    if state is not None:
        adapters.load_state_dict({name: value for name, value in state.items() if name not in BESIDE})
    optimizer = torch.optim.AdamW(adapters.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(seed + begun)
    losses = [] if state is None else state["losses"].tolist()
    runs, steps = taught["x"].shape[:2]

    def kept(count: int) -> dict[str, Tensor]:
        weights = {name: value.detach().cpu().clone() for name, value in adapters.state_dict().items()}
        return {**weights, "iterations": torch.tensor(count), "losses": torch.tensor(losses)}

    for i in range(begun, iterations):
        share = min((i + 1) / max(warm_up, 1), 0.5 + 0.5 * math.cos(math.pi * i / iterations))
        for group in optimizer.param_groups:
            group["lr"] = rate * share
        losses.append(_lesson(model, taught, picks, (runs, steps), generator))
        optimizer.step()
        optimizer.zero_grad()
        if (i + 1) % max(iterations // 200, 1) == 0 or i + 1 == iterations:
            yield Progress((i + 1) * picks, iterations * picks, kept(i + 1), losses=tuple(losses))
    if begun >= iterations:
        yield Progress(iterations * picks, iterations * picks, state)


@torch.enable_grad()
def _lesson(model: Callable, taught: dict[str, Tensor], picks: int, shape: tuple[int, int],
            generator: torch.Generator) -> float:
    """Leaves gradients of the mean loss of some runs and steps; returns it."""
    total = 0.0
    for _ in range(picks):
        run, step = (int(torch.randint(count, (), generator=generator)) for count in shape)
        sigma = float(taught["sigmas"][step])
        denoised = model(taught["x"][run, step], sigma, float(taught["scales"][run]), run)
        loss = ((denoised - taught["denoised"][run, step].to(denoised)) / sigma).square().mean() / picks
        loss.backward()
        total += float(loss.detach())
    return total
