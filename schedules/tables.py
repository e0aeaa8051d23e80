"""Published lists of levels, read at any number of steps."""
import math

import torch
from torch import Tensor

ENDS = ("zero", "append_zero", "sigma_min")


def table_sigmas(table: tuple[float, ...], steps: int, *, denoise: float = 1.0, end: str = "zero") -> Tensor:
    """A falling list of levels, log-linearly interpolated to `steps` steps: float64 (steps + 1,).

    denoise < 1 keeps the last round(steps * denoise) steps, of which none leave the last level alone, as in ComfyUI; 0
    gives an empty tensor.
    end: 'zero' replaces the list's last level by 0 (ComfyUI's way: the last step skips it), 'append_zero' adds a step
    from it to 0, one model call more, 'sigma_min' stops there and leaves that much noise.
    """
    if end not in ENDS:
        raise ValueError(f"end must be one of {', '.join(ENDS)}, got {end!r}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not 0.0 <= denoise <= 1.0:
        raise ValueError(f"denoise must lie in [0, 1], got {denoise}")
    if denoise == 0.0:
        return torch.zeros(0, dtype=torch.float64)
    sigmas = log_interpolated(table, steps)[-(round(steps * denoise) + 1):]
    if end == "sigma_min":
        return torch.tensor(sigmas, dtype=torch.float64)
    levels = sigmas[:-1] if end == "zero" else sigmas
    return torch.tensor([*levels, 0.0], dtype=torch.float64)


def log_interpolated(table: tuple[float, ...], steps: int) -> list[float]:
    """The table read at steps + 1 even places, piecewise linear in log sigma; its own points come out exact."""
    last = len(table) - 1
    sigmas = []
    for j in range(steps + 1):
        i, remainder = divmod(j * last, steps)
        if remainder == 0:
            sigmas.append(table[i])
            continue
        part = remainder / steps
        sigmas.append(math.exp((1.0 - part) * math.log(table[i]) + part * math.log(table[i + 1])))
    return sigmas
