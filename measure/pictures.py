"""What a model makes of given pictures, noised: how well they come back, and how a classifier reads what comes back."""
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..samplers.noise import step_noise
from ..samplers.process import Process
from .progress import Progress


def measure_scores(denoise: Callable, pictures: Tensor, *, sigma: float, repeats: int, process: Process, distance,
                   seed: int = 0, state: dict[str, Tensor] | None = None) -> Iterator[Progress]:
    """state["scores"] (N,): the mean over `repeats` noises of distance(pictures, D), pictures (N, ...) noised to sigma.

    An item's noises depend on the item and the seed alone. denoise(x, sigma) -> D; distance(a, b) -> (N,).
    Source: Um et al. 2023, arXiv 2301.12334, section 4.
    """
    done, total = (int(state["done"]), state["total"]) if state else (0, torch.zeros(len(pictures)))
    for n in range(done, repeats):
        noise = step_noise(pictures, seed, f"scores/{n}")(sigma, 0.0)
        denoised = denoise(process.alpha(sigma) * pictures + sigma * noise, sigma)
        total = total + distance(pictures, denoised).float().cpu()
        yield Progress((n + 1) * len(pictures), repeats * len(pictures),
                       {"total": total, "done": torch.tensor(n + 1), "scores": total / (n + 1)}, denoised)


def measure_logits(denoise: Callable, pictures: Tensor, levels: list[float], *, process: Process, logits,
                   seed: int = 0, state: dict[str, Tensor] | None = None) -> Iterator[Progress]:
    """state["logits"] (levels, N, K): what logits(x, D, sigma) (N, K) says at each level of pictures noised to it."""
    found = list(state["logits"]) if state else []
    for sigma in levels[len(found):]:
        noise = step_noise(pictures, seed, f"logits/{sigma:.9g}")(sigma, 0.0)
        x = process.alpha(sigma) * pictures + sigma * noise
        denoised = denoise(x, sigma)
        found.append(logits(x, denoised, sigma).float().cpu())
        yield Progress(len(found) * len(pictures), len(levels) * len(pictures), {"logits": torch.stack(found)},
                       denoised)
