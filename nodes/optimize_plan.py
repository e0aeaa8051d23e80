"""Learned plans: steps and solver together."""
from .. import host
from ..samplers.learned import LearnedPlan, plan_learned
from ..schedules.optimize.plan import FREE, GUIDED
from ..schedules.optimize.steps import Search, found, table_in
from .inputs import CHOICE, FLOAT, INT, SOCKET
from .optimize import OptimizeNode
from .optimize_steps import LOWER, SEEN_THROUGH, families_for, gains, searched


class OdeonOptimizePlan(OptimizeNode):
    TITLE = "Optimize plan"
    DESCRIPTION = "Learns the steps and the solver's own numbers together, for your model: the most from few steps."
    SEARCH_ALIASES = ["learned solver", "s4s", "learned plan", "few steps", "optimize sampler", "best sampler"]
    RETURN_TYPES = ("SAMPLER", "SIGMAS", "STRING", "IMAGE", "ODEON_ABOUT", "SIGMAS")
    RETURN_NAMES = ("sampler", "sigmas", "report", "plot", "about", "cond_sigmas")
    OUTPUT_TOOLTIPS = ("The learned solver, for these sigmas; Save plan keeps it.", *OptimizeNode.OUTPUT_TOOLTIPS,
                       "The same as sigmas, for graphs that have Conditioning sigmas behind this.")

    @classmethod
    def INPUT_TYPES(cls):
        inputs = cls.inputs(
            "Steps to start from, beside the usual schedules of as many: their number and the last level stay.",
            samples=48,
            sampler=SOCKET("SAMPLER", "The solver to start from: one of Odeon's, its eta at 0. Exponential Adams of "
                           "order 3 or UniPC are good starts."),
            free=CHOICE(FREE, "What is learned. all: every number there is, also how much of its noise a call sees; "
                        "the most at CFG 1. guidance: all, and how much of what CFG made of each prediction goes "
                        "into each step; the most at a CFG above 1."),
            minutes=FLOAT(10.0, 0.1, 10000.0, "Learning stops after so many at the latest.", step=0.1),
            iterations=INT(200, 1, 100000, "Learning steps at most: it ends by itself where nothing is gained, "
                           "mostly behind 5 to 20."),
            minibatch=INT(12, 1, 1024, "Pictures learned from together: only memory depends on it.", advanced=True),
            history=INT(0, 0, 100, "Predictions of so many calls before may be used; 0 is all.", advanced=True),
            teacher_steps=INT(40, 8, 1000, "Steps of the accurate run to come near to.", advanced=True))
        return {**inputs, "optional": {"vae": SEEN_THROUGH, "lower_start": LOWER}}

    def optimize(self, task, sampler, vae=None, lower_start=True, **given):
        if given["free"] == GUIDED and task.cfg == 1.0:
            raise ValueError(f"at CFG 1 there is no guidance to learn numbers for, got free = {GUIDED}; set free to "
                             f"all, or cfg to the one you will sample with")
        levels, process = task.levels, host.process_of(task.model)
        process.lams(levels)
        families = {"yours": levels}
        if levels[-1] == 0.0:
            families |= families_for(task.model, len(levels) - 1, top=levels[0])
        state, about = searched(task, sampler, families, Search(**given, lower=lower_start), what="plan",
                                vae=vae, options={**given, "lower_start": lower_start})
        ended = found(state, families)
        made_for = {**about, "process": process.name, "steps": len(levels) - 1}
        learned = LearnedPlan(table_in(state), tuple(state["sigmas"].tolist()), made_for)
        checks, before = state["losses"].tolist(), state["judged"][:, 0].min().item()
        shown = self.results(ended.sigmas, made_for, report=gains(ended, "plan", task),
                             curves={"learned": list(enumerate(checks)),
                                     "best schedule": [(0, before), (max(len(checks) - 1, 1), before)]},
                             title="Distance to the teacher, on the noises learned from", x_label="learning step",
                             y_label="median")
        sigmas, *others = shown["result"]
        return {**shown, "result": (host.solver(plan_learned, learned=learned), sigmas, *others, sigmas)}


NODES = (OdeonOptimizePlan,)
