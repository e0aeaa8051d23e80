"""The optimizers of `python -m odeon.bench schedules` beside learned levels and plans, each with a small budget."""
import torch

from ..samplers.ddim import plan_ddim
from ..samplers.process import FLOW
from ..schedules.classic import classic_sigmas
from ..schedules.dmn import dmn_sigmas
from ..schedules.optimize.align_your_steps import AlignYourSteps, align_your_steps
from ..schedules.optimize.boss import search_boss
from ..schedules.optimize.evolution import Breeding, evolve, levels_found
from ..schedules.optimize.gits import search_gits
from ..schedules.optimize.ld3 import learn_ld3
from ..schedules.optimize.ld3_training import LD3
from ..schedules.optimize.oss import search_oss
from ..schedules.optimize.teacher import Lesson, Score, of_items, score_of
from ..schedules.optimize.time_tuner import Tuning, label_clock, tune_times
from .schedules_problems import Problem

GRID = 40  # intervals to choose from
FEW = 8  # noises that grids are searched on


def small(on: Problem) -> bool:
    """Whether model calls are dear."""
    return not on.name.startswith("exact")


def grid_of(on: Problem, intervals: int = GRID) -> list[float]:
    return classic_sigmas("simple" if on.process is FLOW else "karras", on.levels, intervals).tolist()


def dmn(on: Problem, steps: int, targets) -> list[float]:
    return dmn_sigmas(steps, sigma_max=on.top, sigma_min=float(on.levels.sigma_min), process=on.process,
                      clock=on.clock).sigmas.tolist()


def by_grid(search):
    """Levels of BOSS, GITS or OSS."""
    def levels(on: Problem, steps: int, targets) -> list[float]:
        part = slice(0, FEW if small(on) else 32)
        model = of_items(on.model, part)
        *_, last = search(model, on.x[part], grid_of(on, 24 if small(on) else GRID), steps=steps, process=on.process)
        return last.state["sigmas"].tolist()
    return levels


def aligned(lesson: Lesson, on: Problem, steps: int, start: list[float]) -> list[float]:
    options = AlignYourSteps(steps=steps, mc_samples=32 if small(on) else 256, max_iters=12, refine=0,
                             sigma_min=float(on.levels.sigma_min), steps_init=steps)
    *_, last = align_your_steps(lesson, start, options, process=on.process)
    return last.state["sigmas"].tolist()


def ld3(lesson: Lesson, on: Problem, steps: int, start: list[float]) -> list[float]:
    options = LD3(decouple="off", most_iterations=20 if small(on) else 200, minibatch=2, soft_radius=0.0)
    *_, last = learn_ld3(lesson, start, options, sigma_min=float(on.levels.sigma_min), process=on.process,
                         clock=label_clock(on.levels.sigmas.tolist(), on.process))
    return last.state["sigmas"].tolist()


def autodiffusion(lesson: Lesson, on: Problem, steps: int, start: list[float]) -> list[float]:
    part = lesson
    if small(on):
        part = Lesson(lesson.model, lesson.x[:FEW + 1], lesson.targets[:FEW + 1], lesson.plan, held=1, top=lesson.top)
    breeding = Breeding(16, 4, 8, 4) if small(on) else Breeding()
    space = [*reversed(on.levels.sigmas.tolist()), 0.0]
    *_, last = evolve(part, space, steps=steps, epochs=3 if small(on) else 6, breeding=breeding, fitness="median")
    return levels_found(last.state, space)


def time_tuned(lesson: Lesson, on: Problem, steps: int, start: list[float]) -> Score:
    """Of Euler with TimeTuner's ratios, which are no levels."""
    told = Lesson(lesson.model, lesson.x, lesson.targets, lambda sigmas: plan_ddim(sigmas, process=on.process),
                  held=lesson.held, top=lesson.top)
    table = on.levels.sigmas.tolist()
    options = Tuning(iterations=12 if small(on) else 100, minibatch=4 if small(on) else 32)
    *_, last = tune_times(told, start, options, clock=label_clock(table, on.process), span=(table[0], table[-1]),
                          process=on.process)
    return score_of(last.state["errors"].flatten().to(torch.float64))


SHARED = {"DMN": dmn, "BOSS": by_grid(search_boss), "GITS": by_grid(search_gits), "OSS": by_grid(search_oss)}
BY_SOLVER = {"Align Your Steps": aligned, "LD3": ld3, "AutoDiffusion": autodiffusion}
EULER_ONLY = {"TimeTuner": time_tuned}
