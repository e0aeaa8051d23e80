"""Recurrence: each step of a sampler is taken several times, its end noised back up, so that guidance can settle."""
import math

from ..samplers.linear import Step, Update
from ..samplers.process import VE, Process
from .gradient import edm_level


def recur(steps: list[Step], *, recurrence: int = 2, sigma_hi: float = 1000.0, sigma_lo: float = 0.0,
          process: Process = VE) -> list[Step]:
    """Every step from a level in [sigma_lo, sigma_hi] taken `recurrence` times; 1 is the plan as it is.

    Between two times the state goes back up: x = alpha (x' / alpha' + sqrt(s^2 - s'^2) noise), with s = sigma / alpha.
    sigma_hi, sigma_lo: levels s of a state scaled to alpha = 1. A step from pure noise (s infinite) is taken once.
    NFE: recurrence times that of the repeated steps. Raises ValueError for plans that look at earlier steps.
    Source: Bansal et al. 2023, arXiv 2302.07121, algorithm 1; Lugmayr et al. 2022, arXiv 2201.09865.
    """
    if recurrence < 1:
        raise ValueError(f"recurrence must be at least 1, got {recurrence}")
    if recurrence > 1:
        _require_single(steps)
    out = []
    for step in steps:
        s, s_next = edm_level(process, step.sigma), edm_level(process, step.sigma_next)
        out.append(step)
        if sigma_lo <= s <= sigma_hi and math.isfinite(s):
            alpha = process.alpha(step.sigma)
            back = Update(alpha / process.alpha(step.sigma_next), (), alpha * math.sqrt(s * s - s_next * s_next))
            out += [step._replace(before=back)] * (recurrence - 1)
    return out


def _require_single(steps: list[Step]) -> None:
    if any(step.correct or step.before or _looks_back(step) for step in steps):
        raise ValueError("recurrence takes steps again, so it needs a sampler that looks at no earlier step and redoes "
                         "none: DDIM, EDM Heun, DPM-Solver singlestep, or Exponential Adams of order 1")


def _looks_back(step: Step) -> bool:
    """Whether an update of a step uses values from before it (see linear.run for what each of them sees)."""
    own, uses = 0, []
    for call, update in zip((step, *step.stages), (*(stage.update for stage in step.stages), step.predict)):
        kept = call.keep or ()
        uses += [(each, 1 + own + i) for i, each in enumerate(kept)]
        own += len(kept) if call.keep is not None else 1
        uses.append((update, own + (call.keep is not None)))
    return any(any(update.d_coefs[known:]) for update, known in uses)
