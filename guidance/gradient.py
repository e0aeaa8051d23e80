"""Gradients for guidance rules: of a loss at a prediction, and drawn back through the network to the state."""
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..samplers.process import Process


def gradient_at(loss: Callable[[Tensor], Tensor], denoised: Tensor) -> tuple[Tensor, Tensor]:
    """(gradient (B, ...), values (B,)) of loss(denoised) (B,), each item's own; works inside inference mode."""
    with torch.inference_mode(False), torch.enable_grad():
        at = denoised.detach().clone().requires_grad_()
        values = loss(at)
        if values.shape != (len(at),):
            raise ValueError(f"a loss must give one number for each of {len(at)} pictures, got {tuple(values.shape)}")
        if not values.requires_grad:
            return torch.zeros_like(at), values
        found, = torch.autograd.grad(values.sum(), at)
    return found.detach(), values.detach()


def pull_back(predict: Callable[[Tensor], Tensor], x: Tensor, direction: Tensor) -> Tensor:
    """J^T v for v = direction and J = d predict(x) / dx, all (B, ...): one call with gradients, items never mix.

    v goes through the network at rms 1 for each item, so that half precision neither loses nor bursts it.
    """
    with torch.inference_mode(False), torch.enable_grad():
        at = x.detach().clone().requires_grad_()
        size = _rms(direction.detach().clone())
        unit = direction / torch.where(size > 0.0, size, 1.0)
        found, = torch.autograd.grad(predict(at), at, unit)
    return found.detach() * size


def pull_back_guided(predict: Callable[[str, Tensor], Tensor], x: Tensor, direction: Tensor, *,
                     weights: dict[str, float]) -> Tensor:
    """pull_back through sum_k weights[k] predict(k, x), one kind after the other: memory of one call."""
    return sum(weight * pull_back(lambda at, kind=kind: predict(kind, at), x, direction)
               for kind, weight in weights.items() if weight)


def guided_weights(scale: float, *, through: str, guided: bool) -> dict[str, float]:
    """Weights of 'cond' and 'uncond' in the prediction to differentiate: CFG's, or cond alone.

    guided: whether uncond is evaluated at all.
    """
    return {"cond": scale, "uncond": 1.0 - scale} if guided and through == "network" else {"cond": 1.0}


def per_item(value: Tensor, like: Tensor) -> Tensor:
    """Values (B,) shaped to multiply like (B, ...)."""
    return value.reshape(-1, *[1] * (like.ndim - 1))


def norms(value: Tensor) -> Tensor:
    """The length of each item, (B, 1, ...), in float32 at least."""
    exact = value if value.dtype == torch.float64 else value.float()
    return torch.linalg.vector_norm(exact, dim=tuple(range(1, value.ndim)), keepdim=True)


def _rms(value: Tensor) -> Tensor:
    return norms(value) / math.sqrt(value[0].numel())


class Place(NamedTuple):
    """Where in a schedule a model call is: step i of `levels`, EDM noise levels s = sigma / alpha, falling."""
    i: int
    levels: list[float]

    @property
    def s(self) -> float:
        return self.levels[self.i]

    @property
    def s_next(self) -> float:
        return self.levels[self.i + 1]

    @property
    def steps(self) -> int:
        return len(self.levels) - 1

    @property
    def d_coef(self) -> float:
        """What an ancestral step (eta = 1) multiplies D with: 1 - s'^2 / s^2."""
        return 1.0 - (self.s_next / self.s) ** 2

    @property
    def variance(self) -> float:
        """Sigma_t, the DDPM posterior variance, of the state scaled to unit variance."""
        return self.s_next ** 2 / (1.0 + self.s_next ** 2) * self.d_coef


def edm_level(process: Process, sigma: float) -> float:
    """sigma / alpha: the noise level of a state scaled to alpha = 1; inf where alpha is 0."""
    alpha = process.alpha(sigma)
    return sigma / alpha if alpha > 0.0 else math.inf


def place_in(sigmas: list[float], sigma: float, process: Process) -> Place | None:
    """The place of a call at sigma in a run over sigmas (falling): between two levels it belongs to the step to the
    next lower one, with sigma as its start. None below the last."""
    i = sum(level > sigma * (1.0 + 1e-6) for level in sigmas)
    at = i < len(sigmas) and sigmas[i] >= sigma * (1.0 - 1e-6)
    rest = sigmas[i + 1:] if at else sigmas[i:]
    if not rest or sigma <= 0.0:
        return None
    levels = [*sigmas[:i], sigma, *rest] if at else [*sigmas[:max(i - 1, 0)], sigma, *rest]
    return Place(i if at else max(i - 1, 0), [edm_level(process, level) for level in levels])
