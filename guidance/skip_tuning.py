"""Skip connections of a UNet made weaker or stronger (Skip-Tuning)."""

SCHEDULES = ("constant", "linear")


def skip_factors(levels: list[int], *, rho_top: float = 1.0, rho_bottom: float = 0.85) -> list[float]:
    """A factor for the skip connection of each output block, rho_bottom at the deepest up to rho_top.

    levels: what each output block counts as, rising from 0 at the deepest: its own place, or that of its resolution.
    rho_i = rho_bottom + i / k (rho_top - rho_bottom), k the last. A network of one level has rho_bottom.
    Source: Ma et al. 2024, arXiv 2402.15170, eq. 9.
    """
    last = max(levels[-1], 1)
    return [rho_bottom + level / last * (rho_top - rho_bottom) for level in levels]


def factor_at(rho: float, time: float, schedule: str = "constant") -> float:
    """The factor at a model time in [0, 1] (1 = noise): 'constant', or 'linear' to 1 where the noise ends."""
    if schedule not in SCHEDULES:
        raise ValueError(f"time_schedule must be 'constant' or 'linear', got {schedule!r}")
    return rho if schedule == "constant" else 1.0 + (rho - 1.0) * min(max(time, 0.0), 1.0)
