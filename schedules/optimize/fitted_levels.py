"""Levels found by trial, for a plan as it is or with fitted coefficients: a fit takes no more calls than a run."""
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ...measure.dc_ratios import teacher_states
from ...measure.progress import Progress
from ...samplers.linear import Step
from ...samplers.process import FLOW, VE, Process
from ...samplers.table import Table, steps_of_table, table_of, widened
from ..power import power_sigmas
from .plan import FLOOR, PlanLesson
from .teacher import Lesson, teacher_levels, training_items

KNOTS = 36  # levels of the accurate run between which its states are read
NOISES = 16  # that a fit is made on, and as many others that it is judged on
LAST = {VE: (0.06, 0.12, 0.2, 0.3, 0.45), FLOW: (0.02, 0.05, 0.1, 0.2, 0.3)}  # levels to take the last step from
RHOS = (3.0, 7.0, 100.0)  # 100 is even in log sigma, nearly
RIDGE = 1e-6  # of the mean square of a row's differences, so that nearly equal predictions share their weight
REACH = (0.3, 0.1)  # of trials, in the log of a step of -log sigma: the first, and the least


def power_starts(top: float, steps: int, process: Process = VE) -> list[list[float]]:
    """Schedules of so many steps from `top` to 0, powers to every LAST level below it, for searches to start from."""
    lasts = [last for last in LAST[process] if last < top] if steps > 1 else []
    return [[top, *power_sigmas(steps, top, last, rho).tolist()[1:-1], 0.0] if steps > 2 else [top, last, 0.0]
            for last in lasts for rho in (RHOS if steps > 2 else RHOS[:1])]


class FittedLevels:
    """What a plan on some levels is worth once its coefficients are fitted to them (changes_of), on NOISES noises.

    The states that coefficients are fitted to are read off one accurate run, by cubic splines in log sigma. guided:
    coefficients of what guidance made of each prediction are fitted too.
    """

    def __init__(self, lesson: Lesson, top: float, low: float, *, process: Process = VE, guided: bool = False):
        self.guided, self.top = guided, top
        items = training_items(lesson)
        cut = len(items) - max(len(items) // 3, 1)
        self.lesson, self.fitting, self.choosing = lesson, items[:cut][:NOISES], items[cut:][:NOISES]
        self.knots = teacher_levels([top, 0.0], KNOTS + 1, sigma_min=low, process=process)[:-1]
        model, x = lesson.model_of(self.fitting), lesson.x[self.fitting]
        *_, last = teacher_states(model, x, self.knots, steps=len(self.knots) - 1, process=process,
                                  solver="exponential_adams", lag=0)
        self.model, self.x = model, x
        self.states = torch.cat([x.cpu()[None], last.state["states"].to(x.cpu())])

    def states_at(self, levels: list[float]) -> list[Tensor]:
        """Of the accurate run."""
        from scipy.interpolate import CubicSpline

        spline = CubicSpline([-math.log(level) for level in self.knots], torch.eye(len(self.knots)).numpy())
        weights = torch.from_numpy(spline([-math.log(level) for level in levels])).to(self.states)
        return [state.to(self.x) for state in torch.einsum("qk,k...->q...", weights, self.states)]

    def fitted(self, levels: list[float]) -> tuple[list[Step], Tensor]:
        """The plan on these levels with fitted coefficients, and their changes."""
        above = [level for level in levels if level > 0.0]
        wanted = dict(zip(above, self.states_at(above)))
        table = widened(table_of(self.lesson.plan(levels)), 1 + self.guided)
        x, ends = self.x * (levels[0] / self.top), self.lesson.targets[self.fitting]
        change = changes_of(self.model, x, table, wanted, ends)
        return steps_of_table(table._replace(d=table.d + change), levels[-1]), change

    @torch.no_grad()
    def distance(self, levels: list[float]) -> tuple[float, dict[str, Tensor]]:
        """Mean log of the distances to the teacher on the other noises, and the "change" of the coefficients; infinite
        below the last knot."""
        if any(0.0 < level < self.knots[-1] for level in levels):
            return math.inf, {}
        steps, change = self.fitted(levels)
        return float((self.lesson.errors(steps, self.choosing) + FLOOR).log().mean()), {"change": change}


class PlainLevels:
    """What levels are worth to the lesson's plan as it is, on its first training noises, so many. Calls that a schedule
    shares with the best one before it are not made again."""

    def __init__(self, student: PlanLesson, noises: int):
        self.student, self.items = student, training_items(student.lesson)[:noises]
        self.best, self.near = math.inf, None

    @torch.no_grad()
    def distance(self, levels: list[float]) -> tuple[float, dict[str, Tensor]]:
        """Mean log of the distances to the teacher, and nothing else."""
        table = table_of(self.student.lesson.plan(levels))
        walk = self.student.walk(table, self.items, self.near)
        errors = self.student.missed(walk, self.items).square().mean(1).sqrt()
        found = float((errors + FLOOR).log().mean())
        if found < self.best:
            self.best, self.near = found, walk
        return found, {}


def search_fitted_levels(lesson: Lesson, starts: list[list[float]], *, process: Process = VE, guided: bool = False,
                         reach: float = REACH[0], until: Callable[[], bool] = lambda: False, lower: bool = False,
                         state: dict[str, Tensor] | None = None) -> Iterator[Progress]:
    """search_levels for a plan with fitted coefficients; state["change"]: of these, once a start was tried.

    guided: see FittedLevels. Each trial costs the calls of two runs on NOISES noises. What a schedule is worth to a
    fitted plan and as it is have little in common.
    """
    low = min(level for levels in starts for level in levels if level > 0.0)
    judge = FittedLevels(lesson, lesson.top or starts[0][0], low, process=process, guided=guided)
    yield from search_levels(judge, lesson, starts, process=process, reach=reach, until=until, lower=lower, state=state)


def search_levels(judge: FittedLevels | PlainLevels, lesson: Lesson, starts: list[list[float]], *,
                  process: Process = VE, reach: float = REACH[0], until: Callable[[], bool] = lambda: False,
                  lower: bool = False, state: dict[str, Tensor] | None = None) -> Iterator[Progress]:
    """state["levels"], those that the judge finds nearest: the best of `starts`, all with the same first and last
    level, then one step of it after the other made longer or shorter, by less once nothing helps, until() says so.
    reach: of the first of these moves, in the log of a step of -log sigma; 0 makes none. lower: see PlanLesson.

    A Progress first and after every trial, resumable behind it. Its moves are long enough to leave places where no
    small one helps, as there are many of under guidance.
    """
    kept = dict(state or {})
    kept.setdefault("levels", torch.tensor(starts[0], dtype=torch.float64))
    tried, best = int(kept.get("tried", 0)), float(kept.get("distance", math.inf))

    def progress() -> Progress:
        return Progress(lesson.calls, lesson.calls + 1, {**kept, "tried": torch.tensor(tried),
                                                         "distance": torch.tensor(best, dtype=torch.float64)})

    yield progress()
    while tried < len(starts) and not until():
        found, more = judge.distance(starts[tried])
        if found < best:
            best = found
            kept |= {"levels": torch.tensor(starts[tried], dtype=torch.float64), **more}
        tried += 1
        yield progress()
    student = PlanLesson(lesson, kept["levels"].tolist(), process=process, lower=lower)
    theta, reach = kept.get("theta", student.numbers.theta), float(kept.get("reach", reach))
    trials = [(place, way) for place in range(not lower, len(theta)) for way in (1.0, -1.0)]
    since = int(kept.get("since", 0))
    while reach >= REACH[1] and trials and not until():
        place, way = trials[(tried - len(starts)) % len(trials)]
        trial = theta.clone()
        trial[place] += way * reach
        levels = student.sigmas(trial)
        same = torch.equal(levels, student.sigmas(theta))  # the first level above its bound
        found, more = (math.inf, {}) if same else judge.distance(levels.tolist())
        tried, since = tried + 1, since + 1
        if found < best:
            best, theta, since = found, trial, 0
            kept |= {"levels": levels, **more}
        elif since == len(trials):
            reach, since = reach / 2.0, 0
        kept |= {"theta": theta, "reach": torch.tensor(reach, dtype=torch.float64), "since": torch.tensor(since)}
        yield progress()


@torch.no_grad()
def changes_of(model: Callable, x: Tensor, table: Table, wanted: dict[float, Tensor], ends: Tensor) -> Tensor:
    """Changes of every row of a table's d, zero-sum those of D, for the least distance of each model call's state from
    `wanted` at its level, and of the end from `ends`. Calls at other levels stay as the table has them.

    The distance is weighed by one over each noise's own, so that the few that end elsewhere do not rule. Rows are taken
    in turn, each on the states that the changed rows before it lead to: a fit takes the calls of one run.
    Source: own; the least squares of one step are those of improved integration approximation, arXiv 2304.11328.
    """
    change, found, each = torch.zeros_like(table.d), [], 1 + table.guided
    levels = table.levels.tolist()
    for row in range(len(table.x)):
        state = float(table.x[row]) * x
        for coef, denoised in zip(table.d[row].tolist(), found):
            state = state + coef * denoised
        goal = ends if row == len(levels) else wanted.get(levels[row])
        if goal is not None and len(found) > 1:
            own = torch.tensor([place % each == 0 for place in range(1, len(found))])  # D, and not what guidance made
            weights = _least_squares([value - found[0] if is_own else value for value, is_own in zip(found[1:], own)],
                                     goal.to(x) - state)
            weights = torch.cat([-(own * weights).sum()[None], weights])
            change[row, :len(found)] = weights
            for weight, denoised in zip(weights.tolist(), found):
                state = state + weight * denoised
        if row < len(levels):
            new = model.apart(state, levels[row]) if table.guided else [model(state, levels[row])]
            found += [value.to(x) for value in new]
    return change


def _least_squares(basis: list[Tensor], missing: Tensor) -> Tensor:
    """Weights of basis nearest to missing, every item weighed by one over what it is off with the weights before."""
    columns = torch.stack([value.cpu().double().flatten(1) for value in basis], -1)
    goal = missing.cpu().double().flatten(1)
    left = torch.ones_like(goal)
    for _ in range(4):
        share = 1.0 / (left.square().mean(1) + 1e-2 * left.square().mean() + 1e-12)
        gram = torch.einsum("bni,bnj,b->ij", columns, columns, share)
        gram = gram + (RIDGE * gram.diagonal().mean() + 1e-30) * torch.eye(len(gram), dtype=gram.dtype)
        weights = torch.linalg.solve(gram, torch.einsum("bni,bn,b->i", columns, goal, share))
        left = goal - columns @ weights
    return weights
