"""Schedules picked out of a fine grid by dynamic programming: BOSS, GITS, OSS."""
import time

from ..measure.plot import Curve
from ..schedules.optimize.boss import search_boss
from ..schedules.optimize.gits import METRICS, SOLVERS, gits_cost, search_gits
from ..schedules.optimize.oss import MERGES, oss_cost, search_oss
from ..schedules.optimize.shortest import path_cost, require_steps, shortest_path, uniform_path
from ..schedules.optimize.straight import straight_cost
from .inputs import BOOLEAN, CHOICE, FLOAT, INT
from .optimize import OptimizeNode, Task

GRID = "The levels to pick from: a schedule of 30 to 100 steps for this model."
PICKED = INT(6, 1, 1000, "Steps to pick.")


class OdeonOptimizeBOSS(OptimizeNode):
    TITLE = "Pick levels (BOSS)"
    DESCRIPTION = "Picks the levels of a fine schedule between which your model's path is straightest. One run of it."
    SEARCH_ALIASES = ["boss", "bellman", "optimal stepsize", "optimize steps", "few steps", "dynamic programming"]

    @classmethod
    def INPUT_TYPES(cls):
        return cls.inputs(GRID, steps=PICKED)

    def optimize(self, task: Task, *, steps):
        levels = task.levels
        require_steps(steps, len(levels) - 1)
        cost, began = straight_cost(task.samples, len(levels) - 1, task.batch), time.perf_counter()

        def start(denoise, x, *, state, process, clock):
            return search_boss(denoise, x, levels, steps=steps, process=process, batch=task.batch, state=state)

        state, about = task.run(start, what="BOSS levels", cost=cost, options={"steps": steps})
        return self.results(
            state["sigmas"], about, curves=_by_steps(state["costs"], steps, 1.0), title="squared error of all steps",
            x_label="steps", y_label="squared error", report=[
                *_picked(state), "squared error that its steps add up to: "
                f"{state['cost']:.4g}, of steps evenly spread over the grid {state['uniform_cost']:.4g}",
                _spent(task, cost, began)])


class OdeonOptimizeGITS(OptimizeNode):
    TITLE = "Pick levels (GITS)"
    DESCRIPTION = "Picks the levels of a fine schedule whose steps bend least away from your model's own path."
    SEARCH_ALIASES = ["gits", "trajectory regularity", "optimize steps", "few steps", "dynamic programming", "afs"]

    @classmethod
    def INPUT_TYPES(cls):
        return cls.inputs(
            GRID, steps=PICKED,
            metric=CHOICE(METRICS, "What a step costs: how far it leads off the straight line between the run's ends "
                                   "(dev), or from the run itself."),
            coeff=FLOAT(1.15, 0.1, 10.0, "Above 1 errors of later steps weigh more, which moves levels down: 1.15 is "
                                         "usual, 1.2 for Stable Diffusion.", step=0.01),
            afs=BOOLEAN(False, "Starts lower: the first step is spared, and its noise begins at the best level below "
                               "it. Gains much at few steps; from an empty latent only."),
            teacher=CHOICE(SOLVERS, "Solver of the run over the whole grid.", advanced=True),
            student=CHOICE(SOLVERS, "Only for afs: the sampler the steps are for.", default="euler", advanced=True))

    def optimize(self, task: Task, *, steps, coeff, afs, **options):
        levels = task.levels
        require_steps(steps, len(levels) - 1)
        began = time.perf_counter()

        def start(denoise, x, *, state, process, clock):
            return search_gits(denoise, x, levels, steps=steps, coeff=coeff, afs=afs, process=process,
                               batch=task.batch, state=state, **options)

        state, about = task.run(
            start, what="GITS levels", options={"steps": steps, "coeff": coeff, "afs": afs, **options},
            cost=gits_cost(task.samples, len(levels) - 1, steps, afs=afs, batch=task.batch))
        calls = straight_cost(task.samples, len(levels) - 1, task.batch)
        calls += len(state.get("misses", ())) * straight_cost(task.samples, steps, task.batch)
        spared = len(state["sigmas"]) > steps + 1
        sigmas, indices = (state[name][int(spared):] for name in ("sigmas", "indices"))
        notes = ["The grid's first step is spared: noise begins below it."] if spared else []
        if afs and not spared:
            notes = ["afs found no level between the first two, so that nothing is spared; a finer grid has some."]
        return self.results(
            sigmas, about, curves=_by_steps(state["costs"], steps, coeff), title="what steps miss, weighted by coeff",
            x_label="steps", y_label=options["metric"], log=False, report=[
                *_picked({"sigmas": sigmas, "indices": indices}), *notes, f"what its steps miss ({options['metric']}, "
                f"weighted{', before the first is spared' * spared}): {state['cost']:.4g}, of steps evenly spread over "
                f"the grid {state['uniform_cost']:.4g}", _spent(task, calls, began)])


class OdeonOptimizeOSS(OptimizeNode):
    TITLE = "Pick levels (OSS)"
    DESCRIPTION = "Picks the levels of a fine schedule by which few Euler steps end nearest to the whole of it."
    SEARCH_ALIASES = ["oss", "optimal steps", "optimal stepsize", "optimize steps", "few steps", "dynamic programming"]

    @classmethod
    def INPUT_TYPES(cls):
        return cls.inputs(
            GRID, samples=8, steps=PICKED,
            start=CHOICE(["scaled", "first"], "scaled: noise may begin at a lower level than the grid's first, which "
                         "gains much; from an empty latent only. first: holds to the first level."),
            merge=CHOICE(MERGES, "Each picture has its best steps: median takes the middle ones, first those of the "
                                 "first picture."),
            norm=FLOAT(2.0, 0.1, 10.0, "Distance to the whole run: 2 squared, 1 absolute.", step=0.1, advanced=True),
            channels=INT(0, 0, 1024, "Only so many first channels of the latent count; 0 all.", advanced=True),
            frames=INT(0, 0, 100000, "Video: only so many frames, evenly spread, count; 0 all.", advanced=True))

    def optimize(self, task: Task, *, steps, start, **options):
        levels = task.levels
        require_steps(steps, len(levels) - 1)
        cost, began = oss_cost(len(levels) - 1, steps, start=start), time.perf_counter()

        def search(denoise, x, *, state, process, clock):
            return search_oss(denoise, x, levels, steps=steps, start=start, process=process, state=state, **options)

        state, about = task.run(search, what="OSS levels", cost=cost,
                                options={"steps": steps, "start": start, **options})
        notes = []
        if len(state["sigmas"]) <= steps:
            notes = [f"Steps of the pictures coincide: {len(state['sigmas']) - 1} are left of {steps}."]
        ends = state["ends"].mean(1).tolist()
        found, even = state["cost"].item(), state["uniform_cost"].item()
        return self.results(
            state["sigmas"], about, title="distance to the end of the whole grid", x_label="steps",
            y_label=f"mean of |difference|^{options['norm']:g}", curves={
                "each picture's own steps": list(enumerate(ends, 1)), "found for all": [(steps, found)],
                "evenly spread": [(steps, even)]},
            report=[*_picked(state), *notes, "distance to the end of the whole grid, mean of |difference|^"
                    f"{options['norm']:g} on the pictures it was found on: {found:.4g}, each with its own steps "
                    f"{ends[-1]:.4g}, with steps evenly spread over the grid {even:.4g}",
                    _spent(task, cost * -(-task.samples // task.batch), began)])


def _picked(state: dict) -> list[str]:
    levels = ", ".join(f"{sigma:.5g}" for sigma in state["sigmas"].tolist())
    places = ", ".join(str(place) for place in state["indices"].tolist())
    return [f"levels, {len(state['sigmas']) - 1} steps: {levels}", f"places in the grid: {places}"]


def _spent(task: Task, calls: int, began: float) -> str:
    return (f"{calls} model calls on up to {min(task.batch, task.samples)} pictures, "
            f"{time.perf_counter() - began:.1f} seconds in this run")


def _by_steps(costs, steps: int, coeff: float) -> dict[str, Curve]:
    """The cost of the best path and of the even one by number of steps."""
    last = len(costs) - 1
    curves = {"found": [], "evenly spread": []}
    for count in range(1, min(last, max(2 * steps, 12)) + 1):
        for name, path in (("found", shortest_path(costs, count, coeff=coeff)),
                           ("evenly spread", uniform_path(last, count))):
            curves[name].append((count, path_cost(costs, path, coeff=coeff)))
    return curves


NODES = (OdeonOptimizeBOSS, OdeonOptimizeGITS, OdeonOptimizeOSS)
