"""Momentum guidance: the prediction pushed on from where it was in earlier steps."""
from torch import Tensor


def momentum_guidance(denoised: Tensor, average: Tensor, *, strength: float = 0.5, decay: float = 0.6
                      ) -> tuple[Tensor, Tensor]:
    """(D + strength (D - m), the next m = decay m + (1 - decay) D); m is D itself at the first step.

    denoised, average: (B, ...). strength = 0, and a prediction that doesn't change, give D.
    Source: arXiv 2602.20360, in the form of pamparamm/sd-perturbed-attention (MIT).
    """
    return denoised + strength * (denoised - average), decay * average + (1.0 - decay) * denoised
