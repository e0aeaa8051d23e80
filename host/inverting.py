"""Runs up to the noise, and the way back from what they left: what both hosts see to."""
import torch
from torch import Tensor

from ..samplers.process import FLOW, Process

FLOW_TOP = 0.9999  # where runs up to a flow's sigma 1 end: a LATENT holds state / (1 - sigma)


def upward(sigmas: Tensor, process: Process) -> Tensor:
    """The levels of a run up to the noise: those given, ended at FLOW_TOP where a flow's end at 1.

    FlipSigmas writes 0.0001 for 0, below which a second level may lie: it is left out. Raises ValueError for levels
    that do not rise.
    """
    if len(sigmas) > 2 and float(sigmas[1]) <= float(sigmas[0]) < 1.01e-4:
        sigmas = torch.cat([sigmas[:1], sigmas[2:]])
    if len(sigmas) < 2 or bool((sigmas.diff() <= 0.0).any()):
        shown = ", ".join(f"{sigma:.4g}" for sigma in sigmas[:8].tolist())
        raise ValueError(f"an inversion runs up to the noise and needs at least 2 rising sigmas, got [{shown}"
                         f"{', ...' if len(sigmas) > 8 else ''}]; put FlipSigmas between the schedule and it")
    if process is not FLOW or float(sigmas[-1]) <= FLOW_TOP:
        return sigmas
    if float(sigmas[-2]) >= FLOW_TOP:
        raise ValueError(f"a flow's last level but one must lie below {FLOW_TOP}, got {float(sigmas[-2]):.6g}; lower "
                         "the schedule's shift or its steps")
    return torch.cat([sigmas[:-1], sigmas.new_tensor([FLOW_TOP])])


def inverted_state(model, x: Tensor, levels: list[float], process: Process) -> tuple[Tensor, list[float]]:
    """(x, levels) of a run on a LATENT that an inversion up to a flow's sigma 1 left, without fresh noise: it ended at
    FLOW_TOP, which is where the way back starts. Any other run as it is.

    ComfyUI multiplies a LATENT by 1 - sigma at the start, which at 1 leaves nothing of it.
    """
    if process is not FLOW or levels[0] <= FLOW_TOP or len(levels) < 2 or levels[1] >= FLOW_TOP or bool(x.any()):
        return x, levels
    top = x.new_tensor(FLOW_TOP)
    return model.latent_image.to(x) * (1.0 - top), [float(top), *levels[1:]]
