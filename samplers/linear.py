"""The loop of every solver whose step is linear in the state, the predictions and the noise."""
from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor


class Update(NamedTuple):
    """x_new = x_coef * x + sum_j d_coefs[j] * values[j] + noise_coef * noise, the newest value first."""
    x_coef: float
    d_coefs: tuple[float, ...] = ()
    noise_coef: float = 0.0

    def __call__(self, x: Tensor, values, noise: Tensor | None = None) -> Tensor:
        x_new = self.x_coef * x
        for coef, value in zip(self.d_coefs, values):
            if coef:
                x_new.add_(value, alpha=coef)
        return x_new if noise is None else x_new.add_(noise, alpha=self.noise_coef)


class Stage(NamedTuple):
    """A further model call inside a step: at `sigma`, on the state that `update` makes of the step's own state."""
    sigma: float
    update: Update
    keep: tuple[Update, ...] | None = None


class Step(NamedTuple):
    """One step, all its numbers known before the run.

    The values that updates sum are the predictions D so far, newest first. Where keep is given, a model call leaves
    those combinations of its state, its D and earlier values in the history instead of D, and updates see D in front
    of the history. before: what happens to the state ahead of the first model call, fresh noise included.
    """
    sigma: float
    sigma_next: float
    predict: Update
    stages: tuple[Stage, ...] = ()
    correct: Update | None = None  # the same step redone once D at sigma_next is known
    keep: tuple[Update, ...] | None = None
    before: Update | None = None

    @property
    def updates(self) -> tuple[Update, ...]:
        """Every update of the step, predictor first."""
        kept = [update for call in (self, *self.stages) for update in call.keep or ()]
        others = (self.correct, self.before, *(stage.update for stage in self.stages), *kept)
        return (self.predict, *(update for update in others if update is not None))

    @property
    def is_noisy(self) -> bool:
        return any(update.noise_coef for update in self.updates)


@torch.no_grad()
def run(model, x: Tensor, steps: list[Step], *, noise_sampler=None, callback=None) -> Tensor:
    """Carries x (B, ...) through a plan; reads nothing back from the device, leaves x itself untouched.

    model(x, sigma: float) -> denoised. noise_sampler(sigma, sigma_next) -> unit noise shaped as x.
    callback(i, x, denoised, sigma) after the first model call of step i.
    """
    if noise_sampler is None and any(step.is_noisy for step in steps):
        raise ValueError("this plan adds noise but noise_sampler is None; pass one, or plan with eta=0")
    updates = [update for step in steps for update in step.updates]
    history = deque(maxlen=max((len(update.d_coefs) for update in updates), default=1))

    def noise_of(update: Update, step: Step) -> Tensor | None:
        return noise_sampler(step.sigma, step.sigma_next) if update.noise_coef else None

    x_start = noise = correct = None
    for i, step in enumerate(steps):
        if step.before is not None:
            x = step.before(x, (), noise_of(step.before, step))
        denoised = model(x, step.sigma)
        values = _remember(history, x, denoised, step.keep)
        if correct is not None:
            x = correct(x_start, values, noise)
        if callback is not None:
            callback(i, x, denoised, step.sigma)
        for stage in step.stages:
            inner = stage.update(x, values, noise_of(stage.update, step))
            values = _remember(history, inner, model(inner, stage.sigma), stage.keep)
        noise = noise_of(step.predict, step)
        x_start, correct = x, step.correct
        x = step.predict(x, values, noise)
    return x


def _remember(history: deque, x: Tensor, denoised: Tensor, keep: tuple[Update, ...] | None):
    """Puts a model call into the history; gives the values that updates see next."""
    if keep is None:
        history.appendleft(denoised)
        return history
    for update in keep:
        history.appendleft(update(x, (denoised, *history)))
    return (denoised, *history)
