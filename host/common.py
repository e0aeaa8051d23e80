"""What both hosts share: the sampler function that carries a plan, and how guidance rules follow one another."""
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..samplers.clock import FLOW_CLOCK, Clock, clock_of_table
from ..samplers.linear import Step, reads_unconditional, run
from ..samplers.noise import step_noise
from ..samplers.process import FLOW, Process
from .gradients import Statement
from .inverting import inverted_state
from .unconditional import Unconditional


def planned(plan_fn: Callable[..., list[Step]], sigmas: list[float], *, process: Process, clock,
            **options) -> list[Step]:
    """The steps of a plan; the model's clock, made by clock(), only goes to those that ask for one."""
    if "clock" in inspect.signature(plan_fn).parameters:
        options["clock"] = clock() if callable(clock) else clock
    return plan_fn(sigmas, process=process, **options)


def clock_of(process: Process, table: Tensor) -> Clock:
    """The time a model counts in: sigma itself for flow models, else the places of its table of levels."""
    return FLOW_CLOCK if process is FLOW else clock_of_table(table.tolist())


class Solver:
    """A sampler function in ComfyUI's form, f(model, x, sigmas, ...), that runs the plan of one method.

    process_of(model_patcher) -> Process, table_of(model_patcher) -> its levels; process: set to plan in that one
    whatever the model is. after(x, sigma, process) -> x, what becomes of the state after each step to sigma.
    """

    def __init__(self, plan_fn: Callable[..., list[Step]], options: dict, *, process_of, table_of=None,
                 process: Process | None = None, after=None):
        self.plan_and_options = plan_fn, options
        self.process_of, self.table_of = process_of, table_of
        self.process, self.after = process, after

    @property
    def name(self) -> str:
        return self.plan_and_options[0].__name__.removeprefix("plan_")

    @torch.no_grad()
    def __call__(self, model, x: Tensor, sigmas: Tensor, extra_args=None, callback=None, disable=None,
                 noise_sampler=None) -> Tensor:
        """x (B, ...) noisy at sigmas[0] -> the state at sigmas[-1]. model(x, sigma (B,), **extra_args) -> denoised."""
        extra_args = extra_args or {}
        plan_fn, options = self.plan_and_options
        levels = sigmas.tolist()  # the one read-back of the schedule, before the first step
        patcher = model.inner_model.model_patcher
        process = self.process or self.process_of(patcher)
        if self.process is None:
            require_reachable(levels, process, self.table_of(patcher))
            x, levels = inverted_state(model, x, levels, process)
        steps = planned(plan_fn, levels, process=process, clock=lambda: clock_of(process, self.table_of(patcher)),
                        **options)
        warn_of_order(self.name, options.get("order", options.get("max_order", 0)), steps)
        require_finite(x, f"{self.name} was started on a latent with NaN or infinite values",
                       "check the node that made the LATENT")
        if noise_sampler is None and any(step.is_noisy for step in steps):
            noise_sampler = step_noise(model.noise, extra_args.get("seed") or 0, f"{self.name}@{levels[0]:.9g}")

        unconditional = Unconditional(model, extra_args) if reads_unconditional(steps) else None
        extra_args = extra_args if unconditional is None else unconditional.extra_args

        at = sigmas.new_tensor([step.sigma for step in steps])
        places = [max(i, sum(level > step.sigma * (1.0 + 1e-6) for level in levels)) for i, step in enumerate(steps)]
        finite = []
        with tqdm(total=len(steps), disable=disable) as bar:
            def report(i: int, x: Tensor, denoised: Tensor, sigma: float) -> None:
                if callback is not None:
                    callback({"x": x, "i": places[i], "sigma": at[i], "sigma_hat": at[i], "denoised": denoised})
                bar.update()

            def denoise(x: Tensor, sigma: float) -> Tensor:
                denoised = model(x, x.new_full((x.shape[0],), sigma), **extra_args)
                finite.append(torch.isfinite(denoised).all())
                return denoised

            x = run(denoise, x, steps, noise_sampler=noise_sampler, callback=report, unconditional=unconditional,
                    after=self.after and (lambda x, sigma: self.after(x, sigma, process)))
        self._require_finite_calls(torch.stack(finite).tolist(), steps)
        return x

    def _require_finite_calls(self, finite: list[bool], steps: list[Step]) -> None:
        if not all(finite):
            calls = [(i, sigma) for i, step in enumerate(steps)
                     for sigma in (step.sigma, *(stage.sigma for stage in step.stages))]
            i, sigma = calls[finite.index(False)]
            raise ValueError(f"the model returned NaN or infinite values at step {i + 1} of {len(steps)} "
                             f"(sigma {sigma:.4g}) under {self.name}; try a higher precision, a lower CFG, "
                             "or another VAE and prompt")


def require_reachable(levels: list[float], process: Process, table: Tensor) -> None:
    """Raises ValueError for a schedule that starts above the model's highest level; plans see to a flow's."""
    top = float(table[-1])
    if process is not FLOW and levels[0] > top * 1.001:
        raise ValueError(f"the schedule starts at sigma {levels[0]:.6g}, above the model's highest level {top:.6g}; "
                         "use a schedule made for this model, or lower its sigma_max")


def warn_of_order(name: str, order, steps: list[Step]) -> None:
    """Tells where a schedule has too few steps for a multistep method to reach its order."""
    above = sum(step.sigma_next > 0.0 for step in steps)
    if isinstance(order, int) and order > max(above, 1) and not any(step.stages for step in steps):
        logging.warning("Odeon: %s of order %d needs at least %d steps above sigma 0, the schedule has %d: it runs at "
                        "a lower order", name, order, order, above)


def require_finite(x: Tensor, what: str, do: str) -> None:
    """Raises ValueError naming the batch items with NaN or infinite values."""
    bad = [i for i, fine in enumerate(torch.isfinite(x).flatten(1).all(1).tolist()) if not fine]
    if bad:
        raise ValueError(f"{what}: item{'s' * (len(bad) > 1)} {', '.join(map(str, bad))} of {len(x)}; {do}")


def follow_rule(denoised: Tensor, cond: Tensor, uncond: Tensor, *, scale: float, guided: Tensor, first: bool) -> Tensor:
    """The prediction after one more guidance rule.

    guided: what the rule makes of cond and uncond. The first rule replaces plain CFG; a later one adds what it
    would have changed of plain CFG, so that no rule on the MODEL wire undoes another.
    """
    if first:
        return guided
    return denoised + (guided - (uncond + (cond - uncond) * scale))


def unless_left_out(guided: Tensor, denoised: Tensor, cond: Tensor, uncond: Tensor) -> Tensor:
    """guided, but denoised for the items of a batch whose unconditional prediction was left out (set to cond)."""
    left = (cond == uncond).flatten(1).all(1).reshape(-1, *[1] * (cond.ndim - 1))
    return torch.where(left, denoised, guided)


@dataclass(frozen=True)
class Call:
    """One evaluation of the guided model, as a guidance rule sees it.

    x (B, C, ...): the state as the sampler has it; sigma (B,); sigmas: the levels of the run's schedule; scale: the
    CFG, as earlier nodes changed it; cond, uncond: denoised predictions, uncond None where it is not evaluated (CFG 1
    or no negative) and cond itself where a node left it out.
    predict(*kinds, x=None, sigma=None, **changes) -> a tuple of denoised, one for each kind 'cond' or 'uncond': further
    evaluations under every other patch of the MODEL, never through guidance rules. changes: gradients=True, with a
    graph back to x (see differentiating); model=, another MODEL that goes with this one (see with_model).
    mask: of a masked run, (B, C, ...), 1 where the picture is made; None without one.
    """
    x: Tensor
    sigma: Tensor
    sigmas: list[float]
    scale: float
    process: Process
    cond: Tensor | None
    uncond: Tensor | None
    predict: Callable[..., tuple[Tensor, ...]]
    mask: Tensor | None = None


class Beside(NamedTuple):
    """A model beside the one that samples: the host's key for it, its own words for 'cond', its fingerprint."""
    key: str | None
    model: object
    positive: list | None
    weights: dict


class RunOfRules:
    """One run of a sampler under guidance rules: their states, made at its start, and the evaluations they saved."""

    def __init__(self, starts, sigmas: list[float]):
        self.states = {start: start() for start in starts}
        self.sigmas, self.scale, self.mask = sigmas, 1.0, None
        self.statement = Statement("network")
        self.calls = self.unconds = 0  # guided calls of the model; unconditional evaluations in them

    def scale_at(self, scale: float, sigma: Tensor, scales) -> float:
        """The CFG at a level after the rules that change it; counts a guided call."""
        self.calls += 1
        level = float(sigma.flatten()[0]) if scales else 0.0
        for start in scales:
            scale = self.states[start](scale, level)
        return scale

    def report(self) -> None:
        """Tells in the log what was saved."""
        saved = self.calls - self.unconds
        if saved > 0:
            logging.info("Odeon: guidance saved %d of %d model evaluations (%.0f %%)", saved, 2 * self.calls,
                         50.0 * saved / self.calls)


def require_uncond(needed: bool) -> None:
    """Raises ValueError where a sampler or patch reads the prediction that a rule may leave out."""
    if needed:
        raise ValueError("a node that leaves out or estimates the unconditional prediction can't be combined with "
                         "what reads it: a CFG++ sampler, or a patch such as Self-Attention Guidance; take one of "
                         "the two off")


def require_beside(what: str, one: str, other: str) -> None:
    """Raises ValueError where two MODELs differ in what both must share to be evaluated on one state."""
    if one != other:
        raise ValueError(f"both MODELs need one {what}, got {one} and {other}; take a second MODEL of the same family")
