"""Reads the recorded runs of reference code in tests/golden."""
import json
from pathlib import Path

import torch


def load(name):
    """One golden file: method, source, parameterization, runs."""
    return json.loads((Path(__file__).parent / "golden" / f"{name}.json").read_text())


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)
