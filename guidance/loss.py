"""Universal guidance: any loss on the predicted picture bends the prediction (also FreeDoM's and DPS's step sizes)."""
import math
from collections.abc import Callable

import torch
from torch import Tensor

from .gradient import gradient_at, norms, per_item

STEP_SIZES = ("universal", "freedom", "dps")


def loss_step(denoised: Tensor, gradient: Tensor, *, sigma: float, alpha: float, s_next: float, scale: float,
              step_size: str = "universal", at_denoised: bool = False, uncond: Tensor | None = None,
              loss: Tensor | None = None) -> Tensor:
    """The prediction after one step down a loss l(D), whose gradient with respect to the state x (B, ...) is given.

    With s = sigma / alpha and s' = s_next, both noise levels of a state scaled to alpha = 1:
    'universal': D - scale sigma s / sqrt(1 + s^2) grad l;
    'freedom': D - scale |D - D_uncond| grad l / |grad l|, lengths of each item, so as long as CFG's own push;
    'dps': D - scale sqrt(alpha^2 + sigma^2) sqrt(1 + s'^2) / (1 - s'^2 / s^2) grad sqrt(l): on an ancestral step the
    state of unit variance then moves by -scale grad sqrt(l), as published.
    at_denoised: the gradient is the one at D itself, no network passed; in place of the factors of 'universal' and
    'dps' comes s^2 / (1 + s^2), the variance that pictures of unit variance have left.
    loss: its values (B,), for 'dps'. uncond: for 'freedom'. A loss without slope changes nothing.
    Source: Bansal et al. 2023, arXiv 2302.07121, section 3; Yu et al. 2023, arXiv 2303.09833; Chung et al. 2023,
    arXiv 2209.14687, algorithm 1.
    """
    size = math.hypot(alpha, sigma)
    left = (sigma / size) ** 2
    if step_size == "universal":
        return denoised - (scale * left if at_denoised else scale * sigma * sigma / size) * gradient
    if step_size == "freedom":
        if uncond is None:
            raise ValueError("step_size 'freedom' is measured in CFG's own push, and at CFG 1 there is none; "
                             "raise CFG, or choose 'universal'")
        length = norms(gradient)
        return denoised - (scale * norms(denoised - uncond) / torch.where(length > 0.0, length, 1.0)) * gradient
    if step_size != "dps":
        raise ValueError(f"step_size must be one of {', '.join(STEP_SIZES)}, got {step_size!r}")
    ratio = s_next * alpha / sigma
    factor = left if at_denoised else size * math.sqrt(1.0 + s_next ** 2) / (1.0 - ratio ** 2)
    root = per_item(loss, gradient).clamp(min=0.0).sqrt()
    return denoised - scale * factor * gradient / torch.where(root > 0.0, 2.0 * root, torch.inf)


def backward_guidance(loss: Callable[[Tensor], Tensor], denoised: Tensor, *, steps: int, rate: float = 0.1) -> Tensor:
    """D + dz, with dz after `steps` of Adam at `rate` down loss(D + dz) (B,), from 0; its entries each on their own.

    Source: Bansal et al. 2023, arXiv 2302.07121, section 3, backward guidance, with Adam for its gradient steps.
    """
    shift, mean, square = (torch.zeros_like(denoised) for _ in range(3))
    for n in range(1, steps + 1):
        gradient, _ = gradient_at(loss, denoised + shift)
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient.square()
        spread = (square / (1.0 - 0.999 ** n)).sqrt()
        shift = shift - rate * (mean / (1.0 - 0.9 ** n)) / (spread + 1e-12)
    return denoised + shift
