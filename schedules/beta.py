"""Levels placed by the quantiles of a Beta distribution."""
import torch
from torch import Tensor

SPACES = ("index", "sigma")
REPEATS = ("drop", "spread")


def beta_sigmas(levels, steps: int = 20, alpha: float = 0.6, beta: float = 0.6, denoise: float = 1.0,
                repeats: str = "drop", space: str = "index") -> Tensor:
    """float64 levels at the quantiles 1 - j / steps of Beta(alpha, beta) over a model's table, and 0.

    Below 1, alpha gathers levels at the low end and beta at the high end; both 1 is even.
    repeats: where several quantiles round to one place of the table, 'drop' keeps one, so that there are fewer steps
    than asked for (ComfyUI), 'spread' moves the others to the next free places. Equal levels in the table, as Stable
    Cascade has them, are always dropped.
    space: 'index' are places of the table (ComfyUI), 'sigma' runs from sigma_max to sigma_min in sigma itself
    (diffusers), at the quantiles 1 - j / (steps - 1); there is nothing to spread.
    denoise < 1 keeps the last `steps` steps of int(steps / denoise); 0 gives an empty tensor.
    levels: an object with sigmas (rising table), sigma_min, sigma_max.
    Source: Lee et al. 2024, arXiv 2407.12173; ComfyUI 0.3.64 and diffusers 0.35.1.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if alpha <= 0.0 or beta <= 0.0:
        raise ValueError(f"alpha and beta must be above 0, got {alpha:g} and {beta:g}; 0.6 is usual")
    if repeats not in REPEATS or space not in SPACES:
        raise ValueError(f"repeats must be one of {', '.join(REPEATS)} and space one of {', '.join(SPACES)}, got "
                         f"{repeats!r} and {space!r}")
    if not 0.0 <= denoise <= 1.0:
        raise ValueError(f"denoise must lie in [0, 1], got {denoise}")
    if denoise == 0.0:
        return torch.zeros(0, dtype=torch.float64)
    total = steps if denoise == 1.0 else int(steps / denoise)
    if space == "sigma":
        low, high = float(levels.sigma_min), float(levels.sigma_max)
        shares = _quantiles([1.0 - j / max(total - 1, 1) for j in range(total)], alpha, beta)
        sigmas = [low + share * (high - low) for share in shares]
    else:
        table = levels.sigmas.tolist()
        shares = _quantiles([1.0 - j / total for j in range(total)], alpha, beta)
        places = [round(share * (len(table) - 1)) for share in shares]
        sigmas = [table[place] for place in (_spread(places, len(table)) if repeats == "spread" else places)]
    return torch.tensor([*dict.fromkeys(sigmas), 0.0][-(steps + 1):], dtype=torch.float64)


def _quantiles(shares: list[float], alpha: float, beta: float) -> list[float]:
    try:
        from scipy.special import betaincinv
    except ImportError as error:
        raise ImportError("Beta schedules need SciPy; install it with: pip install 'odeon[science]'") from error
    return betaincinv(alpha, beta, shares).tolist()


def _spread(places: list[int], count: int) -> list[int]:
    """The same places made strictly falling, each moved as little as going down the list allows."""
    if len(places) > count:
        raise ValueError(f"a table of {count} levels has no {len(places)} different ones; lower steps")
    made, below = [], count
    for i, place in enumerate(places):
        below = max(min(place, below - 1), len(places) - 1 - i)
        made.append(below)
    return made
