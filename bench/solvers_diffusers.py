"""Runs the schedulers of diffusers, where it is installed, on our levels."""
import contextlib
import importlib.util
import logging
import warnings
from itertools import count

import torch
from torch import Tensor

from .solvers_problems import Problem
from .solvers_rows import Scheduler, steps_within

FLOW_TOP = 0.9999  # for schedulers that take the log-SNR of the first level, which is infinite at 1


def version() -> str | None:
    """None where diffusers is not installed."""
    if importlib.util.find_spec("diffusers") is None:
        return None
    import diffusers

    return diffusers.__version__


def form_for(problem: Problem, forms: tuple[Scheduler, ...]) -> Scheduler | None:
    """The one of a scheduler's forms that fits the problem."""
    return next((form for form in forms if (form.form == "flow") == (problem.process.name == "flow")), None)


@torch.inference_mode()
def run_scheduler(problem: Problem, row: Scheduler, nfe: int) -> tuple[Tensor, int]:
    """The state after the most steps that cost no more than nfe calls, and the calls."""
    sigmas = problem.sigmas(steps_within(row, nfe))
    with _quiet():
        scheduler = _made(row, sigmas)
    levels = scheduler.sigmas.tolist() if row.levels != "betas" else _levels_of_table(scheduler, sigmas)
    size = (lambda sigma: (1.0 + sigma * sigma) ** 0.5) if row.form == "vp" else (lambda sigma: 1.0)
    calls = count()

    def denoise(x: Tensor, sigma: float) -> Tensor:
        next(calls)
        return problem.denoise(x, sigma)

    x = problem.start.float() / size(levels[0])
    for sigma, time in zip(levels, scheduler.timesteps):
        state = x * size(sigma)
        output = (state - denoise(state, sigma)) / sigma
        if row.form == "ve":
            scheduler.is_scale_input_called = True  # we scale as the problem needs it
        x = scheduler.step(output, time, x).prev_sample
    if row.levels == "positive":
        x = denoise(x * size(levels[-1]), levels[-1])
    return x, next(calls)


def _made(row: Scheduler, sigmas: list[float]):
    """A scheduler told these levels."""
    import diffusers

    cls, steps = getattr(diffusers, row.cls), len(sigmas) - 1
    if row.levels == "betas":
        shares = [1.0, *(1.0 / (1.0 + sigma * sigma) for sigma in sigmas[-2::-1])]
        betas = [1.0 - share / before for before, share in zip(shares, shares[1:])]
        scheduler = cls(num_train_timesteps=steps, trained_betas=betas, **row.options)
        scheduler.set_timesteps(steps)
        return scheduler
    scheduler = cls(**row.options)
    if row.levels == "positive":
        sigmas, steps = sigmas[:-1], steps - 1
    if "use_flow_sigmas" in row.options and sigmas[0] == 1.0:
        sigmas = [FLOW_TOP, *sigmas[1:]]
    scheduler.set_timesteps(steps)
    levels = torch.tensor(sigmas)
    if row.levels == "pairs":
        levels = torch.cat([levels[:1], levels[1:-1].repeat_interleave(2), levels[-1:]])
    scheduler.sigmas = levels
    scheduler.timesteps = torch.arange(len(levels) - 1, 0, -1).float()
    scheduler.set_begin_index(0)
    return scheduler


def _levels_of_table(scheduler, sigmas: list[float]) -> list[float]:
    """The level of each of its timesteps, which count our levels from the last above 0 up."""
    rising = sigmas[-2::-1]
    return [rising[int(time)] for time in scheduler.timesteps]


@contextlib.contextmanager
def _quiet():
    """Leaves out what diffusers says of deprecated settings."""
    logger = logging.getLogger("diffusers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logger.setLevel(before)
