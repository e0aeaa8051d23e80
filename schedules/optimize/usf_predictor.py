"""What solvers promise: a small network that learns to rank them by their numbers from the few that were tried."""
import torch
from torch import Tensor
from torch.nn.functional import gelu, softplus

from ...samplers.linear import Step
from ...samplers.table import table_of

NETS, WIDTH, EPOCHS, PAIRS = 3, 64, 150, 1024


def encoded(plans: list[list[Step]]) -> Tensor:
    """Plans of one NFE as rows of numbers: what each model call and the end are made of, and the calls' log sigmas."""
    tables = [table_of(steps) for steps in plans]
    rows, columns = torch.tril_indices(*tables[0].d.shape, -1)
    return torch.stack([torch.cat([table.d[rows, columns], table.levels.log()]) for table in tables]).float()


def ranked(tried: Tensor, scores: Tensor, others: Tensor, *, seed: int) -> list[float]:
    """How bad each of `others` (k, f) promises to be, in no unit, from the scores (n,) of those tried (n, f).

    The mean of NETS networks of two hidden layers that learn which of two tried ones is worse (pairwise logistic loss).
    Source: Liu et al. 2023, arXiv 2312.07243, section 4.2, with the solver's numbers for the list of its decisions.
    """
    with torch.inference_mode(False), torch.enable_grad():
        tried, scores, others = tried.clone(), scores.clone(), others.clone()
        mean, spread = tried.mean(0), tried.std(0) + 1e-6
        tried, others = (tried - mean) / spread, ((others - mean) / spread).clamp(-4.0, 4.0)
        generator = torch.Generator().manual_seed(seed)
        sizes = [(tried.shape[1], WIDTH), (WIDTH, WIDTH), (WIDTH, 1)]
        weights = [torch.randn(NETS, *size, generator=generator) / size[0] ** 0.5 for size in sizes]
        biases = [torch.zeros(NETS, 1, WIDTH) for _ in range(2)]
        parameters = [value.requires_grad_() for value in (*weights, *biases)]

        def scored(x: Tensor) -> Tensor:
            for weight, bias in zip(weights, biases):
                x = gelu(x @ weight + bias)
            return (x @ weights[-1])[..., 0]

        optimizer = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=1e-2)
        for _ in range(EPOCHS):
            one, other = torch.randint(len(tried), (2, PAIRS), generator=generator)
            sign, found = torch.sign(scores[one] - scores[other]).float(), scored(tried)
            loss = (softplus(-sign * (found[:, one] - found[:, other])) * sign.abs()).mean(1).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return scored(others).mean(0).tolist()
