"""Schedules learned by gradients through the user's own model: LD3's levels, TimeTuner's told times."""
import torch

from .. import host
from ..samplers.ddim import plan_ddim
from ..schedules.optimize.ld3 import INITS, ld3_cost, learn_ld3
from ..schedules.optimize.ld3_levels import DECOUPLED, MODES
from ..schedules.optimize.ld3_training import LD3, LOSSES
from ..schedules.optimize.teacher import Lesson, calls_of, require_no_noise, score_of, taught, teacher_cost
from ..schedules.optimize.time_tuner import ORDERS, Tuning, label_clock, require_size, tune_cost, tune_times
from ..schedules.timesteps import told_places
from .inputs import CHOICE, FLOAT, INT, SOCKET
from .optimize import OptimizeNode

TEACHER_STEPS = INT(60, 8, 1000, "Steps of the accurate run to come near to.", advanced=True)
COND_TIP = ("For Conditioning sigmas, together with sigmas: what the network is told in place of each level.")


class LearnedNode(OptimizeNode):
    """An OptimizeNode that also finds the levels to tell the network."""
    RETURN_TYPES = (*OptimizeNode.RETURN_TYPES, "SIGMAS")
    RETURN_NAMES = (*OptimizeNode.RETURN_NAMES, "cond_sigmas")
    OUTPUT_TOOLTIPS = (*OptimizeNode.OUTPUT_TOOLTIPS, COND_TIP)

    def results(self, sigmas, about, *, cond_sigmas, **shown) -> dict:
        found = super().results(sigmas, about, **shown)
        return {**found, "result": (*found["result"], cond_sigmas.float())}


class OdeonOptimizeLD3(LearnedNode):
    TITLE = "Learn levels (LD3)"
    DESCRIPTION = "Learns the noise levels, and those told to the network, for one sampler by gradients through runs."
    SEARCH_ALIASES = ["ld3", "learned schedule", "optimize steps", "discretization", "few steps", "tong"]

    @classmethod
    def INPUT_TYPES(cls):
        return cls.inputs(
            "The number of steps, the first and the last level, and where to start from.", samples=36,
            sampler=SOCKET("SAMPLER", "The sampler to learn for: one of Odeon's, its eta at 0."),
            mode=CHOICE(MODES, "What steps are measured in: log-SNR, or the model's own time (timesteps)."),
            decouple=CHOICE(DECOUPLED, "Also learns which level the network is told. Needs Conditioning sigmas of the "
                            "same mode behind it; off needs nothing.", default="off"),
            rounds_v1=INT(2, 0, 100, "Passes over the pictures that learn the levels alone."),
            rounds_v2=INT(3, 0, 100, "Passes after those, that also learn what the network is told."),
            most_iterations=INT(0, 0, 100000, "Stops after so many iterations; 0: after all passes."),
            init=CHOICE(INITS, "Starts from the schedule given, or from even steps, as the paper does.",
                        advanced=True),
            loss=CHOICE(LOSSES, "Distance to the teacher: squared, or absolute, which far-off pictures rule less.",
                        advanced=True),
            minibatch=INT(2, 1, 256, "Pictures in one iteration.", advanced=True),
            rate=FLOAT(0.005, 0.0, 1.0, "Learning rate of the levels.", step=0.0001, advanced=True),
            told_rate=FLOAT(0.0, 0.0, 10.0, "Learning rate of the told levels; 0 is the paper's.", step=0.00001,
                            advanced=True),
            soft_radius=FLOAT(-1.0, -1.0, 100.0, "How far each noise may move to be easier to follow; -1 is the "
                              "paper's, 0 holds it.", step=0.0001, advanced=True),
            teacher_steps=TEACHER_STEPS)

    def optimize(self, task, sampler, teacher_steps, **given):
        levels, own, process = task.levels, host.levels_of(task.model), host.process_of(task.model)
        time = label_clock(own.sigmas.tolist(), process)
        steps = host.student(sampler, process, time)(levels)
        require_no_noise(steps)
        options = LD3(**given, seed=task.start_seed, scaled=told_places(own) is not None)
        held = max(task.samples // 3, 1)
        cost = ld3_cost(calls_of(steps), task.samples, held, options)

        def start(denoise, x, *, state, process, clock):
            plan = host.student(sampler, process, clock)
            return taught(denoise, x, levels, lambda targets, state: learn_ld3(
                Lesson(denoise, x, targets, plan, held=held), levels, options, sigma_min=task.sigma_min,
                process=process, clock=time, state=state), cost=cost, steps=teacher_steps, sigma_min=task.sigma_min,
                process=process, state=state)

        plan_fn, chosen = host.plan_of(sampler)
        state, about = task.run(start, what="LD3 levels", cost=cost + teacher_cost(teacher_steps), gradients=True,
                                options={"sampler": plan_fn.__name__, "sampler_options": str(sorted(chosen.items())),
                                         "teacher_steps": teacher_steps, **given})
        return self.results(state["sigmas"], about, cond_sigmas=state["cond_sigmas"], report=_ld3_report(
            state, plan_fn.__name__.removeprefix("plan_"), options.decouple, held),
            curves={"checks": list(enumerate(state["checks"].tolist()))}, title="loss on the pictures to choose by",
            x_label="check", y_label=options.loss)


class OdeonOptimizeTimeTuner(LearnedNode):
    TITLE = "Tune told times (TimeTuner)"
    DESCRIPTION = "Keeps a schedule's levels and learns which time the network is told at each step of DDIM or Euler."
    SEARCH_ALIASES = ["timetuner", "time tuner", "timestep aligner", "optimize steps", "xia"]

    @classmethod
    def INPUT_TYPES(cls):
        asked = cls.inputs(
            "The schedule to tune for; its levels stay.",
            order=CHOICE(ORDERS, "sequential: each step is tuned on what the tuned steps before it lead to; parallel: "
                                 "each by itself, quicker."),
            iterations=INT(500, 1, 100000, "Of each step."),
            rate=FLOAT(0.002, 0.00001, 1.0, "Learning rate: 0.01 needs a fifth of the iterations.", step=0.00001),
            minibatch=INT(4, 1, 256, "Pictures in one iteration.", advanced=True), teacher_steps=TEACHER_STEPS)
        return {**asked, "optional": {"data": SOCKET("LATENT", "Pictures of what will be drawn, to tune on; without "
                                                               "them the teacher draws some.")}}

    def optimize(self, task, teacher_steps, data=None, **given):
        levels, own, process = task.levels, host.levels_of(task.model), host.process_of(task.model)
        process.lams(levels)
        clock, span = label_clock(own.sigmas.tolist(), process), (float(own.sigma_min), float(own.sigma_max))
        pictures = None if data is None else host.of_latent(task.model, data["samples"])
        if pictures is not None:  # before the teacher is asked
            require_size(pictures, task.latent["samples"].shape[2:])
        options, held = Tuning(**given, seed=task.start_seed), max(task.samples // 3, 1)
        cost = tune_cost(len(levels) - 1, task.samples, options)

        def start(denoise, x, *, state, process, **_):
            def plan(sigmas):
                return plan_ddim(sigmas, process=process)

            return taught(denoise, x, levels, lambda targets, state: tune_times(
                Lesson(denoise, x, targets, plan, held=held), levels, options, clock=clock, span=span, data=pictures,
                process=process, state=state), cost=cost, steps=teacher_steps, sigma_min=task.sigma_min,
                process=process, state=state)

        state, about = task.run(start, what="TimeTuner ratios", cost=cost + teacher_cost(teacher_steps), gradients=True,
                                options={"teacher_steps": teacher_steps, **given,
                                         "data": "" if data is None else host.key_of(data["samples"])})
        ratios = state["ratios"].tolist()
        curves = {f"step {i + 1}": list(enumerate(part.tolist())) for i, part in enumerate(
            state["losses"].reshape(-1, options.iterations))}
        return self.results(task.sigmas.clone(), about, cond_sigmas=state["cond_sigmas"], curves=curves, report=[
            "ratios of the told time: " + ", ".join(f"{ratio:.4f}" for ratio in ratios),
            *_gain(state, held), "Connect sigmas and cond_sigmas to Conditioning sigmas, mode label_only."],
            title="change of direction over a step", x_label="iteration", y_label="loss")


def _gain(state: dict, held: int) -> list[str]:
    """Distances before and after, in words."""
    off = state["teacher.error"].median().item()
    return [f"distance to the teacher over {held} pictures that nothing was learned or chosen on:",
            f"  as given: {score_of(state['given_errors'])}", f"  learned: {score_of(state['errors'])}",
            f"  (the teacher itself is off by less than {off:.2g} for a typical picture)"]


def _ld3_report(state: dict, sampler: str, decouple: str, held: int) -> list[str]:
    gain = _gain(state, held)
    if decouple != "off":
        gain.insert(3, f"  learned, without the told levels: {score_of(state['alone_errors'])}")
        gain.append(f"Connect sigmas and cond_sigmas to Conditioning sigmas, mode {decouple}.")
    if torch.equal(state["sigmas"], state["cond_sigmas"]) and torch.equal(state["errors"], state["given_errors"]):
        gain.append("Nothing better than the given schedule was found; it is handed on. More samples or rounds help.")
    levels = ", ".join(f"{sigma:.5g}" for sigma in state["sigmas"].tolist())
    return [f"levels for {sampler}, after {int(state['iterations'])} iterations: {levels}", *gain]


NODES = (OdeonOptimizeLD3, OdeonOptimizeTimeTuner)
