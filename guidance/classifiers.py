"""Classifiers that guidance can follow: what they look at, what their classes are called, and how they are asked."""
import re
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

SEES = ("picture", "latent", "noisy latent")
CLASSIFIER_FOLDER = Path(__file__).parent.parent / "models" / "classifiers"  # those of the pack


class Classifier(NamedTuple):
    """A network that gives logits (B, K) for K named classes, or, with no labels, any features (B, ...).

    sees: a 'picture' (B, 3, H, W) brought to size x size (0: as it is), less mean and divided by std; a 'latent', D as
    a LATENT has it; or a 'noisy latent', the state scaled to unit variance, with the timestep (B,) of the model.
    """
    network: nn.Module
    sees: str
    labels: tuple[str, ...]
    size: int = 0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def logits(self, what: Tensor, timestep: Tensor | None = None) -> Tensor:
        """(B, K) float32, K any for features. Raises ValueError where the network gives another shape."""
        network, x = self.network.to(what.device), what.float()
        if self.sees == "picture":
            if self.size and x.shape[2:] != (self.size, self.size):
                x = interpolate(x, size=(self.size, self.size), mode="bilinear", antialias=True)
            x = (x - x.new_tensor(self.mean)[:, None, None]) / x.new_tensor(self.std)[:, None, None]
        try:
            with torch.jit.optimized_execution(False):  # TorchScript else rounds differently from its second call on
                out = network(x) if self.sees != "noisy latent" else network(x, timestep)
        except (RuntimeError, TypeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise ValueError(f"the classifier can't read a {self.sees} of {tuple(x.shape[1:])}: "
                             f"{_last_line(error)}; set its size and what it sees as it was trained") from error
        if not self.labels and isinstance(out, Tensor) and len(out) == len(x):
            return out.flatten(1).float()
        if not isinstance(out, Tensor) or out.shape != (len(x), len(self.labels)):
            got = tuple(out.shape[1:]) if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(f"the classifier should give {len(self.labels)} numbers for each picture, one for each "
                             f"label, got {got}; correct the labels or take another classifier")
        return out.float()

    def target(self, text: str) -> int:
        """The class of a label or of its number. Raises ValueError with the labels there are."""
        if not self.labels:
            raise ValueError("this network gives features, not classes; name its classes in Load classifier")
        text = text.strip().lower()
        if text in self.labels:
            return self.labels.index(text)
        if re.fullmatch(r"\d+", text) and int(text) < len(self.labels):
            return int(text)
        raise ValueError(f"target must be a class of this classifier, {_shown(self.labels)}, or its number up to "
                         f"{len(self.labels) - 1}, got {text!r}")

    def label_in(self, line: str) -> int:
        """The class that a line of text names: its number, its label, or the one label among its words."""
        words = set(re.findall(r"[a-z0-9_-]+", line.lower()))
        named = [i for i, label in enumerate(self.labels) if label in words]
        if len(named) == 1 and line.strip().lower() not in self.labels:
            return named[0]
        return self.target(line)

    def give_back(self) -> None:
        """Leaves the device."""
        self.network.to("cpu")


def load_torchscript(path: Path) -> nn.Module:
    """The network of a TorchScript file in float32, its weights able to pass gradients."""
    if not path.is_file():
        raise ValueError(f"there is no classifier {path.name}; save one in models/odeon_classifiers with "
                         "torch.jit.save")
    try:
        with torch.inference_mode(False):
            network = torch.jit.load(str(path), map_location="cpu").float().eval()
    except RuntimeError as error:
        raise ValueError(f"{path} is no TorchScript file ({_last_line(error)}); save one with "
                         "torch.jit.save(torch.jit.trace(network, example), path)") from error
    for value in network.parameters():  # a ScriptModule has no requires_grad_
        value.requires_grad_(False)
    return network


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def _shown(labels: tuple[str, ...]) -> str:
    return ", ".join(labels) if len(labels) <= 20 else f"{', '.join(labels[:20])}, ..."
