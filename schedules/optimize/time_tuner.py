"""TimeTuner: for each step, by how much the time that the network is told is off from the step's own."""
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ...measure.progress import Progress
from ...samplers.clock import FLOW_CLOCK, Clock, clock_of_table
from ...samplers.process import FLOW, VE, Process
from .ld3_levels import decoupled, through
from .teacher import Lesson

ORDERS = ("sequential", "parallel")
BETAS, TINY = (0.9, 0.999), 1e-8


class Tuning(NamedTuple):
    """What TimeTuner is asked for. order: 'sequential' tunes each step on states that the tuned steps before it lead
    to, 'parallel' on noised data, each by itself. iterations: of each step, on `minibatch` pictures. rate: Adam's.
    """
    order: str = ORDERS[0]
    iterations: int = 500
    rate: float = 0.002
    minibatch: int = 4
    seed: int = 0


def label_clock(table: list[float], process: Process) -> Clock:
    """The time that ratios are of: a flow's sigma; else (place + 1) / places of a rising table of levels, 0.001 to 1
    of Stable Diffusion's, read between its points by straight lines in log sigma."""
    if process is FLOW:
        return FLOW_CLOCK
    places, count = clock_of_table(table), len(table)
    return Clock(lambda sigma: (places.time_of(sigma) + 1.0) / count, lambda time: places.sigma_of(time * count - 1.0))


def require_size(data: Tensor, size: torch.Size) -> None:
    """Raises ValueError for clean pictures of another size than the noises."""
    if data.shape[-len(size):] != size:
        raise ValueError(f"data must have the latent's size {tuple(size)}, got {tuple(data.shape[-len(size):])}; "
                         "encode pictures of that size")


def told_of_ratios(ratios: Tensor, sigmas: list[float], clock: Clock) -> Tensor:
    """The levels (N + 1,) told to the network for ratios (N,) of its time, differentiable in them; the end stays."""
    own = torch.tensor([clock.time_of(sigma) for sigma in sigmas[:-1]], dtype=torch.float64)
    told = through(clock.sigma_of, ratios * own)
    exact = torch.where(ratios.detach() == 1.0, torch.tensor(sigmas[:-1], dtype=torch.float64) - told.detach(), 0.0)
    return torch.cat([told + exact, told.new_tensor(sigmas[-1:])])


class Tuner:
    """A lesson whose Euler steps are told other times; data (K, ...): clean pictures, in the model's units."""

    def __init__(self, lesson: Lesson, sigmas: list[float], options: Tuning, *, clock: Clock,
                 span: tuple[float, float], data: Tensor, process: Process):
        if options.order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}, got {options.order!r}")
        if len(sigmas) < 3:
            raise ValueError(f"need at least 2 steps, all but the last of which are tuned, got {len(sigmas) - 1}; "
                             "raise steps")
        require_size(data, lesson.x.shape[1:])
        process.lams(sigmas)
        self.lesson, self.sigmas, self.options, self.data, self.process = lesson, sigmas, options, data, process
        self.clock, self.span = clock, [clock.time_of(level) for level in span]

    def iterate(self, kept: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is kept, after one more iteration of Adam on the ratio of the step that is being tuned."""
        place, done, options = int(kept["step"]), int(kept["iteration"]) + 1, self.options
        model, x = self._arrived(place, done, kept["ratios"])
        loss, slope = self._gradient(model, x, place, kept["ratios"][place])
        averages = torch.stack([beta * old + (1.0 - beta) * new for beta, old, new in
                                zip(BETAS, kept["adam"], (slope, slope.square()))])
        mean, square = (value / (1.0 - beta ** done) for value, beta in zip(averages, BETAS))
        ratios = kept["ratios"].clone()
        ratios[place] = self._bounded(ratios[place] - options.rate * mean / (square.sqrt() + TINY), place)
        ended = done == options.iterations
        return {"ratios": ratios, "adam": torch.zeros_like(averages) if ended else averages,
                "step": torch.tensor(place + ended), "iteration": torch.tensor(0 if ended else done),
                "losses": torch.cat([kept["losses"], loss[None]])}

    def _arrived(self, place: int, done: int, ratios: Tensor) -> tuple[Callable, Tensor]:
        """The model, and states at the beginning of a step: of some pictures under fresh noise."""
        options = self.options
        generator = torch.Generator().manual_seed((options.seed * 1009 + place) * 100003 + done)
        items = torch.randint(len(self.data), (options.minibatch,), generator=generator).tolist()
        noise = torch.randn(options.minibatch, *self.data.shape[1:], generator=generator, dtype=torch.float64)
        model, start = self.lesson.model_of(items), 0 if options.order == "sequential" else place
        level, told = self.sigmas[start], told_of_ratios(ratios, self.sigmas, self.clock)
        x = self.process.alpha(level) * self.data[items] + level * noise.to(self.data)
        with torch.no_grad():
            for i in range(start, place):
                x = self._euler(x, _direction(model, x, self.sigmas[i], told[i]), i)
        return model, x

    def _euler(self, x: Tensor, direction: Tensor, place: int) -> Tensor:
        return x + (self.sigmas[place + 1] - self.sigmas[place]) * direction

    def _noise(self, model: Callable, x: Tensor, sigma: float) -> Tensor:
        """The predicted noise; of a flow model too, whose velocity changes along the true path."""
        return (x - self.process.alpha(sigma) * model(x, sigma)) / sigma

    def _gradient(self, model: Callable, x: Tensor, place: int, ratio: Tensor) -> tuple[Tensor, Tensor]:
        """(loss, its slope in the ratio), float64 on the CPU."""
        sigma, sigma_next = self.sigmas[place:place + 2]
        with torch.no_grad():
            wanted = self._noise(model, x, sigma)
        with torch.enable_grad():
            ratio = ratio.detach().clone().requires_grad_()
            told = told_of_ratios(ratio[None], [sigma, sigma_next], self.clock)[0]
            x_next = self._euler(x, _direction(model, x, sigma, told), place)
            missed = (wanted - self._noise(model, x_next, sigma_next)).double()
            loss = missed.square().flatten(1).sum(1).mean().cpu()
            slope, = torch.autograd.grad(loss, ratio)
        return loss.detach(), torch.nan_to_num(slope, 0.0, 0.0, 0.0)

    def _bounded(self, ratio: Tensor, place: int) -> Tensor:
        """A ratio that keeps the told time among those the network knows."""
        own = self.clock.time_of(self.sigmas[place])
        return ratio.clamp(min(self.span[0] / own, 1.0), max(self.span[1] / own, 1.0))


def tune_times(lesson: Lesson, sigmas: list[float], options: Tuning | None = None, *, clock: Clock,
               span: tuple[float, float], data: Tensor | None = None, process: Process = VE,
               state: dict[str, Tensor] | None = None) -> Iterator[Progress]:
    """Ratios of the time told to the network, for which the noise that it predicts at the start of an Euler (DDIM) step
    is the noise that it finds at the step's end.

    Loss of a step: |eps(x, sigma) - eps(x_next, sigma_next)|^2 with eps = (x - alpha D) / sigma, summed over the
    elements and averaged over the pictures; x_next is reached with the told time, the first term takes the step's own
    and carries no gradient. The last step is not tuned. Ratios that bring the noises not held back nearer to their ends
    neither in the mean nor in the median give way to 1.
    lesson: its plan is DDIM's, and its model takes told=, the level that the network is told. clock: see label_clock.
    span: the lowest and the highest level that may be told. data (K, ...): clean pictures in the model's units; without
    them the ends of the noises not held back are. The last state: "ratios" (N,), "cond_sigmas" (N + 1,), "losses" of
    every iteration, "errors" and "given_errors" (held,), root mean square distances of the held-back noises with the
    ratios and without. A Progress after each iteration. Cost: tune_cost.
    Source: Xia et al. 2023, arXiv 2310.09469, section 3, and the authors' code, for VE and flow states.
    """
    options = options or Tuning()
    tuner = Tuner(lesson, sigmas, options, clock=clock, span=span, process=process,
                  data=lesson.targets[lesson.training] if data is None else data.to(lesson.x))
    total, tuned = tune_cost(len(sigmas) - 1, len(lesson.x), options), len(sigmas) - 2 if options.iterations else 0
    kept = state or {"ratios": torch.ones(len(sigmas) - 1, dtype=torch.float64), "step": torch.tensor(0),
                     "iteration": torch.tensor(0), "adam": torch.zeros(2, dtype=torch.float64),
                     "losses": torch.zeros(0, dtype=torch.float64)}
    while int(kept["step"]) < tuned:
        kept = tuner.iterate(kept)
        done = options.iterations * sum(_cost_at(i, options) for i in range(int(kept["step"])))
        done += int(kept["iteration"]) * _cost_at(int(kept["step"]), options)
        yield Progress(done, total, kept, losses=tuple(kept["losses"].tolist()))
    judged = _judged(tuner, kept["ratios"])
    yield Progress(total, total, {**kept, **judged}, losses=tuple(kept["losses"].tolist()))


def _judged(tuner: Tuner, ratios: Tensor) -> dict[str, Tensor]:
    """The ratios that tuning ends with, and how near they lead."""
    lesson, sigmas = tuner.lesson, tuner.sigmas
    plan, levels = lesson.plan(sigmas), torch.tensor(sigmas, dtype=torch.float64)

    def errors(ratios: Tensor, where: slice) -> Tensor:
        told = told_of_ratios(ratios, sigmas, tuner.clock)
        return lesson.errors(plan, where, change=lambda model: decoupled(model, levels, told, how="label_only"))

    plain = torch.ones_like(ratios)
    found, given = (errors(values, lesson.training).square() for values in (ratios, plain))
    if found.mean() >= given.mean() and found.median() >= given.median():
        ratios = plain
    return {"ratios": ratios, "cond_sigmas": told_of_ratios(ratios, sigmas, tuner.clock),
            "errors": errors(ratios, lesson.judging), "given_errors": errors(plain, lesson.judging)}


def tune_cost(steps: int, samples: int, options: Tuning) -> int:
    """Model calls of tune_times, each on one picture; one with its way back counts as four."""
    return 2 * samples * steps + options.iterations * sum(_cost_at(i, options) for i in range(steps - 1))


def _cost_at(place: int, options: Tuning) -> int:
    return options.minibatch * (9 + (place if options.order == "sequential" else 0))


def _direction(model: Callable, x: Tensor, sigma: float, told: Tensor) -> Tensor:
    """What an Euler step goes along, (x - D) / sigma: a VE model's predicted noise, a flow model's velocity."""
    return (x - model(x, sigma, told=told)) / sigma
