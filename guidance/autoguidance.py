"""Autoguidance: away from what a worse version of the model predicts."""
from torch import Tensor


def auto_guidance(denoised: Tensor, cond: Tensor, bad: Tensor, *, weight: float = 2.0) -> Tensor:
    """D + (weight - 1) (cond - bad): with D = cond the paper's bad + weight (cond - bad), with D of CFG both at once.

    cond, bad: what the model and the worse one predict of one state under one prompt. weight = 1, and a worse model
    that is as good, give D.
    Source: Karras et al. 2024, arXiv 2406.02507, eq. 3.
    """
    return denoised + (weight - 1.0) * (cond - bad)
