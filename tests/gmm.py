"""The exact denoiser of a small Gaussian mixture in 16 numbers, float64: what every solver is measured against."""
import json
import math
from pathlib import Path

import torch

_DATA = json.loads((Path(__file__).parent / "golden" / "model.json").read_text())
WEIGHTS, MEANS, STDS, UNIT_NOISE = (
    torch.tensor(_DATA[key], dtype=torch.float64) for key in ("weights", "means", "stds", "unit_noise"))
LABELS = torch.tensor(_DATA["labels"])


def denoise(x, sigma, label=None):
    """E[x_0 | x] for x = x_0 + sigma eps, x (B, 16); label keeps the components of one class."""
    return _posterior_mean(x, 1.0, sigma, label)


def denoise_flow(x, sigma, label=None):
    """E[x_0 | x] for x = (1 - sigma) x_0 + sigma eps, sigma in (0, 1]."""
    return _posterior_mean(x, 1.0 - sigma, sigma, label)


def _posterior_mean(x, alpha, sigma, label):
    weights = WEIGHTS if label is None else torch.where(label == LABELS, WEIGHTS, 0.0)
    variance = alpha ** 2 * STDS ** 2 + sigma ** 2
    distance = (x[:, None] - alpha * MEANS).square().sum(-1)
    log_share = weights.log() - 0.5 * distance / variance - 0.5 * x.shape[1] * variance.log()
    post = (alpha * STDS[:, None] ** 2 * x[:, None] + sigma ** 2 * MEANS) / variance[:, None]
    return (torch.softmax(log_share, dim=1)[:, :, None] * post).sum(1)


def log_spaced(steps, top=1000.0, bottom=1.0):
    """Levels evenly spaced in log sigma. From sigma = 1000 the denoiser is flat, so that the first-order warm-up
    step of a multistep solver leaves no error that would hide its order."""
    return [top * (bottom / top) ** (i / steps) for i in range(steps + 1)]


def logit_spaced(steps, top=0.999, bottom=0.5):
    """Flow levels evenly spaced in log-SNR."""
    high, low = (math.log(s / (1.0 - s)) for s in (top, bottom))
    return [1.0 / (1.0 + math.exp(-(high + i / steps * (low - high)))) for i in range(steps + 1)]
