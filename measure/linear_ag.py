"""LinearAG's weights and policy, fitted to a model on one schedule."""
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..guidance.linear_ag import CHOICES, LinearAG, estimated, paper_policy, slope
from .progress import Progress

POLICIES = ("paper", "search")


@torch.no_grad()
def fit_linear_ag(predict: Callable, x: Tensor, sigmas: list[float], *, scale: float, ridge: float = 1e-6,
                  policy: str = "paper", tolerance: float = 0.05, state: dict[str, Tensor] | None = None
                  ) -> Iterator[Progress]:
    """Runs of Euler steps under full guidance, the least-squares weights of what they show, and the policy.

    predict(x (B, ...), sigma: float) -> (cond, uncond) denoised. x at sigmas[0], B some dozens. Slopes
    (x - D) / sigma of the unconditional prediction are regressed at every step on all conditional ones so far and all
    unconditional ones before. ridge: share of the mean square added to the normal equations. policy: 'paper', see
    paper_policy; 'search' goes from the last step backwards and takes at each the cheapest of 'cond', 'estimate' and
    'both' that leaves the final pictures within `tolerance` of full guidance, as a share of their root mean square.
    A Progress after each step; linear_ag_coefs makes the last one's state the result. Cost: linear_ag_cost.
    Source: Castillo et al. 2023, arXiv 2312.12487, section 5; the search is ours, theirs is by gradients.
    """
    if policy not in POLICIES:
        raise ValueError(f"policy must be one of {', '.join(POLICIES)}, got {policy!r}")
    levels, total = _pairs(sigmas), linear_ag_cost(sigmas, policy=policy)
    states, conds, unconds, rows = [], [], [], []
    if state is not None and "conds" in state:
        states, conds, unconds = ([*state[name].to(x)] for name in ("states", "conds", "unconds"))
        rows = [*state["weights"]]
    for i, (sigma, _) in enumerate(levels):
        if i < len(conds):
            continue
        at = x if i == 0 else _step(states[-1], conds[-1], unconds[-1], levels[i - 1], scale)
        cond, uncond = predict(at, sigma)
        states.append(at)
        conds.append(slope(cond, at, _level(sigma)))
        unconds.append(slope(uncond, at, _level(sigma)))
        rows.append(_weights([*conds, *unconds[:-1]], unconds[-1], ridge, 2 * len(levels)))
        yield Progress(i + 1, total, _kept(states, conds, unconds, rows), cond)
    choices = [CHOICES.index(choice) for choice in paper_policy(len(levels))]
    done = len(levels)
    if policy == "search":
        final = _step(states[-1], conds[-1], unconds[-1], levels[-1], scale)
        coefs = _coefs(rows, sigmas, ["both"] * len(levels))
        choices = [0] * len(levels)
        found = state["found"].tolist() if state is not None and "found" in state else []
        for i in reversed(range(len(levels))):
            if len(levels) - 1 - i < len(found):
                choices[i] = int(found[len(levels) - 1 - i])
                continue
            choices[i] = _cheapest(predict, i, choices, states=states, conds=conds, unconds=unconds, coefs=coefs,
                                   scale=scale, final=final, tolerance=tolerance)
            found.append(choices[i])
            done += 2 * (len(levels) - i)
            yield Progress(done, total, {**_kept(states, conds, unconds, rows), "found": torch.tensor(found)}, None)
    yield Progress(total, total, {"weights": torch.stack(rows), "policy": torch.tensor(choices)})


def linear_ag_cost(sigmas: list[float], *, policy: str = "paper") -> int:
    """Guided model calls of fit_linear_ag, on the whole batch."""
    steps = len(sigmas) - 1
    return steps + (steps * (steps + 1) if policy == "search" else 0)


def linear_ag_coefs(state: dict[str, Tensor], sigmas: list[float], about: dict) -> LinearAG:
    """What the sampler's rule takes, of the last state of fit_linear_ag."""
    return _coefs([*state["weights"]], sigmas, [CHOICES[int(i)] for i in state["policy"]], about)


def _coefs(rows: list[Tensor], sigmas: list[float], policy: list[str], about: dict | None = None) -> LinearAG:
    """Rows hold the weights of conditional slopes 0 to i, then those of unconditional ones 0 to i - 1."""
    lists = [row.tolist() for row in rows]
    return LinearAG(tuple(sigmas), tuple(tuple(row[:i + 1]) for i, row in enumerate(lists)),
                    tuple(tuple(row[i + 1:2 * i + 1]) for i, row in enumerate(lists)), tuple(policy), about or {})


def _pairs(sigmas: list[float]) -> list[tuple[float, float]]:
    if len(sigmas) < 3 or not all(0.0 <= low < high < math.inf for high, low in zip(sigmas, sigmas[1:])):
        raise ValueError(f"LinearAG needs a falling schedule of at least 2 steps, none below 0, got {sigmas[:8]}")
    return [*zip(sigmas, sigmas[1:])]


def _level(sigma: float) -> Tensor:
    return torch.tensor(sigma, dtype=torch.float64)


def _step(x: Tensor, cond: Tensor, uncond: Tensor, pair: tuple[float, float], scale: float) -> Tensor:
    """An Euler step along the guided slope."""
    sigma, sigma_next = pair
    return x + (sigma_next - sigma) * (uncond + scale * (cond - uncond))


def _weights(terms: list[Tensor], wanted: Tensor, ridge: float, width: int) -> Tensor:
    """The weights of terms nearest to wanted in the sum of squares, float64, followed by zeros up to `width`.

    Combinations of terms that are 0 up to rounding get no weight.
    """
    matrix = torch.stack([term.flatten().cpu().double() for term in terms])
    values, vectors = torch.linalg.eigh(matrix @ matrix.T)
    share = vectors.T @ (matrix @ wanted.flatten().cpu().double())
    real = values > 1e-13 * values[-1]
    found = vectors @ torch.where(real, share / (values + ridge * values.mean()).where(real, 1.0), 0.0)
    return torch.nn.functional.pad(found, (0, width - len(found)))


def _kept(states: list[Tensor], conds: list[Tensor], unconds: list[Tensor], rows: list[Tensor]) -> dict[str, Tensor]:
    return {"states": torch.stack(states), "conds": torch.stack(conds), "unconds": torch.stack(unconds),
            "weights": torch.stack(rows)}


def _cheapest(predict: Callable, start: int, choices: list[int], *, states: list[Tensor], conds: list[Tensor],
              unconds: list[Tensor], coefs: LinearAG, scale: float, final: Tensor, tolerance: float) -> int:
    """The cheapest choice of step `start` under the choices already made of later ones."""
    for choice in ("cond", "estimate"):
        tried = [CHOICES[i] for i in choices]
        tried[start] = choice
        x, seen, given = states[start], conds[:start], unconds[:start]
        for i in range(start, len(tried)):
            sigma, at = coefs.sigmas[i], _level(coefs.sigmas[i])
            cond, uncond = (conds[i], unconds[i]) if i == start else (
                slope(denoised, x, at) for denoised in predict(x, sigma))
            seen = [*seen, cond]
            given = [*given, uncond if tried[i] == "both" else estimated(seen, given, coefs)]
            x = _step(x, cond, cond if tried[i] == "cond" else given[-1], (sigma, coefs.sigmas[i + 1]), scale)
        if (x - final).square().mean().sqrt() <= tolerance * final.square().mean().sqrt():
            return CHOICES.index(choice)
    return CHOICES.index("both")


