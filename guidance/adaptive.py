"""Adaptive Guidance: the unconditional prediction is left out once it agrees with the conditional one."""
import torch
from torch import Tensor

from ..samplers.process import FLOW, VE, Process
from .precision import in_float32

SPACES = ("auto", "x0", "eps", "velocity")


@in_float32
def agreement(cond: Tensor, uncond: Tensor, x: Tensor, sigma: Tensor, *, space: str = "auto", process: Process = VE
              ) -> Tensor:
    """Cosine (B,) of the two predictions, over all but the batch: of x_0, the noise or (x - D) / sigma; 'auto' is x_0,
    on flows the velocity. cond, uncond: denoised (B, C, ...) of the state x at sigma (B,)."""
    space = resolved(space, process)
    if space != "x0":
        alpha = 1.0 if space == "velocity" or process is VE else 1.0 - sigma.reshape(-1, *[1] * (x.ndim - 1))
        cond, uncond = x - alpha * cond, x - alpha * uncond
    one, other = cond.flatten(1), uncond.flatten(1)
    return (one * other).sum(1) / (one.norm(dim=1) * other.norm(dim=1))


def resolved(space: str, process: Process) -> str:
    """The space that 'auto' stands for."""
    if space not in SPACES:
        raise ValueError(f"space must be one of {', '.join(SPACES)}, got {space!r}")
    return ("velocity" if process is FLOW else "x0") if space == "auto" else space


def first_state(count: int, like: Tensor) -> Tensor:
    """What `decided` starts from: (count, 3), columns switched, guided steps, the last cosine."""
    return like.new_tensor([0.0, 0.0, torch.inf]).expand(count, 3).clone()


def decided(state: Tensor, cosine: Tensor, *, gamma: float = 0.991, min_steps: int = 1, space: str = "x0") -> Tensor:
    """The state after a guided step with that cosine (B,): switched (column 0 above 0) from the next step on, where
    the cosine has reached gamma.

    min_steps: so many steps are guided at least. In the spaces 'eps' and 'velocity', where pure noise agrees with
    itself from the first step on, the cosine must also have risen since the step before. gamma above 1: never.
    Source: Castillo et al. 2023, arXiv 2312.12487, section 5.
    """
    switched, steps, last = state.unbind(1)
    reached = (cosine >= gamma) & (steps + 1.0 >= min_steps)
    if space != "x0":
        reached = reached & (cosine > last)
    return torch.stack([torch.maximum(switched, reached.to(state.dtype)), steps + 1.0, cosine], 1)
