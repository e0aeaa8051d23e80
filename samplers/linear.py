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


class Renoise(NamedTuple):
    """A model call after which the state counts as x + alpha (D - D_u): D's picture under the noise of D_u, what the
    model predicts without the prompt. forget: later steps remember D_u for D."""
    alpha: float
    forget: bool = False


class Stage(NamedTuple):
    """A further model call inside a step: at `sigma`, on the state that `update` makes of the step's own state."""
    sigma: float
    update: Update
    keep: tuple[Update, ...] | None = None
    renoise: Renoise | None = None


class Step(NamedTuple):
    """One step, all its numbers known before the run.

    The values that updates sum are the predictions D so far, newest first. Where keep is given, a model call leaves
    those combinations of its state, its D and earlier values in the history instead of D, and updates see D in front
    of the history. before: what happens to the state ahead of the first model call, fresh noise included. guided: the
    model call leaves two values, in front of D what guidance made of it: D - D_u, D_u as in Renoise.
    """
    sigma: float
    sigma_next: float
    predict: Update
    stages: tuple[Stage, ...] = ()
    correct: Update | None = None  # the same step redone once D at sigma_next is known
    keep: tuple[Update, ...] | None = None
    before: Update | None = None
    renoise: Renoise | None = None
    guided: bool = False

    @property
    def updates(self) -> tuple[Update, ...]:
        """Every update of the step, predictor first."""
        kept = [update for call in (self, *self.stages) for update in call.keep or ()]
        others = (self.correct, self.before, *(stage.update for stage in self.stages), *kept)
        return (self.predict, *(update for update in others if update is not None))

    @property
    def is_noisy(self) -> bool:
        return any(update.noise_coef for update in self.updates)

    @property
    def forgets(self) -> bool:
        return self.renoise is not None and self.renoise.forget


@torch.no_grad()
def run(model, x: Tensor, steps: list[Step], *, noise_sampler=None, callback=None, unconditional=None,
        after=None) -> Tensor:
    """Carries x (B, ...) through a plan; reads nothing back from the device, leaves x itself untouched.

    model(x, sigma: float) -> denoised. noise_sampler(sigma, sigma_next) -> unit noise shaped as x.
    callback(i, x, denoised, sigma) after the first model call of step i. unconditional() -> what the model's last call
    predicts without the prompt, for plans that read it. after(x, sigma_next): what becomes of the state after each
    step, for plans that do not redo theirs.
    """
    if after is not None and any(step.correct for step in steps):
        raise ValueError("this sampler redoes its steps, so that nothing can be done to the state between them; "
                         "take the corrector off")
    _require_at_hand(steps, noise_sampler, unconditional)
    updates = [update for step in steps for update in step.updates]
    history = deque(maxlen=max((len(update.d_coefs) for update in updates), default=1))

    def noise_of(update: Update, step: Step) -> Tensor | None:
        return noise_sampler(step.sigma, step.sigma_next) if update.noise_coef else None

    x_start = noise = correct = None
    for i, step in enumerate(steps):
        if step.before is not None:
            x = step.before(x, (), noise_of(step.before, step))
        denoised = model(x, step.sigma)
        values = _remember(history, _moved(x, denoised, step.renoise, unconditional), denoised, step.keep,
                           unconditional if step.guided else None)
        if correct is not None:
            x = correct(x_start, values, noise)
        if callback is not None:
            callback(i, x, denoised, step.sigma)
        x = _moved(x, denoised, step.renoise, unconditional)
        for stage in step.stages:
            inner = stage.update(x, values, noise_of(stage.update, step))
            found = model(inner, stage.sigma)
            values = _remember(history, _moved(inner, found, stage.renoise, unconditional), found, stage.keep)
        noise = noise_of(step.predict, step)
        x_start, correct = x, step.correct
        x = step.predict(x, values, noise)
        if after is not None:
            x = after(x, step.sigma_next)
        if step.forgets:
            history[0] = unconditional()
    return x


def _require_at_hand(steps: list[Step], noise_sampler, unconditional) -> None:
    """Raises ValueError where a plan needs what run() was not given."""
    if noise_sampler is None and any(step.is_noisy for step in steps):
        raise ValueError("this plan adds noise but noise_sampler is None; pass one, or plan with eta=0")
    if unconditional is None and reads_unconditional(steps):
        raise ValueError("this sampler reads the prediction without the prompt (CFG++, or a plan learned with "
                         "guidance), which is not at hand here; take the CFG++ wrapper off or put it last, or connect "
                         "another sampler")


def reads_unconditional(steps: list[Step]) -> bool:
    """Whether run() needs what the model predicts without the prompt."""
    return any(step.renoise or step.guided for step in steps)


def run_apart(model, x: Tensor, steps: list[Step]) -> Tensor:
    """run() with a model that, where the plan reads it, gives what it predicts without the prompt too:
    model.apart(x, sigma) -> D, D - D_u."""
    if not reads_unconditional(steps):
        return run(model, x, steps)
    last = []

    def call(x: Tensor, sigma: float) -> Tensor:
        denoised, guidance = model.apart(x, sigma)
        last[:] = [denoised - guidance]
        return denoised

    return run(call, x, steps, unconditional=lambda: last[0])


def _moved(x: Tensor, denoised: Tensor, renoise: Renoise | None, unconditional) -> Tensor:
    """The state as updates see it after a model call."""
    return x if renoise is None else x + renoise.alpha * (denoised - unconditional())


def _remember(history: deque, x: Tensor, denoised: Tensor, keep: tuple[Update, ...] | None, unconditional=None):
    """Puts a model call into the history, with what guidance made of it if unconditional() is given; gives the values
    that updates see next."""
    if keep is None:
        history.appendleft(denoised)
        if unconditional is not None:
            history.appendleft(denoised - unconditional())
        return history
    for update in keep:
        history.appendleft(update(x, (denoised, *history)))
    return (denoised, *history)
