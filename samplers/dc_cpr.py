"""DC-Solver's ratios without a search: polynomials in the guidance scale and the number of steps (CPR).

With u = step / steps, v = cfg / 12, w = steps / 50, step = 1, 2, ...:
    ratio = sum_i c_i u^i,   c_i = sum_j q_ij v^(2 - j),   q_ij = sum_k p_ijk w^(2 - k),   i to 3, j and k to 2;
the first two ratios are 1. The 36 numbers p_ijk are kept in the order [i][j][k].
Source: Zhao et al. 2024, arXiv 2409.03755, section 3.4 and the authors' code.
"""
import json
from collections.abc import Sequence
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np

from .dc_solver import DCRatios, numbers_of_text, ratios_of_text

CFGS, STEPS = (1.0, 12.0), (5, 20)  # polynomials of high degree run away outside
FREE = 2  # so many first ratios stay 1


def cpr_ratios(cfg: float, steps: int, coeffs: Sequence[float] | None = None) -> DCRatios:
    """Ratios for `steps` steps above sigma 0 at a guidance scale, for dc_order 2 (or 1).

    cfg: 1 to 12. steps: 5 to 20. coeffs: the 36 numbers, None the authors' for Stable Diffusion 2.1 (UniPC of order 2,
    bh2, even timesteps). Fits any levels, though found for one kind.
    """
    coeffs = sd21_coeffs() if coeffs is None else coeffs
    if len(coeffs) != 36:
        raise ValueError(f"cascade polynomial regression has 36 coefficients, got {len(coeffs)}")
    _check(cfg, steps)
    found = np.array([_terms(cfg, steps, step) for step in range(FREE + 1, steps + 1)]) @ np.asarray(coeffs, float)
    return DCRatios((1.0,) * FREE + tuple(found.tolist()), about={"found by": "CPR", "cfg": cfg, "steps": steps})


def fit_cpr(rows: Sequence[tuple[float, int, Sequence[float]]]) -> tuple[float, ...]:
    """The 36 coefficients by least squares from rows (cfg, steps, ratios), one row a search.

    They need at least 3 scales with at least 3 numbers of steps each, 6 steps or more among them.
    """
    for cfg, steps, ratios in rows:
        _check(cfg, steps)
        if len(ratios) != steps:
            raise ValueError(f"a search of {steps} steps has {steps} ratios, got {len(ratios)} at cfg {cfg:g}")
    points = [(cfg, steps, step, ratio) for cfg, steps, ratios in rows
              for step, ratio in enumerate(ratios, start=1) if step > FREE]
    terms = np.array([_terms(*point[:3]) for point in points]).reshape(-1, 36)
    wanted = np.array([point[3] for point in points])
    size = np.linalg.norm(terms, axis=0) + 1e-300
    coeffs, _, rank, _ = np.linalg.lstsq(terms / size, wanted, rcond=1e-11)
    if rank < 36:
        scales, counts = len({row[0] for row in rows}), len({row[1] for row in rows})
        raise ValueError(f"{len(rows)} searches with {scales} guidance scales and {counts} numbers of steps leave "
                         f"{36 - rank} of the 36 coefficients open; add searches until at least 3 scales have 3 "
                         "numbers of steps each, most of them above 5")
    return tuple((coeffs / size).tolist())


def coeffs_of_text(text: str) -> tuple[float, ...]:
    """36 numbers between commas, as Fit DC ratios gives them."""
    coeffs = numbers_of_text(text, "coefficients must be 36 numbers with commas between them")
    if len(coeffs) != 36:
        raise ValueError(f"coefficients must be 36 numbers with commas between them, got {len(coeffs)}")
    return coeffs


def rows_of_text(text: str) -> list[tuple[float, int, tuple[float, ...]]]:
    """Rows for fit_cpr from lines 'cfg, steps: ratios', such as '7.5, 5: 1, 1, 1.03, 0.74, 1.23'. Empty lines count
    for nothing."""
    rows = []
    for place, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        head, _, tail = line.partition(":")
        cfg, *steps = numbers_of_text(head, f"line {place} must begin with cfg, steps: as in '7.5, 5: 1, 1, 1.03, ...'")
        if len(steps) != 1 or steps[0] != int(steps[0]) or not tail:
            raise ValueError(f"line {place} must be cfg, steps: ratios, such as '7.5, 5: 1, 1, 1.03, 0.74, 1.23', got "
                             f"{line.strip()!r}")
        rows.append((cfg, int(steps[0]), ratios_of_text(tail).values))
    return rows


@cache
def sd21_coeffs() -> tuple[float, ...]:
    """The authors' coefficients for Stable Diffusion 2.1."""
    return tuple(json.loads((Path(__file__).parent / "dc_cpr_sd21.json").read_text())["coeffs"])


def _terms(cfg: float, steps: int, step: int) -> list[float]:
    u, v, w = step / steps, cfg / 12.0, steps / 50.0
    return [u ** i * v ** (2 - j) * w ** (2 - k) for i, j, k in product(range(4), range(3), range(3))]


def _check(cfg: float, steps: int) -> None:
    if not CFGS[0] <= cfg <= CFGS[1]:
        raise ValueError(f"cfg must lie in [{CFGS[0]:g}, {CFGS[1]:g}], got {cfg:g}; search the ratios instead")
    if not STEPS[0] <= steps <= STEPS[1]:
        raise ValueError(f"steps must lie in [{STEPS[0]}, {STEPS[1]}], got {steps}; search the ratios instead")
