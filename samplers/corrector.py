"""UniC: a corrector that raises the order of a multistep plan by one without another model call."""
import math
from itertools import pairwise
from typing import NamedTuple

import torch

from .exponential import exponential_moment
from .linear import Step, Update
from .process import VE, Process, counted_in
from .transfer import ddim, eps_of, first_order

VARIANTS = ("bh2", "bh1", "vary_coeff")


class Form(NamedTuple):
    """Differences in the data prediction or in the noise prediction, and how a single one is weighted."""
    predicts_noise: bool
    variant: str
    process: Process

    def update(self, lams: list[float], shares: list[float], sigma: float, sigma_next: float, *,
               has_end: bool = False) -> Update:
        """A step from sigma with the values m_0 and those at `shares` of it, m at its end first if has_end.

        The weights w_k of (m_k - m_0) solve sum_k w_k share_k^n = W_n for n = 1, 2, ..., W_n the integrals of
        exponential_moment. A single difference takes B / (2 share) instead, B = h (bh1) or 1 - exp(-h) (bh2).
        """
        h = lams[1] - lams[0]
        z = -h if self.predicts_noise else h
        scale = sigma_next if self.predicts_noise else self.process.alpha(sigma_next)
        weights = [scale * weight for weight in self._weights(z, shares)]
        if self.predicts_noise:
            x_coef, d_coef, base = first_order(self.process, sigma, sigma_next)
        else:
            (x_coef, base), d_coef = ddim(self.process, sigma, sigma_next), 0.0
        coefs = [*weights[:has_end], base - math.fsum(weights), *weights[has_end:]]
        return Update(x_coef, (d_coef, *coefs) if self.predicts_noise else tuple(coefs))

    def _weights(self, z: float, shares: list[float]) -> list[float]:
        if len(shares) == 1 and self.variant != "vary_coeff":
            return [(z if self.variant == "bh1" else -math.expm1(-z)) / (2.0 * shares[0])]
        if not shares:
            return []
        powers = range(1, len(shares) + 1)
        conditions = torch.tensor([[share ** n for share in shares] for n in powers], dtype=torch.float64)
        moments = torch.tensor([exponential_moment(n, z) for n in powers], dtype=torch.float64)
        return torch.linalg.solve(conditions, moments).tolist()

    def keep(self, sigma: float) -> tuple[Update, ...] | None:
        return (eps_of(self.process, sigma),) if self.predicts_noise else None


def past_shares(lams: list[float], i: int, count: int) -> list[float]:
    """Where the `count` nodes before node i lie, in units of the step after it: negative, the newest first."""
    h = lams[i + 1] - lams[i]
    return [(lam - lams[i]) / h for lam in lams[:i][::-1][:count] if math.isfinite(lam)]


def add_corrector(steps: list[Step], *, order: int = 2, variant: str = "bh2", uncorrected: int = 0,
                  orders: list[int] | None = None, lambda_mode: str = "log_snr",
                  process: Process = VE) -> list[Step]:
    """The same steps, each redone by UniC of `order` once the model has been called at its end.

    That call is the one the next step needs anyway: NFE stays. A plan of order p becomes one of order
    min(p, order) + 1. The last step, steps to sigma = 0 and the first `uncorrected` ones stay as they are.
    A flow's step from sigma = 1, infinitely long in log-SNR, takes the mean of its two predictions, bh2's limit.
    orders: one for each step in place of `order`. lambda_mode: see counted_in; the sampler's own.
    Raises ValueError for plans that add noise or call the model inside a step.
    Source: Zhao et al. 2023, arXiv 2302.04867, algorithm 1 and section 3.
    """
    check(order, variant)
    if any(step.stages or step.is_noisy or step.correct for step in steps):
        raise ValueError("UniC corrects samplers with one model call a step, no added noise and no corrector of their "
                         "own; connect another, or set its eta to 0")
    sigmas = [step.sigma for step in steps] + [steps[-1].sigma_next]
    process = counted_in(process, sigmas, lambda_mode)
    predicts_noise = any(step.keep for step in steps)
    process = _process_of(steps, process) if predicts_noise else process
    form, lams = Form(predicts_noise, variant, process), process.lams(sigmas)
    corrected = list(steps)
    last = len(steps) - 1 - (sigmas[-1] == 0.0)
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas[:last + 1])):
        if i >= uncorrected and lams[i] == -math.inf and not predicts_noise:
            half = process.alpha(sigma_next) / 2.0
            corrected[i] = steps[i]._replace(correct=Update(sigma_next / sigma, (half, half)))
        elif i >= uncorrected and math.isfinite(lams[i]):
            used = orders[i] if orders else order
            shares = [1.0, *past_shares(lams, i, used - 1)]
            update = form.update(lams[i:i + 2], shares, sigma, sigma_next, has_end=True)
            corrected[i] = steps[i]._replace(correct=update)
    return corrected


def check(order: int, variant: str) -> None:
    if order not in (1, 2, 3, 4):
        raise ValueError(f"order must be 1, 2, 3 or 4, got {order}")
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")


def _process_of(steps: list[Step], process: Process) -> Process:
    """The process in whose noise prediction a plan keeps its history."""
    for form in (process, VE):
        if all(step.keep == (eps_of(form, step.sigma),) for step in steps):
            return form
    raise ValueError("UniC knows samplers that keep predictions of the picture or of the noise; this one keeps "
                     "something else, connect another")
