"""Searches by evolution: for levels (AutoDiffusion), and for a whole solver (USF), with the sampler that runs it."""
import torch

from .. import host
from ..samplers.usf import plan_usf
from ..samplers.usf_decisions import decisions_or_name, text_of_decisions
from ..schedules.optimize import evolution, usf
from ..schedules.optimize.evolution import FITNESS, Breeding
from ..schedules.optimize.teacher import Lesson, calls_of, require_no_noise, taught, teacher_cost
from .inputs import BOOLEAN, CHOICE, FLOAT, INT, SOCKET
from .optimize import OptimizeNode
from .samplers import SolverNode

FITNESS_TIP = ("What the search makes small of the distances to the accurate run: their squares' mean, their mean, or "
               "the median, which a few pictures that turn out another way don't rule.")
TEACHER_STEPS = INT(60, 8, 1000, "Steps of the accurate run to come near to.", advanced=True)


class OdeonOptimizeAutoDiffusion(OptimizeNode):
    TITLE = "Evolve levels (AutoDiffusion)"
    DESCRIPTION = "Breeds the few steps that serve your model and sampler best out of the many of a fine schedule."
    SEARCH_ALIASES = ["autodiffusion", "evolution", "genetic search", "optimize steps", "few steps", "search timesteps"]

    @classmethod
    def INPUT_TYPES(cls):
        return cls.inputs(
            "The levels to choose from: a schedule of 50 to 1000 steps. Its last level stays.",
            sampler=SOCKET("SAMPLER", "The sampler to find levels for: one of Odeon's, its eta at 0."),
            steps=INT(6, 1, 100, "Steps to choose."),
            population=INT(20, 1, 10000, "Choices tried in one generation; the paper takes 50."),
            epochs=INT(10, 1, 1000, "Generations."),
            top_k=INT(5, 1, 1000, "So many of the best choices so far have children; the paper takes 10."),
            mutation=INT(13, 0, 10000, "Of each generation, so many are one of the best with some levels replaced."),
            crossover=INT(7, 0, 10000, "And so many are mixed of two of the best. The rest are random."),
            m_prob=FLOAT(0.2, 0.01, 1.0, "Chance of each level to be replaced."),
            near=FLOAT(0.9, 0.0, 1.0, "Share of replacements by a level nearby, in later generations: finds more than "
                                      "0, the paper's.", advanced=True),
            fitness=CHOICE(FITNESS, FITNESS_TIP),
            teacher_steps=TEACHER_STEPS)

    def optimize(self, task, sampler, steps, epochs, fitness, teacher_steps, **sizes):
        space, held, breeding = task.levels, max(task.samples // 3, 1), Breeding(**sizes)
        options = {"steps": steps, "epochs": epochs, "breeding": breeding, "fitness": fitness}
        evolution.check(space, **options)
        even = evolution.levels_of(evolution.even_choice(len(space), steps), space)
        trial = host.plan_for(task.model, sampler)(even)
        require_no_noise(trial)
        cost = evolution.evolution_cost(calls_of(trial), epochs=epochs, population=breeding.population)

        def start(denoise, x, *, state, process, clock):
            def search(targets, state):
                lesson = Lesson(denoise, x, targets, host.student(sampler, process, clock), held=held, top=space[0])
                return evolution.evolve(lesson, space, seed=task.start_seed, state=state, **options)

            return taught(denoise, x, space, search, cost=cost, steps=teacher_steps, sigma_min=task.sigma_min,
                          process=process, state=state)

        plan_fn, chosen = host.plan_of(sampler)
        state, about = task.run(start, what="AutoDiffusion levels", cost=cost + teacher_cost(teacher_steps), options={
            "sampler": plan_fn.__name__, "sampler_options": str(sorted(chosen.items())), "steps": steps,
            "epochs": epochs, "fitness": fitness, "teacher_steps": teacher_steps, **sizes})
        levels = evolution.levels_found(state, space)
        found, spread = evolution.judged(state)
        return self.results(torch.tensor(levels, dtype=torch.float64), about, report=[
            f"levels, {steps} steps: " + ", ".join(f"{sigma:.5g}" for sigma in levels),
            f"distance to the accurate run on {held} pictures that nothing was chosen by: {found}, of steps evenly "
            f"spread over the schedule {spread}",
            *_searched(state["fitness"], fitness, task.samples - held)],
            curves=_curves(state["fitness"]), title="best so far", x_label="choices tried", y_label=fitness)


class OdeonOptimizeUSF(OptimizeNode):
    TITLE = "Search a solver (USF)"
    DESCRIPTION = "Searches a solver of its own for your model: levels, and order and corrector of each step."
    SEARCH_ALIASES = ["usf", "s3", "unified sampling framework", "solver search", "optimize sampler", "few steps"]
    RETURN_TYPES = ("SAMPLER", "SIGMAS", "STRING", "STRING", "IMAGE", "ODEON_ABOUT")
    RETURN_NAMES = ("sampler", "sigmas", "decisions", "report", "plot", "about")
    OUTPUT_TOOLTIPS = ("The solver found, for exactly these sigmas.", "Its steps, for the sampler.",
                       "The solver as text, to keep: for the USF sampler.", *OptimizeNode.OUTPUT_TOOLTIPS[1:])

    @classmethod
    def INPUT_TYPES(cls):
        return cls.inputs(
            "Its first and last level stay. Known solvers are tried on some of its levels, too.",
            nfe=INT(5, 2, 50, "Model calls of the solver."),
            budget=INT(200, 1, 100000, "Solvers to try. The first twelve are known ones."),
            fitness=CHOICE(FITNESS, FITNESS_TIP, default="mean"),
            predictor=BOOLEAN(True, "A small network learns from those tried which to try next: more for the same "
                                    "budget."),
            teacher_steps=TEACHER_STEPS)

    def optimize(self, task, teacher_steps, **options):
        levels, held, nfe = task.levels, max(task.samples // 3, 1), options["nfe"]
        usf.check(levels, nfe, options["budget"], options["fitness"])
        cost = usf.usf_cost(levels, nfe=nfe, budget=options["budget"])

        def start(denoise, x, *, state, process, clock):
            return taught(denoise, x, levels, lambda targets, state: usf.search_usf(
                Lesson(denoise, x, targets, None, held=held), levels, sigma_min=task.sigma_min, process=process,
                seed=task.start_seed, state=state, **options),
                cost=cost, steps=teacher_steps, sigma_min=task.sigma_min, process=process, state=state)

        state, about = task.run(start, what="USF solver", cost=cost + teacher_cost(teacher_steps),
                                options={**options, "teacher_steps": teacher_steps})
        decisions, scores = usf.decisions_found(state), usf.judged(state, levels, nfe)
        found = scores.pop("found")
        best = min(scores, key=lambda name: scores[name].mean)
        fitness = options["fitness"]
        shown = self.results(torch.tensor(decisions.sigmas, dtype=torch.float64), about, report=[
            f"{nfe} model calls, levels: " + ", ".join(f"{sigma:.5g}" for sigma in decisions.sigmas),
            *_steps(decisions), f"distance to the accurate run on {held} pictures that nothing was chosen by: {found}, "
            f"of the best known solver there, {best}: {scores[best]}",
            *_searched(state["scores"], fitness, task.samples - held)],
            curves=_curves(state["scores"]), title="best so far", x_label="solvers tried", y_label=fitness)
        sigmas, *others = shown["result"]
        return {**shown, "result": (host.solver(plan_usf, decisions=decisions, strict=True), sigmas,
                                    text_of_decisions(decisions), *others)}


class OdeonSamplerUSF(SolverNode):
    TITLE = "USF"
    DESCRIPTION = "Runs a solver that Search a solver (USF) found, as text, or a known one by its name."
    SEARCH_ALIASES = ["usf", "s3", "unified sampling framework", "solver schedule", "decisions"]
    PLAN = staticmethod(plan_usf)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "decisions": ("STRING", {"default": "dpmpp_2m", "multiline": True, "tooltip": "Text from Search a solver "
                                     "(USF), for the sigmas it gives too; or the name of a known solver for any "
                                     "schedule: ddim, dpmpp_2m, dpmpp_3m, dpmpp_2s, dpm_solver_2m, unipc_2, unipc_3."}),
            "strict": BOOLEAN(True, "Refuse a schedule other than the one the solver was found for. Off: any of as "
                                    "many steps."),
        }}

    def build(self, decisions, strict):
        return super().build(decisions=decisions_or_name(decisions), strict=strict)


def _steps(decisions) -> list[str]:
    """Each step in words."""
    first = ["the first step costs no model call"] if decisions.afs != "no_afs" else []
    return first + [f"step {i}: {step.prediction} prediction, order {len(step.predict.derivatives) + 1}"
                    + ", corrected" * bool(step.correct) for i, step in enumerate(decisions.steps, start=1)]


def _searched(values, fitness: str, count: int) -> list[str]:
    kept = evolution.best_so_far(values.tolist())
    return [f"{fitness} on the {count} pictures it was searched on: {kept[-1]:.4g}, best of {len(kept)}; the first was "
            f"{kept[0]:.4g}"]


def _curves(values) -> dict:
    return {"best so far": list(enumerate(evolution.best_so_far(values.tolist()), start=1))}


NODES = (OdeonOptimizeAutoDiffusion, OdeonOptimizeUSF, OdeonSamplerUSF)
