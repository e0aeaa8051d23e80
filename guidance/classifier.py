"""Classifier guidance with off-the-shelf classifiers: what to ascend, how far, and how calibrated a classifier is."""
import copy
import math

import torch
from torch import Tensor, nn

from .gradient import Place, norms

FORMS = ("denoised", "textbook")


def joint_over_marginal(logits: Tensor, target: int | Tensor, *, tau_joint: float = 1.0,
                        tau_marginal: float = 0.5) -> Tensor:
    """tau_joint f_y - logsumexp_k(tau_marginal f_k), (B,), of logits f (B, K) for class y: what guidance ascends.

    target: one class, or one for each item (B,). tau_joint = tau_marginal = 1 is log p(y | x); tau_marginal = 0 leaves
    the joint logit (less log K).
    Source: Ma et al. 2023, arXiv 2310.11311, section 4.
    """
    classes = torch.as_tensor(target, device=logits.device).expand(len(logits))
    if int(classes.min()) < 0 or int(classes.max()) >= logits.shape[1]:
        raise ValueError(f"the classifier has classes 0 to {logits.shape[1] - 1}, got {target}")
    joint = logits.gather(1, classes[:, None])[:, 0]
    return tau_joint * joint - (tau_marginal * logits).logsumexp(1)


def classifier_step(denoised: Tensor, gradient: Tensor, place: Place, *, sigma: float, alpha: float, scale: float,
                    form: str = "denoised", gamma: float = 0.3) -> Tensor:
    """The prediction after a classifier's push along `gradient` (B, ...); scale 0 leaves it as it is.

    'denoised', the paper's: gradient with respect to D alone. On an ancestral step (eta = 1) the state of unit variance
    then moves by exactly scale (Sigma_t + a_t) gradient, Sigma_t the posterior variance and
    a_t = gamma sin(pi t / T) max(Sigma so far), with t steps left of T; on other steps D moves as much.
    'textbook': with respect to the state x: the score gains scale * gradient, so D + scale sigma^2 / alpha gradient;
    where alpha is 0 the state holds nothing of the picture yet and nothing is added.
    Source: Ma et al. 2023, arXiv 2310.11311, algorithm 1; Dhariwal and Nichol 2021, arXiv 2105.05233.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    if form == "textbook":
        return denoised + (scale * sigma * sigma / alpha if alpha > 0.0 else 0.0) * gradient
    return denoised + scale * joint_factor(place, gamma=gamma) * gradient


def joint_factor(place: Place, *, gamma: float) -> float:
    """(Sigma_t + a_t) / (alpha' d_coef): what the DDPM form of classifier_step multiplies the gradient with."""
    left = place.steps - 1 - place.i
    highest = max(Place(i, place.levels).variance for i in range(place.i + 1))
    extra = max(gamma * math.sin(math.pi * left / place.steps) * highest, 0.0)
    alpha_next = 1.0 / math.sqrt(1.0 + place.s_next ** 2)
    return (place.variance + extra) / (alpha_next * place.d_coef)


def as_long_as(gradient: Tensor, value: Tensor) -> Tensor:
    """The gradient (B, ...) brought to the length of value for each item; where it is 0 it stays."""
    length = norms(gradient)
    return gradient * (norms(value) / torch.where(length > 0.0, length, torch.inf))


def with_softplus(network: nn.Module, beta: float) -> nn.Module:
    """A copy of a network whose every ReLU module is a Softplus of that beta, so that gradients are smooth.

    beta 0 keeps them. Inside TorchScript nothing can be replaced.
    Source: Ma et al. 2023, arXiv 2310.11311, section 3.
    """
    with torch.inference_mode(False):
        made = copy.deepcopy(network)
    for module in made.modules() if beta > 0.0 else ():
        for name, child in module.named_children():
            if type(child) is nn.ReLU:
                setattr(module, name, nn.Softplus(beta))
    return nn.Softplus(beta) if beta > 0.0 and type(made) is nn.ReLU else made


def calibration_error(logits: Tensor, labels: Tensor, *, bins: int = 15) -> float:
    """Expected calibration error in [0, 1] of logits (N, K) for true labels (N,): |share right - mean confidence|,
    averaged over `bins` equal ranges of the confidence, each counted by its pictures.

    Source: Guo et al. 2017, arXiv 1706.04599, eq. 3.
    """
    confidence, answer = logits.double().softmax(1).max(1)
    right = (answer == labels.to(answer.device)).double()
    places = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gap = torch.zeros(bins, dtype=torch.float64, device=logits.device).index_add_(0, places, right - confidence)
    return gap.abs().sum().item() / len(labels)
