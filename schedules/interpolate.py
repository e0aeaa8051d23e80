"""A schedule at another number of steps."""
import math
from itertools import pairwise

from .tables import log_interpolated


def interpolated_sigmas(sigmas: list[float], steps: int) -> list[float]:
    """steps + 1 levels read from a falling list at even places, by straight lines in log sigma.

    A last 0 stays, and so does the level before it: it is as low as the schedule's maker went, and often the lowest
    the model knows. The levels above 0 are then read at `steps` places, so that one step still leads to 0; a single
    step goes there at once. The list's own number of steps gives the list itself.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not all(math.isfinite(sigma) for sigma in sigmas) or any(low >= high for high, low in pairwise(sigmas)) or (
            min(sigmas, default=0.0) < 0.0):
        raise ValueError(f"need a schedule that falls from level to level and not below 0, got {sigmas[:8]}; sort it "
                         "and drop repeats")
    above = [sigma for sigma in sigmas if sigma > 0.0]
    if len(above) < 2 and steps > 1 or len(sigmas) < 2:
        raise ValueError(f"need two levels above 0 to read others between, got {sigmas}; take a schedule of more steps")
    if sigmas[-1] > 0.0:
        return log_interpolated(tuple(above), steps)
    return [*(log_interpolated(tuple(above), steps - 1) if steps > 1 else above[:1]), 0.0]
