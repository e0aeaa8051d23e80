"""IIA's weights, fitted step by step to a finer run over the same interval."""
from collections import deque
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..samplers.ddim import plan_ddim
from ..samplers.dpm_solver_pp import plan_dpm_solver_pp
from ..samplers.edm_heun import plan_edm_heun
from ..samplers.iia import IIACoefs, base_steps, count_of, gradients, mended, reach, require_base
from ..samplers.linear import Stage, Step, Update, run
from ..samplers.process import VE, Process
from .dc_ratios import levels_between
from .progress import Progress


@torch.no_grad()
def fit_iia(model: Callable, x: Tensor, sigmas: list[float], *, base: str = "ddim", r: int = 0, substeps: int = 10,
            ridge: float = 1e-8, process: Process = VE, state: dict[str, Tensor] | None = None) -> Iterator[Progress]:
    """Weights for plan_iia by least squares over the batch: sum_j w_j G_j nearest to z - base, z the state that
    `substeps` finer steps lead to from the same state. The next step starts from the mended state. A Progress after
    each step above sigma 0; iia_coefs makes the last one's state the result.

    x (B, ...) at sigmas[0], B some dozens. model(x, sigma: float) -> denoised. r: so many steps back gradients are
    weighed; 'edm' with r = 0 weighs the mean of a step's two (BIIA-EDM), above 0 each by itself (IIA-EDM). ridge: share
    of the mean square of the gradients that is added to the normal equations; 'edm' with r > 0 and 'dpmpp2m' have
    nearly parallel gradients, and 1e-2 makes their weights serve rare starts too. On the VE test mixture (figures in
    tests/test_iia.py) 'dpmpp2m' gets nearer in the mean square, which rare starts make up, but not for a typical one.
    The finer run is even in log sigma, and by the base itself for 'ddim' and 'edm', so that substeps = 1 gives weights
    of 0. For 'dpmpp2m' it is DPM-Solver++(2S), of the same family and order: it starts from the state alone, where 2M
    would need predictions at a spacing of its own, or a first step of order 1. Cost: iia_cost.
    Source: Zhang et al. 2023, arXiv 2304.11328, section 4, and the authors' code for DDIM.
    """
    if r < 0 or substeps < 1:
        raise ValueError(f"need r of at least 0 and substeps of at least 1, got {r} and {substeps}")
    steps, finite_steps = base_steps(base, sigmas, process), len(sigmas) - 1 - (sigmas[-1] == 0.0)
    total = iia_cost(sigmas, base=base, substeps=substeps)
    used = [update for i, step in enumerate(steps[:finite_steps])
            for update in (step.predict, *gradients(base, count_of(base, i, r)))]
    history, rows = deque(maxlen=max(len(update.d_coefs) for update in used)), []
    if state is not None:
        x, rows = state["x"].to(x), state["weights"].tolist()
        history.extend(state["history"].to(x))
    for i in range(len(rows), finite_steps):
        step = steps[i]
        values, denoised = _called(model, x, step, history)
        fine = levels_between(step.sigma, step.sigma_next, substeps)
        missing = run(model, x, _finer(base, fine, process)) - step.predict(x, values)
        found = [update(x, values) for update in gradients(base, count_of(base, i, r))]
        weights = [w / reach(base, step.sigma_next, process) for w in _least_squares(found, missing, ridge)]
        x = mended(step, base, weights, process).predict(x, values)
        rows.append(weights + [0.0] * (count_of(base, finite_steps, r) - len(weights)))
        numbers = {"weights": torch.tensor(rows, dtype=torch.float64), "x": x.cpu().double(),
                   "history": torch.stack([value.cpu().double() for value in history])}
        yield Progress(total // finite_steps * (i + 1), total, numbers, denoised)


def iia_coefs(state: dict[str, Tensor], sigmas: list[float], *, base: str, r: int, about: dict | None = None
              ) -> IIACoefs:
    """What plan_iia takes, of the last state of fit_iia."""
    weights = tuple(tuple(row[:count_of(base, i, r)]) for i, row in enumerate(state["weights"].tolist()))
    return IIACoefs(base, weights, tuple(sigmas), about or {})


def iia_cost(sigmas: list[float], *, base: str = "ddim", substeps: int = 10) -> int:
    """Model calls of fit_iia, on the whole batch."""
    require_base(base)
    calls = {"ddim": 1 + substeps, "edm": 2 + 2 * substeps, "dpmpp2m": 1 + 2 * substeps}
    return (sum(sigma > 0.0 for sigma in sigmas) - 1) * calls[base]


def _finer(base: str, sigmas: list[float], process: Process) -> list[Step]:
    if base == "dpmpp2m":
        return plan_dpm_solver_pp(sigmas, method="singlestep", process=process)
    return (plan_edm_heun if base == "edm" else plan_ddim)(sigmas, process=process)


def _called(model: Callable, x: Tensor, step: Step, history: deque) -> tuple[tuple[Tensor, ...], Tensor]:
    """The step's model calls: what its last update sees, and the first D. Bases keep D itself or one value a call."""
    calls, values, predictions = [Stage(step.sigma, Update(1.0), step.keep), *step.stages], (), []
    for call in calls:
        inner = call.update(x, values)
        predictions.append(model(inner, call.sigma).to(inner))
        history.appendleft(call.keep[0](inner, predictions[-1:]) if call.keep else predictions[-1])
        values = (predictions[-1], *history) if call.keep else tuple(history)
    return values, predictions[0]


def _least_squares(found: list[Tensor], missing: Tensor, ridge: float) -> list[float]:
    """Weights of `found` nearest to missing in the sum of squares, in float64."""
    matrix = torch.stack([value.cpu().double().flatten() for value in found])
    gram = matrix @ matrix.T
    gram += ridge * gram.diagonal().mean() * torch.eye(len(found), dtype=gram.dtype)
    return torch.linalg.solve(gram, matrix @ missing.cpu().double().flatten()).tolist()
