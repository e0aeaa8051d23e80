"""Steps for people who don't care how they are found."""
from .. import host
from ..samplers.process import FLOW
from ..schedules.align_your_steps import align_your_steps_sigmas
from ..schedules.classic import SCHEDULERS, classic_sigmas
from ..schedules.gits_table import gits_sigmas
from ..schedules.optimize.steps import Found, Search, found, optimize_steps, same_start, steps_cost
from ..schedules.optimize.teacher import calls_of, require_no_noise
from .inputs import BOOLEAN, FLOAT, INT, SOCKET
from .optimize import OptimizeNode, Task

SEEN_THROUGH = SOCKET("VAE", "With one, nearer means nearer in the decoded picture, not in the latent: slower, and it "
                      "takes memory for the decoder.")

LOWER = BOOLEAN(True, "The first level may be below the highest, what few steps gain most by at a high CFG. Turn it "
                      "off for steps that start from a picture or under a mask at denoise 1: what is there would show.")


class OdeonOptimizeSteps(OptimizeNode):
    TITLE = "Optimize steps"
    DESCRIPTION = "Finds where to put your steps, for your model, sampler and CFG, in the minutes you give it."
    SEARCH_ALIASES = ["optimize schedule", "learned steps", "few steps", "best scheduler", "ays", "ld3", "auto"]

    @classmethod
    def INPUT_TYPES(cls):
        inputs = cls.inputs(
            "", samples=36,
            sampler=SOCKET("SAMPLER", "The sampler to find steps for: one of Odeon's, its eta at 0."),
            steps=INT(6, 1, 100, "Steps you want to spend on a picture."),
            minutes=FLOAT(2.0, 0.1, 1000.0, "Time for the whole search. A search that was stopped goes on when queued "
                          "again.", step=0.1))
        del inputs["required"]["sigmas"]
        return {**inputs, "optional": {"vae": SEEN_THROUGH, "lower_start": LOWER}}

    def run(self, model, sampler, steps, minutes, vae=None, lower_start=True, **given):
        own = host.levels_of(model)
        task = Task(model=model, sigmas=own.sigmas.new_tensor([float(own.sigma_max), 0.0]), **given)
        return self.optimize(task, sampler, steps, minutes, vae, lower_start)

    def optimize(self, task, sampler, steps, minutes, vae, lower_start):
        families = families_for(task.model, steps, top=float(task.sigmas[0]))
        state, about = searched(task, sampler, families, Search(minutes, lower=lower_start), what="steps", vae=vae,
                                options={"steps": steps, "minutes": minutes, "lower_start": lower_start})
        ended = found(state, families)
        name = ended.best_family
        curves = {f"{name} ({ended.families[name].median:.3g})": list(enumerate(families[name])),
                  "returned": list(enumerate(ended.sigmas.tolist()))}
        return self.results(ended.sigmas, {**about, "process": host.process_of(task.model).name},
                            report=gains(ended, "steps", task), curves=curves, title="Where the steps are",
                            x_label="step", y_label="sigma")


def searched(task: Task, sampler, families: dict[str, list[float]], search: Search, *, what: str, options: dict,
             vae=None) -> tuple[dict, dict]:
    """The last state of optimize_steps on a task's model; distances are those of pictures where there is a VAE to see
    them through."""
    trial = host.plan_for(task.model, sampler)(next(iter(families.values())))
    require_no_noise(trial)
    plan_fn, chosen = host.plan_of(sampler)
    decode = None if vae is None else host.decoder(vae)
    look = None if decode is None else lambda x: decode(host.as_latent(task.model, x))
    if decode is not None:
        options = {**options, "vae": decode.about}

    def start(denoise, x, *, state, process, clock):
        return optimize_steps(denoise, x, families, host.student(sampler, process, clock), search,
                              sigma_min=task.sigma_min, process=process, look=look, state=state)

    try:
        return task.run(
            start, what=what, cost=steps_cost(families, calls_of(trial), task.samples, search.teacher_steps),
            options={"sampler": plan_fn.__name__, "sampler_options": str(sorted(chosen.items())), **options})
    finally:
        if decode is not None:
            decode.give_back()


def gains(ended: Found, what: str, task: Task) -> list[str]:
    """What was found, in words."""
    best, first, top = ended.families[ended.best_family], float(ended.sigmas[0]), float(task.sigmas[0])
    fewer = [f"Only {ended.noises} of {task.samples} samples: more minutes allow more."
             ] if ended.noises < task.samples else []
    lower = [f"They start at {first:.4g} instead of {top:.4g}: for empty latents, see lower_start."
             ] if first < 0.9999 * top else []
    lines = [*fewer, "Distance to a run of many steps, on noises that nothing was chosen by:",
             *(f"  {name}: {score}" for name, score in ended.families.items())]
    if ended.learned is None:
        return [*lines, f"Returned: {ended.best_family}; a single step leaves nothing to learn."]
    lines += [f"  learned: {ended.learned} (on the noises it learned from: {ended.training})"]
    lines += [f"Returned: the learned {what}, {best.median / max(ended.learned.median, 1e-12):.2f} times nearer than "
              f"{ended.best_family}." if ended.kept else
              f"Returned: {ended.best_family}, since nothing learned was better. More minutes or samples may help."]
    lines += [f"The teacher itself moves by {ended.teacher} when its steps are halved."]
    if ended.teacher.median > 0.5 * min(best.median, ended.learned.median):
        lines += ["WARNING: that is much beside the distances above; give it more minutes or teacher_steps."]
    return [*lines, *lower,
            "Levels: " + ", ".join(f"{sigma:.4g}" for sigma in ended.sigmas.tolist())]


def families_for(model, steps: int, *, top: float) -> dict[str, list[float]]:
    """Schedules of exactly so many steps that reach from `top` to 0."""
    own = host.levels_of(model)
    families = {name: classic_sigmas(name, own, steps).tolist() for name in SCHEDULERS}
    if host.process_of(model) is not FLOW:
        families |= {"AYS SD1.5": align_your_steps_sigmas(steps).tolist(),
                     "AYS SDXL": align_your_steps_sigmas(steps, "SDXL").tolist()}
        families |= {"GITS": gits_sigmas(steps).tolist()} if steps > 1 else {}
    return {name: levels for name, levels in same_start(families, top).items() if len(levels) == steps + 1}


NODES = (OdeonOptimizeSteps,)
