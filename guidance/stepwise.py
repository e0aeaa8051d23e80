"""Stepwise selection: every step is drawn several times, and the run goes on from the draw whose picture is best."""
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from ..samplers.linear import Step
from ..samplers.process import VE, Process
from .gradient import per_item

SELECTS = ("best", "random", "softmax")


def sample_stepwise_select(model, x: Tensor, sigmas: list[float], *, plan: Callable[[list[float]], list[Step]],
                           stream: str, score: Callable[[Tensor], Tensor], k: int = 2, start_step: int = 4,
                           every: int = 1, select: str = "best", temperature: float = 1.0,
                           process: Process = VE, noise_of=None, callback=None) -> Tensor:
    """The steps of a plan of which, from start_step on, each `every`-th is drawn k times from one state (B, ...).

    All k are denoised, score(D) (B,) judges them (higher is better), and the run goes on from one: the 'best', our
    greedy form; 'random', the paper's; 'softmax', by chance, a draw weighing exp(score / temperature) for scores
    scaled to spread 1 among the k. A step without noise has no candidates.
    model(x, sigma (B,)) -> D. plan(sigmas): steps with one model call each and noise, as DDIM's at eta 1, the paper's.
    noise_of(stream) -> noise_sampler(sigma, sigma_next): k draws of the plan's own `stream` for a judged step, so that
    k = 1, or a start behind the end, is the plan with its own noise. NFE: k for each judged step, 1 for others.
    Source: Liang et al. 2024, arXiv 2406.04314, algorithm 1 (there to find pairs to train on).
    """
    steps = plan(sigmas)
    _require(steps, k, select, temperature)
    noise, chance = noise_of(stream), noise_of("stepwise_select")
    history = deque(maxlen=max(len(step.predict.d_coefs) for step in steps))
    history.appendleft(model(x, x.new_full((len(x),), sigmas[0])))
    for i, step in enumerate(steps):
        if callback is not None:
            callback(i, x, history[0], step.sigma)
        judged = k > 1 and i >= start_step and (i - start_step) % every == 0 and step.is_noisy
        draws = [step.predict(x, history, noise(step.sigma, step.sigma_next) if step.is_noisy else None)
                 for _ in range(k if judged else 1)]
        if i + 1 == len(steps) and not judged:
            return draws[0]
        found = [model(draw, x.new_full((len(x),), step.sigma_next)) if step.sigma_next else draw for draw in draws]
        x, denoised = draws[0], found[0]
        if judged:
            picks = pick(torch.stack([score(each) for each in found]), select, temperature=temperature,
                         chance=lambda step=step: torch.special.ndtr(
                             chance(step.sigma, step.sigma_next).flatten(1)[:, 0].double()))
            x, denoised = chosen(draws, picks), chosen(found, picks)
        history.appendleft(denoised)
    return x


def pick(scores: Tensor, select: str, *, temperature: float = 1.0, chance=None) -> Tensor:
    """Which of k candidates each item (B,) goes on from, by scores (k, B); chance() -> (B,) uniform in [0, 1).

    Raises ValueError for NaN scores.
    """
    if torch.isnan(scores).any():
        raise ValueError("a candidate's score is not a number; check the loss and the vae")
    if select == "best":
        return scores.argmax(0)
    spread = scores.std(0, correction=0)
    weights = torch.ones_like(scores) if select == "random" else \
        ((scores - scores.amax(0)) / torch.where(spread > 0.0, spread, 1.0) / temperature).exp()
    edges = weights.cumsum(0) / weights.sum(0)
    return (edges < chance().to(edges)).sum(0).clamp(max=len(scores) - 1)


def chosen(candidates: list[Tensor], picks: Tensor) -> Tensor:
    """Item b of candidate picks[b], (B, ...)."""
    out = candidates[0]
    for j, candidate in enumerate(candidates[1:], start=1):
        out = torch.where(per_item(picks == j, out), candidate, out)
    return out


def _require(steps: list[Step], k: int, select: str, temperature: float) -> None:
    if any(step.stages or step.correct or step.keep or step.before or step.renoise or step.guided for step in steps):
        raise ValueError("stepwise selection needs a sampler that calls the model once a step and redoes none: DDIM, "
                         "Exponential Adams or DPM-Solver++ SDE of order 1")
    if k > 1 and not any(step.is_noisy for step in steps):
        raise ValueError("stepwise selection chooses between draws of noise, and this sampler adds none; raise its eta")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if select not in SELECTS:
        raise ValueError(f"select must be one of {', '.join(SELECTS)}, got {select!r}")
    if temperature <= 0.0:
        raise ValueError(f"temperature must be above 0, got {temperature}; 'best' is its limit at 0")
