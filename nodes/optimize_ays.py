"""The Align Your Steps optimizer."""
import time

from .. import host
from ..schedules.optimize.align_your_steps import (
    ENDS,
    ESTIMATES,
    STOPS,
    AlignYourSteps,
    Frame,
    align_your_steps,
    ays_cost,
    require_pictures,
)
from ..schedules.optimize.klub import SOLVERS
from ..schedules.optimize.teacher import Lesson, require_no_noise, score_of, taught, teacher_cost
from .inputs import CHOICE, FLOAT, INT, SOCKET
from .optimize import OptimizeNode, Task


class OdeonOptimizeAlignYourSteps(OptimizeNode):
    TITLE = "Find levels (Align Your Steps)"
    DESCRIPTION = "Finds the noise levels for your own model as Align Your Steps does, for any sampler and CFG."
    SEARCH_ALIASES = ["ays", "align your steps", "klub", "optimized schedule", "optimize steps", "sabour", "nvidia"]

    @classmethod
    def INPUT_TYPES(cls):
        asked = cls.inputs(
            "Where to start from, any number of steps; its ends stay.",
            sampler=SOCKET("SAMPLER", "The sampler the steps are for: one of Odeon's, its eta at 0."),
            steps=INT(10, 1, 1000, "Steps wanted."),
            steps_init=INT(10, 3, 100, "Steps to search with first. The paper takes 10; the number of steps wanted "
                                       "suits the sampler better."),
            refine=INT(2, 0, 4, "So often the steps are doubled after the search: 2 makes 20 and 40 of 10. Other "
                                "numbers of steps are read from the finest."),
            mc_samples=INT(64, 1, 65536, "Noisy pictures the bound is measured on, at 64 levels each."),
            candidates=INT(11, 3, 101, "Places tried for a level at a time.", advanced=True),
            max_iters=INT(30, 1, 1000, "At most so often all levels are gone through."),
            stop=CHOICE(STOPS, "teacher_distance: keeps what brings your sampler nearest to an accurate run. "
                               "no_change: goes on to the least bound, often too far for few steps."),
            solver=CHOICE(SOLVERS, "ddim: the bound as published, for every sampler. 2m: for samplers that go on along "
                                   "the last two predictions, as DPM-Solver++(2M)."),
            c=FLOAT(0.5, 0.01, 100.0, "Only for draws: spread of the data that levels are drawn for; the result "
                                      "hardly depends on it.", advanced=True),
            estimate=CHOICE(ESTIMATES, "table: all bounds from predictions measured once. draws: new ones for each "
                                       "place tried, as published; ten to fifty times as long.", advanced=True),
            end=CHOICE(ENDS, "Where the schedule ends at 0: zero: the last step skips sigma_min, as published lists "
                             "are used. append_zero: it goes there first.", advanced=True),
            sigma_min=FLOAT(0.03, 0.0001, 10.0, "Lowest level that counts; what lies below is a single step.",
                            step=0.0001, advanced=True),
            reach=FLOAT(0.25, 0.01, 1.0, "How far a level may move at a time, as a share of the way to the next one. "
                                         "Small steps find the right place to stop.", advanced=True))
        return {**asked, "optional": {"data": SOCKET("LATENT", "Pictures like those that will be drawn, from VAE "
                                                               "Encode. Without them the model draws its own.")}}

    def optimize(self, task: Task, sampler, data=None, **given):
        levels, process = task.levels, host.process_of(task.model)
        options, held = AlignYourSteps(**given, seed=task.start_seed), max(task.samples // 3, 1)
        options.check()
        began = time.perf_counter()
        require_no_noise(host.plan_for(task.model, sampler)(levels))
        pictures = None if data is None else host.of_latent(task.model, data["samples"])
        training = task.samples - held
        cost = ays_cost(options, pictures=training if data is None else len(pictures), training=training, held=held)

        def start(denoise, x, *, state, process, clock):
            if pictures is not None:
                require_pictures(pictures, x)
            plan = host.student(sampler, process, clock)
            return taught(denoise, x, levels, lambda targets, state: align_your_steps(
                Lesson(denoise, x, targets, plan, held=held), levels, options, data=pictures, batch=task.batch,
                process=process, state=state), cost=cost, sigma_min=task.sigma_min, process=process, state=state)

        plan_fn, chosen = host.plan_of(sampler)
        state, about = task.run(
            start, what="Align Your Steps levels", cost=cost + teacher_cost(),
            options={**given, "sampler": plan_fn.__name__, "sampler_options": str(sorted(chosen.items())),
                     "data": "" if data is None else host.key_of(data["samples"])})
        calls = int(state["calls"]) + teacher_cost() * task.samples
        return self.results(
            state["sigmas"], about, title="the search, relative to its start", x_label="sweep",
            curves={"bound": _over_first(state["klubs"]), "distance to the teacher": _over_first(state["distances"])},
            report=[*_found(state, Frame(levels, options, process), plan_fn.__name__.removeprefix("plan_")),
                    *_gain(state, held), f"{calls} model calls, each on one picture, "
                    f"{time.perf_counter() - began:.1f} seconds in this run"])


def _over_first(values) -> list[tuple[float, float]]:
    return list(enumerate((values / values[0]).tolist() if len(values) else []))


def _found(state: dict, frame: Frame, sampler: str) -> list[str]:
    klubs, kept, options = state["klubs"].tolist(), int(state["kept"]), frame.options
    why = f", nearest to the teacher with {sampler}" if options.stop == "teacher_distance" else ""
    stages = [state[name] for name in sorted(state) if name.startswith("stage ")]
    lines = [f"levels, {options.steps} steps: {_list(state['sigmas'].tolist())}",
             f"bound {klubs[0]:.4g} at the start, {klubs[kept]:.4g} after sweep {kept} of {len(klubs) - 1}{why}"]
    for stage in stages:
        schedule = frame.closed(stage.tolist())
        lines.append(f"found at {len(schedule) - 1} steps: {_list(schedule)}")
    return lines


def _gain(state: dict, held: int) -> list[str]:
    same = (state["errors"] == state["given_errors"]).all()
    return [f"distance to the teacher on {held} pictures that nothing was chosen by:",
            f"  as given: {score_of(state['given_errors'])}", f"  found: {score_of(state['errors'])}",
            f"  (the teacher itself is off by less than {state['teacher.error'].median().item():.2g} for a typical "
            "picture)",
            *["Nothing came nearer than the schedule given; it is handed on. Start from another."] * bool(same)]


def _list(sigmas: list[float]) -> str:
    return ", ".join(f"{sigma:.5g}" for sigma in sigmas)


NODES = (OdeonOptimizeAlignYourSteps,)
