"""Whole timesteps spread over a model's table of levels, as diffusers spreads them."""
import torch
from torch import Tensor

SPACINGS = ("trailing", "leading", "linspace", "linspace_fractional")


def spaced_timesteps(count: int, steps: int, spacing: str = "trailing", offset: int = 1) -> list[float]:
    """Falling places in a table of `count` levels, `steps` of them.

    'trailing': round(count - i count / steps) - 1, from the highest level on. 'leading': i (count // steps) + offset,
    as Stable Diffusion was published: the highest levels are left out, all but the lowest one at a single step.
    'linspace': even from highest to lowest, rounded; 'linspace_fractional': not rounded.
    Source: Lin et al. 2023, arXiv 2305.08891, table 2; diffusers 0.35.1.
    """
    if spacing not in SPACINGS:
        raise ValueError(f"spacing must be one of {', '.join(SPACINGS)}, got {spacing!r}")
    if not 1 <= steps <= count:
        raise ValueError(f"steps must lie from 1 to the table's {count} levels, got {steps}")
    if spacing == "trailing":
        stride = (count - count / steps) - count  # rounded as NumPy's arange rounds it, which tells ties apart
        return [round(count + i * stride) - 1 for i in range(steps)]
    if spacing == "leading":
        top = (steps - 1) * (count // steps) + offset
        if not 0 <= offset <= top < count:
            raise ValueError(f"leading spacing of {steps} steps with offset {offset} ends at place {top} of {count}; "
                             "lower the offset")
        return [i * (count // steps) + offset for i in reversed(range(steps))]
    stride = (count - 1) / max(steps - 1, 1)
    even = [float(count - 1), *(i * stride for i in reversed(range(steps - 1)))]
    return even if spacing == "linspace_fractional" else [round(place) for place in even]


def spaced_sigmas(levels, steps: int = 10, spacing: str = "trailing", offset: int = 1) -> Tensor:
    """float64 levels at spaced_timesteps of a model's table, and 0; fractional places by straight lines in sigma.

    levels: an object with sigmas, a rising table.
    """
    table = levels.sigmas.double().cpu()
    places = torch.tensor(spaced_timesteps(len(table), steps, spacing, offset), dtype=torch.float64)
    low = places.floor().long()
    sigmas = torch.lerp(table[low], table[(low + 1).clamp(max=len(table) - 1)], places - low)
    return torch.cat([sigmas, torch.zeros(1, dtype=torch.float64)])
