"""The best family of levels, then levels, or a whole plan, learned from it for as long as there is time."""
import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ...measure.progress import Progress
from ...samplers.process import VE, Process
from ...samplers.table import Table, steps_of_table, table_of
from .fitted_levels import REACH, PlainLevels, power_starts, search_fitted_levels, search_levels
from .plan import GUIDED, PlanLesson, learn_plan
from .teacher import Lesson, Plan, Score, score_of, taught, teacher_cost

FEW, FEWEST = 8, 12  # noises that every family is tried on, before the best few are on all; that are taken at least
HEATS, APART = 2, 0.4  # schedules that levels are learned from for a while, and how far apart in log sigma they are
HEAT_NOISES, HEAT_NUMBERS = 16, 1024  # that they are learned on: so many noises, or more if a latent has few numbers
HEAT_ITERATIONS, HEAT_LITTLE = 20, 0.003  # and how far
STRIDE = 0.4  # the first reach of the search by trial that one of them comes from


class Found(NamedTuple):
    """What a search ended with. families: the best of them by name, on the held-back noises; learned, training: the
    learned one there, and on the noises it was learned from; kept: whether it is what is returned; noises: how many
    there was time for."""
    sigmas: Tensor
    learned: Score | None
    training: Score | None
    families: dict[str, Score]
    teacher: Score
    kept: bool
    noises: int

    @property
    def best_family(self) -> str:
        return min(self.families, key=lambda name: self.families[name].median)


class Search(NamedTuple):
    """How to search. minutes: for everything; free, iterations, minibatch, history, lower: see learn_plan;
    teacher_steps: 0 takes what a third of the time allows."""
    minutes: float
    free: str = "levels"
    iterations: int = 400
    minibatch: int = 12
    history: int = 0
    teacher_steps: int = 0
    lower: bool = True


def optimize_steps(model: Callable, x: Tensor, families: dict[str, list[float]], plan: Plan, search: Search, *,
                   sigma_min: float, process: Process = VE, look: Callable[[Tensor], Tensor] | None = None,
                   state: dict[str, Tensor] | None = None) -> Iterator[Progress]:
    """Levels for `plan`, or a plan of its own, never worse on held-back noises than `plan` on the best of `families`.

    x (B, ...) at the first level that the families share; the last third is held back. First the teacher; then every
    family is tried on FEW noises and the best three on all; then levels are learned (learn_plan) from the best start.
    Where search.free has levels and coefficients, levels are found by what their fitted coefficients are worth
    (search_fitted_levels), in half of the time at most; learning goes on with both from there. No gradients are needed.
    `found` reads the last state. The teacher gets a third of the time: where that is short, fewer of the noises are
    taken. Progress is of the time. look: see Lesson.
    """
    kept, begun = dict(state or {}), time.monotonic()
    top = max(levels[0] for levels in families.values())
    if "steps" not in kept or "noises" not in kept:
        kept["steps"], kept["noises"] = map(torch.tensor, _affordable(
            model, x, top, 20.0 * search.minutes, search.teacher_steps))
    teacher_steps, x = int(kept.pop("steps")), x[:int(kept.pop("noises"))]

    def go_on(targets: Tensor, state: dict[str, Tensor] | None) -> Iterator[Progress]:
        lesson = Lesson(model, x, targets, plan, held=max(len(x) // 3, 1), look=look, top=top)
        left = search.minutes - (time.monotonic() - begun) / 60.0
        yield from search_lesson(lesson, families, search._replace(minutes=left), process=process, state=state)

    for progress in taught(model, x, [top, 0.0], go_on, cost=len(families) * FEW, steps=teacher_steps,
                           sigma_min=sigma_min, process=process, look=look, state=kept):
        spent = (time.monotonic() - begun) / 60.0 / search.minutes
        yield progress._replace(done=int(1000.0 * min(spent, 0.999)), total=1000, state={
            **progress.state, "steps": torch.tensor(teacher_steps), "noises": torch.tensor(len(x))})


def steps_cost(families: dict[str, list[float]], calls: int, samples: int, teacher_steps: int = 0) -> int:
    """Model calls of optimize_steps before it learns, each on one picture; learning takes the time that is left."""
    return teacher_cost(teacher_steps or 60) * samples + len(families) * calls * FEW + 3 * calls * samples


def _affordable(model: Callable, x: Tensor, top: float, seconds: float, steps: int) -> tuple[int, int]:
    """Teacher steps, 40 to 60 unless there are `steps`, and noises, FEWEST or more, that fit into so many seconds by
    the time of a call."""
    model(x[:1], top)  # the first one may load the model
    begun = time.monotonic()
    model(x[:FEW], top)
    calls = min(seconds / 1.5 * len(x[:FEW]) / max(time.monotonic() - begun, 1e-9), 1e9)
    steps = steps or min(max(int(calls / len(x)), 40), 60)
    return steps, min(max(int(calls / steps), FEWEST), len(x))


def search_lesson(lesson: Lesson, families: dict[str, list[float]], search: Search, *, process: Process = VE,
                  state: dict[str, Tensor] | None = None) -> Iterator[Progress]:
    """What optimize_steps does once the teacher's ends are there."""
    begun, kept, names = time.monotonic(), dict(state or {}), list(families)
    few = slice(0, min(FEW, lesson.training.stop))
    if "few" not in kept:
        kept["few"] = torch.tensor([lesson.score(families[name], few).median for name in names])
        yield _progress(lesson, kept)
    best = [families[names[i]] for i in kept["few"].argsort()[:3].tolist()]
    if "judged" not in kept:
        scores = [(lesson.score(levels, lesson.training), lesson.score(levels)) for levels in best]
        kept["judged"] = torch.tensor([[*training, *judged] for training, judged in scores], dtype=torch.float64)
        kept.update(_of_plan(lesson, best[int(kept["judged"][:, 0].argmin())]))
        yield _progress(lesson, kept)
    start = best[int(kept["judged"][:, 0].argmin())]
    powers = power_starts(start[0], len(start) - 1, process) if start[-1] == 0.0 else []
    if search.free == "levels" and len(start) > 2:
        for progress in _heats(lesson, [start, *_distinct(families, kept["few"]), *powers], search, process, kept):
            kept.update(progress.state)
            yield progress._replace(state=dict(kept))
        start = kept["start"].tolist()
    elif len(start) > 2:
        starts = [start] if search.free == "coefficients" else [*_distinct(families, kept["few"]), *powers]
        for progress in _fitted(lesson, starts, search, process, kept, until=begun + 30.0 * search.minutes):
            kept.update(progress.state)
            yield progress._replace(state=dict(kept))
        start = kept["fitted"].tolist()
    if len(start) > 2:
        for progress in learn_plan(
                lesson, start, free=search.free, iterations=search.iterations, minibatch=search.minibatch,
                history=search.history, minutes=search.minutes - (time.monotonic() - begun) / 60.0,
                change=kept.get("fitted_change"), lower=search.lower, process=process, state=kept):
            kept.update(progress.state)
            yield progress._replace(state=dict(kept))
        kept["learned"] = torch.tensor(_scores(lesson, kept), dtype=torch.float64)
        judged = kept["judged"][:, 2]
        if not float(kept["learned"][1, 0]) <= float(judged.min()):
            kept.update(_of_plan(lesson, best[int(judged.argmin())]))
    yield _progress(lesson, kept)


def _heats(lesson: Lesson, starts: list[list[float]], search: Search, process: Process, state: dict[str, Tensor]
           ) -> Iterator[Progress]:
    """"start": of a few unlike schedules the one whose levels, learned for a short while on some of the noises, end
    nearest: where learning ends has little to do with how near a schedule is as it is. Where the first level may be
    lower, all have a second heat with that: which leads farther differs by solver. The nearest schedule is searched by
    trial before, and the end behind: long moves find what least squares don't where guidance makes ends jump."""
    def searched(start: list[float], share: float) -> Tensor:
        judge = PlainLevels(PlanLesson(lesson, start, process=process), noises)
        *_, last = search_levels(judge, lesson, [start], process=process, reach=STRIDE, lower=search.lower,
                                 until=lambda: time.monotonic() > begun + 60.0 * share * search.minutes)
        return last.state["levels"]

    begun, few = time.monotonic(), slice(0, min(FEW, lesson.training.stop))
    noises = max(HEAT_NOISES, HEAT_NUMBERS // lesson.x[0].numel())
    if "heats" not in state:
        plain = torch.tensor([lesson.score(levels, few).median if time.monotonic() < begun + 6.0 * search.minutes
                              else math.inf for levels in starts])
        near = [starts[place] for place in plain.argsort().tolist()]
        chosen = _unlike([searched(near[0], 0.15).tolist(), *near])
        state = {**state, "heats": torch.tensor(chosen, dtype=torch.float64), "heat": torch.tensor(0),
                 "start": torch.tensor(chosen[0], dtype=torch.float64)}
        yield _progress(lesson, state)
    count = len(state["heats"])
    all_heats = count * (1 + search.lower)
    for place in range(int(state["heat"]), all_heats):
        left = 0.3 * search.minutes - (time.monotonic() - begun) / 60.0
        if left < 0.0:
            break
        *_, last = learn_plan(lesson, state["heats"][place % count].tolist(), free="levels", few=noises, minutes=left,
                              iterations=min(search.iterations, HEAT_ITERATIONS), minibatch=search.minibatch,
                              little=HEAT_LITTLE, lower=place >= count, process=process)
        state = {**state, "heat": torch.tensor(place + 1)}
        if last.state["loss"] < state.get("heat_loss", math.inf):
            state |= {"heat_loss": last.state["loss"], "start": last.state["sigmas"]}
        yield _progress(lesson, state)
    if int(state["heat"]) <= all_heats:
        yield _progress(lesson, {**state, "heat": torch.tensor(all_heats + 1),
                                 "start": searched(state["start"].tolist(), 0.4)})


def _unlike(schedules: list[list[float]]) -> list[list[float]]:
    """The first HEATS that are not nearly another before them."""
    found: list[list[float]] = []
    for levels in schedules:
        logs = [math.log(level) for level in levels if level > 0.0]
        near = (max(abs(a - math.log(b)) for a, b in zip(logs, other)) for other in found)
        if all(distance > APART for distance in near):
            found.append(levels)
    return found[:HEATS]


def _distinct(families: dict[str, list[float]], few: Tensor) -> list[list[float]]:
    """The families, those that did best on FEW noises first, every one of their levels once."""
    found: list[list[float]] = []
    for place in few.argsort().tolist():
        levels = list(families.values())[place]
        if levels not in found:
            found.append(levels)
    return found


def _fitted(lesson: Lesson, starts: list[list[float]], search: Search, process: Process, state: dict[str, Tensor], *,
            until: float) -> Iterator[Progress]:
    """"fitted", the levels whose fitted plan ends nearest, and "fitted_change", of its coefficients."""
    if "fitted" in state:
        return
    within = {name.removeprefix("fit."): value for name, value in state.items() if name.startswith("fit.")}
    for progress in search_fitted_levels(lesson, starts, process=process, reach=REACH[0] if len(starts) > 1 else 0.0,
                                         until=lambda: time.monotonic() > until, guided=search.free == GUIDED,
                                         lower=search.lower, state=within):
        within = progress.state
        yield _progress(lesson, {**state, **{f"fit.{name}": value for name, value in within.items()}})
    found = {f"fitted{'_change' * (name == 'change')}": within[name] for name in ("levels", "change") if name in within}
    yield _progress(lesson, {**state, **found})


def _of_plan(lesson: Lesson, levels: list[float]) -> dict[str, Tensor]:
    """The plan on a family, as an optimizer's result."""
    table = table_of(lesson.plan(levels))
    return {"sigmas": torch.tensor(levels, dtype=torch.float64), "levels": table.levels, "x": table.x, "d": table.d}


def _scores(lesson: Lesson, state: dict[str, Tensor]) -> list[Score]:
    """Of the learned numbers, on the noises learned from and on the held-back ones."""
    steps = steps_of_table(table_in(state), float(state["sigmas"][-1]))
    return [score_of(lesson.errors(steps, where)) for where in (lesson.training, lesson.judging)]


def table_in(state: dict[str, Tensor]) -> Table:
    """The table of a state."""
    return Table(state["levels"], state["x"], state["d"], torch.zeros(len(state["x"]), 0, dtype=torch.float64))


def _progress(lesson: Lesson, state: dict[str, Tensor]) -> Progress:
    return Progress(lesson.calls, lesson.calls + 1, dict(state))


def found(state: dict[str, Tensor], families: dict[str, list[float]]) -> Found:
    """What the last state of optimize_steps says."""
    best = [list(families)[i] for i in state["few"].argsort()[:3].tolist()]
    judged = {name: Score(*row[2:].tolist()) for name, row in zip(best, state["judged"])}
    training, learned = (Score(*row) for row in state["learned"].tolist()) if "learned" in state else (None, None)
    kept = learned is not None and learned.median <= min(score.median for score in judged.values())
    moves = state["teacher.error"]
    return Found(state["sigmas"], learned, training, judged, score_of(moves), kept, len(moves))


def same_start(families: dict[str, list[float]], top: float) -> dict[str, list[float]]:
    """The families whose first level is `top`, to float32 rounding, and is then exactly that."""
    return {name: [top, *levels[1:]] for name, levels in families.items()
            if len(levels) > 1 and math.isclose(levels[0], top, rel_tol=1e-4)}
