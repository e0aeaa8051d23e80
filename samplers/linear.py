"""The loop of every solver whose step is linear in the state, the predictions and the noise."""
from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor


class Update(NamedTuple):
    """x_new = x_coef * x + sum_j d_coefs[j] * D_j + noise_coef * noise, with D_0 the newest prediction."""
    x_coef: float
    d_coefs: tuple[float, ...]
    noise_coef: float = 0.0

    def __call__(self, x: Tensor, history, noise: Tensor | None = None) -> Tensor:
        x_new = self.x_coef * x
        for coef, denoised in zip(self.d_coefs, history):
            x_new.add_(denoised, alpha=coef)
        return x_new if noise is None else x_new.add_(noise, alpha=self.noise_coef)


class Step(NamedTuple):
    """One step, all its numbers known before the run."""
    sigma: float
    sigma_next: float
    predict: Update
    stages: tuple[tuple[float, Update], ...] = ()  # (sigma, update) of each further model call inside the step
    correct: Update | None = None  # the same step redone once D at sigma_next is known

    @property
    def updates(self) -> tuple[Update, ...]:
        """Every update of the step, predictor first."""
        corrector = () if self.correct is None else (self.correct,)
        return (self.predict, *corrector, *(update for _, update in self.stages))


@torch.no_grad()
def run(model, x: Tensor, steps: list[Step], *, noise_sampler=None, callback=None) -> Tensor:
    """Carries x (B, ...) through a plan; reads nothing back from the device, leaves x itself untouched.

    model(x, sigma: float) -> denoised. noise_sampler(sigma, sigma_next) -> unit noise shaped as x.
    callback(i, x, denoised, sigma) after the first model call of step i.
    """
    if noise_sampler is None and any(step.predict.noise_coef for step in steps):
        raise ValueError("this plan adds noise but noise_sampler is None; pass one, or plan with eta=0")
    updates = [update for step in steps for update in step.updates]
    history = deque(maxlen=max((len(update.d_coefs) for update in updates), default=1))  # newest first
    x_start = noise = correct = None
    for i, step in enumerate(steps):
        denoised = model(x, step.sigma)
        history.appendleft(denoised)
        if correct is not None:
            x = correct(x_start, history, noise)
        if callback is not None:
            callback(i, x, denoised, step.sigma)
        for sigma, update in step.stages:
            history.appendleft(model(update(x, history), sigma))
        noise = noise_sampler(step.sigma, step.sigma_next) if step.predict.noise_coef else None
        x_start, correct = x, step.correct
        x = step.predict(x, history, noise)
    return x
