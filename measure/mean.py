"""What a model expects to see in pure noise."""
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .progress import Progress


@torch.no_grad()
def mean_prediction(model: Callable, x: Tensor, sigma: float, *, batch: int = 8,
                    state: dict[str, Tensor] | None = None) -> Iterator[Progress]:
    """The mean of D over x (K, ...), `batch` of them at a time: state["sum"] (...) float64 over state["count"].

    At a level that leaves nothing of the picture this is the mean of all pictures under the conditioning. A Progress
    after each batch, counted in pictures. model(x, sigma: float) -> D.
    """
    total, first = (state["sum"], int(state["count"])) if state else (torch.zeros(x.shape[1:], dtype=torch.float64), 0)
    if first >= len(x):
        yield Progress(len(x), len(x), state)
    for start in range(first, len(x), batch):
        denoised = model(x[start:start + batch], sigma)
        total = total + denoised.cpu().double().sum(0)
        count = min(start + batch, len(x))
        yield Progress(count, len(x), {"sum": total, "count": torch.tensor(count)}, denoised)
