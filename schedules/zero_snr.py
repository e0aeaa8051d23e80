"""Tables of levels whose last is noise alone, and timesteps spread over a table."""
import math

from torch import Tensor

TERMINAL_SIGMA = math.sqrt(1.0 / 4.8973451890853435e-08 - 1.0)  # what ComfyUI has in place of infinity, 4518.76


def zero_terminal_sigmas(sigmas: Tensor, top_sigma: float = TERMINAL_SIGMA) -> Tensor:
    """A rising table of VE levels, moved and stretched in sqrt(abar), abar = 1 / (1 + sigma^2), so that the first level
    stays and the last would have abar = 0; there stands top_sigma. A table that ends above sigma 1000 is one such
    already: its other levels stay.

    Networks that were trained so predict v: of pure noise eps says nothing.
    Source: Lin et al. 2023, arXiv 2305.08891, algorithm 1.
    """
    signal = (1.0 / (sigmas.double().square() + 1.0)).sqrt()
    if sigmas[-1] > 1000.0:
        signal[-1] = 0.0
    rescaled = ((signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])).square()
    made = ((1.0 - rescaled) / rescaled).sqrt()
    if top_sigma <= made[-2]:
        raise ValueError(f"top_sigma must lie above the level below it, {made[-2]:.4g}, got {top_sigma:.4g}; raise it")
    made[-1] = top_sigma
    return made
