"""State that guidance rules carry from step to step, whatever calls a sampler makes inside one."""
import torch
from torch import Tensor


class Carried:
    """A tensor (B, ...) carried down the levels of a run, nothing read back from the device.

    Samplers call a model several times a step, and at rising levels too. The state goes on only strictly below the
    last level where it went on; any other call starts from the state that the call there started from.
    """

    def __init__(self):
        self.sigma = self.lower = self.before = self.after = None

    def at(self, sigma: Tensor, first: Tensor) -> Tensor:
        """The state that a call at sigma (B,) starts from: `first` at the start of a run."""
        if self.before is None or self.before.shape != first.shape:
            self.sigma, self.before, self.after = torch.full_like(sigma, torch.inf), first, first
        self.lower = sigma < self.sigma
        self.sigma = torch.where(self.lower, sigma, self.sigma)
        self.before = torch.where(self._wide(first), self.after, self.before)
        return self.before

    def keep(self, state: Tensor) -> None:
        """The state after the call that at() was asked for."""
        self.after = torch.where(self._wide(state), state, self.after)

    def _wide(self, state: Tensor) -> Tensor:
        return self.lower.reshape(-1, *[1] * (state.ndim - 1))
