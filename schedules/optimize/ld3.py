"""LD3: levels, and levels told to the network, learned by gradients through whole runs of a student."""
from collections.abc import Iterator

import torch
from torch import Tensor

from ...measure.progress import Progress
from ...samplers.clock import Clock
from ...samplers.process import VE, Process
from .ld3_levels import Numbers, discretization
from .ld3_training import LD3, Student, Training, halves
from .teacher import Lesson, calls_of, require_no_noise

INITS = ("given", "even")


def learn_ld3(lesson: Lesson, sigmas: list[float], options: LD3 | None = None, *, sigma_min: float | None = None,
              process: Process = VE, clock: Clock | None = None, faithful: bool = False,
              state: dict[str, Tensor] | None = None) -> Iterator[Progress]:
    """Levels, and levels told to the network, that bring the lesson's plan nearest to the teacher.

    sigmas: a schedule with the same ends and number of steps; sigma_min, process, clock, faithful: see discretization.
    Half of the noises not held back are learned from, the other half chooses the best numbers at a check after every
    iteration. What is better than sigmas there neither in the mean nor in the median gives way to sigmas at the end.
    The last state has "sigmas" and "cond_sigmas" (N + 1,), "errors" and "given_errors" (held,), root mean square
    distances of the held-back noises with them and with the schedule given, "alone_errors" with the levels alone, and
    "checks", the losses of all checks. Earlier ones have the best "sigmas" so far.
    A Progress after each iteration. Cost: ld3_cost.
    Source: Tong et al. 2024, arXiv 2405.15506, algorithm 1 and the authors' code.
    """
    options = options or LD3()
    levels = discretization(sigmas, mode=options.mode, sigma_min=sigma_min, process=process, clock=clock,
                            faithful=faithful)
    if options.init not in INITS:
        raise ValueError(f"init must be one of {', '.join(INITS)}, got {options.init!r}")
    require_no_noise(lesson.plan(sigmas))
    student = Student(lesson, levels, options)
    start = levels.matching(sigmas) if options.init == "given" else levels.even(len(sigmas) - 1)
    training = Training(student, start, state)
    total = ld3_cost(calls_of(lesson.plan(sigmas)), len(lesson.x), lesson.held, options)
    going = options.rounds_v1 + options.rounds_v2 > 0 and (state is None or "going" not in state or state["going"])
    while going:
        going = training.work()
        done = training.counts["calls"]
        sigmas_so_far, _ = student.lists(Numbers(*training.best[:2]))
        yield Progress(done, max(total, done), {**training.state(), "going": torch.tensor(going),
                                                "sigmas": sigmas_so_far},
                       losses=tuple(training.checks.tolist()))
    kept = _judged(student, training, sigmas)
    yield Progress(total, total, {**training.state(), "going": torch.tensor(False), **kept},
                   losses=tuple(training.checks.tolist()))


def ld3_cost(calls: int, samples: int, held: int, options: LD3) -> int:
    """Model calls of learn_ld3 at most, each on one picture, with a plan of so many; one with its way back counts as
    four."""
    fitting, choosing = (len(part) for part in halves(samples - held))
    iterations = -(-fitting // options.minibatch)
    rounds = options.rounds_v1 + options.rounds_v2
    if options.most_iterations:
        rounds = min(rounds, -(-options.most_iterations // iterations))
    moving = options.soft_radius != 0.0
    each = (1 + iterations) * choosing + fitting * (4 + moving) + choosing * 5 * moving
    return calls * (rounds * each + 2 * choosing + 3 * held)


def _judged(student: Student, training: Training, sigmas: list[float]) -> dict[str, Tensor]:
    """The levels that learning ends with, and how near they lead."""
    given = (torch.tensor(sigmas, dtype=torch.float64),) * 2
    lists = student.lists(Numbers(*training.best[:2]))
    losses = [student.losses(found, training.noises, training.choosing) for found in (lists, given)]
    if losses[0].mean() >= losses[1].mean() and losses[0].median() >= losses[1].median():
        lists = given
    judging = student.lesson.judging
    return {"sigmas": lists[0], "cond_sigmas": lists[1], "errors": student.errors(lists, judging),
            "given_errors": student.errors(given, judging),
            "alone_errors": student.errors((lists[0], lists[0]), judging)}
