"""What LD3 and TimeTuner learn beside what was recorded of the authors' code; LD3's memory; the schedules shipped."""
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor

from ..host.embedded.core_sampling import model_sigmas
from ..measure.kept import SCHEDULE_FOLDER
from ..samplers.ddim import plan_ddim
from ..samplers.dpm_solver_pp import plan_dpm_solver_pp
from ..samplers.pndm import plan_pndm
from ..samplers.process import VE
from ..samplers.unipc import plan_unipc
from ..schedules.conditioning import state_scale
from ..schedules.optimize.ld3 import learn_ld3
from ..schedules.optimize.ld3_levels import decoupled
from ..schedules.optimize.ld3_training import LD3
from ..schedules.optimize.plan import GUIDED
from ..schedules.optimize.teacher import Lesson, teach
from ..schedules.optimize.time_tuner import Tuning, label_clock, tune_times
from .shapes import captions_of, load, node
from .solvers_problems import load_mixture

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden" / "schedules"
PLANS = {
    "dpm_solver++": lambda order, variant: lambda sigmas: plan_dpm_solver_pp(sigmas, order=order, lower_order_below=99),
    "uni_pc": lambda order, variant: lambda sigmas: plan_unipc(sigmas, order=order, variant=variant),
    "euler": lambda order, variant: lambda sigmas: plan_pndm(sigmas, max_order=1),
    "ipndm": lambda order, variant: lambda sigmas: plan_pndm(sigmas, max_order=order)}
BY_NOISE = ("euler", "ipndm")  # solvers that integrate the predicted noise; the others integrate D itself
JUDGED_ON, RECORDED = 256, {"rounds_v1": 2, "rounds_v2": 5, "rate": 0.005}
ITERATIONS = 50  # of a round, as recorded on 100 noises, 2 at a time, beside 100 to choose by


def golden(name: str) -> dict:
    """A recorded file of the tests."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def told_model(exact: Callable, *, scaled: bool) -> Callable:
    """model(x, sigma, told=None) -> D around the exact denoiser: another level told is told to the noise prediction,
    of a state in its own scaling (scaled: x / sqrt(1 + sigma^2))."""
    def model(x: Tensor, sigma: float | Tensor, told: Tensor | None = None) -> Tensor:
        if told is None:
            return exact(x, sigma)
        seen = x * state_scale(torch.as_tensor(sigma, dtype=torch.float64), told) if scaled else x
        return x - sigma * (seen - exact(seen, told)) / told

    return model


def ld3_noises(file: dict, count: int) -> tuple[Tensor, Tensor]:
    """`count` starts to learn on, then those that the recorded figures are of; and where they lead."""
    top, bottom = file["runs"][0]["timesteps"][0], file["runs"][0]["timesteps"][-1]
    learned_on = torch.randn(count, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.cat([learned_on, torch.tensor(file["eval_unit_noise"], dtype=torch.float64)]) * top
    *_, last = teach(load_mixture().denoise, x, [top, bottom], steps=400)
    return x, last.state["targets"]


def ld3_run(run: dict, x: Tensor, targets: Tensor, *, given: list[float] | None = None) -> dict[str, Tensor]:
    """The last state of learning as a recorded run did, or from a given schedule; "seen" are errors of the noises
    learned on with it, and "given_seen" with the first schedule."""
    asked = run["settings"]
    how = "label_only" if asked["solver"] in BY_NOISE else "whole_denoiser"
    minibatch = max((len(x) - JUDGED_ON) // (2 * ITERATIONS), 1)
    options = LD3(**RECORDED, minibatch=minibatch, mode=asked["time_mode"], told_rate=asked["lr_time_2"],
                  soft_radius=asked["prior_bound"], decouple=how, init="given" if given else "even")
    plan = PLANS[asked["solver"]](asked["order"], asked["variant"])
    lesson = Lesson(told_model(load_mixture().denoise, scaled=False), x, targets, plan, held=JUDGED_ON)
    first = given or run["initial_timesteps"]
    *_, last = learn_ld3(lesson, first, options)
    lists = last.state["sigmas"], last.state["cond_sigmas"]
    return {**last.state, "given_seen": lesson.errors(plan(first), lesson.training), "seen": lesson.errors(
        plan(lists[0].tolist()), lesson.training, change=lambda model: decoupled(model, *lists, how=how))}


def ld3_table(only: str, *, hard: bool, noises: int) -> Iterator[Table]:
    """Mean and median squared errors on the recorded noises, one table a mode; then from EDM's grid."""
    file = golden("ld3")
    x, targets = ld3_noises(file, noises)
    for mode in ("time", "lambda"):
        table = Table("solver", "steps", "start", "learned", "recorded", "seen: start", "seen: learned", "iterations",
                      title=f"LD3, {mode} mode, mean / median squared error, {'hard' if hard else 'soft'}")
        for run in file["runs"]:
            asked = run["settings"]
            if asked["time_mode"] == mode and (asked["prior_bound"] == 0.0) is hard and only in asked["solver"]:
                state = ld3_run(run, x, targets)
                table.add_row(_name(asked), str(asked["steps"]), _both(state["given_errors"]), _both(state["errors"]),
                              _recorded(run["learned"]), _both(state["given_seen"]), _both(state["seen"]),
                              str(int(state["iterations"])))
        yield table
    table = Table("solver", "steps", "EDM's grid", "learned from it", "best recorded", "levels",
                  title="LD3, lambda mode, from EDM's grid, mean / median squared error")
    for run in file["runs"]:
        asked = run["settings"]
        if asked["solver"] in ("dpm_solver++", "euler") and asked["time_mode"] == "lambda" and asked[
                "prior_bound"] and only in asked["solver"]:
            state = ld3_run(run, x, targets, given=run["baselines"]["edm"]["timesteps"])
            table.add_row(_name(asked), str(asked["steps"]), _both(state["given_errors"]), _both(state["errors"]),
                          f"{_best(file['runs'], asked):.4f}", _levels(state["sigmas"]))
    yield table


def tuner_table() -> Table:
    """Mean and median squared errors of DDIM, in VP units as recorded, on noises of our own."""
    mixture, table = load_mixture(), Table("order", "steps", "start", "tuned", "recorded", "ratios", "recorded",
                                           title="TimeTuner, mean / median squared error")
    generator = torch.Generator().manual_seed(3)
    which = torch.multinomial(mixture.WEIGHTS, 4096, replacement=True, generator=generator)
    data = mixture.MEANS[which] + mixture.STDS[which][:, None] * torch.randn(4096, 16, dtype=torch.float64,
                                                                             generator=generator)
    starts = torch.randn(JUDGED_ON + 1, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(999))
    for run in golden("time_tuner")["runs"]:
        sigmas, asked = [*run["sigmas_ve"], run["sigmas_ve_prev"][-1]], run["settings"]
        x, levels = starts * (1.0 + sigmas[0] ** 2) ** 0.5, sd_levels()
        *_, last = teach(mixture.denoise, x, sigmas, steps=200)
        lesson = Lesson(told_model(mixture.denoise, scaled=True), x, last.state["targets"], plan_ddim, held=JUDGED_ON)
        options = Tuning(order=asked["tune_type"], iterations=300, rate=0.002, minibatch=64)
        *_, last = tune_times(lesson, sigmas, options, clock=label_clock(levels, VE), span=(levels[0], levels[-1]),
                              data=data)
        size = (1.0 + sigmas[-1] ** 2) ** 0.5
        table.add_row(asked["tune_type"], str(asked["steps"]), _both(last.state["given_errors"] / size),
                      _both(last.state["errors"] / size), _recorded(run["tuned"]),
                      _levels(last.state["ratios"]), _levels(torch.tensor(run["t_ratios"])))
    return table


def sd_levels() -> list[float]:
    """Stable Diffusion's levels in float64."""
    betas = torch.linspace(0.00085 ** 0.5, 0.012 ** 0.5, 1000, dtype=torch.float64).square()
    kept = (1.0 - betas).cumprod(0)
    return ((1.0 - kept) / kept).sqrt().tolist()


def memory_table() -> Table:
    """Peak memory of learning on shapes-unet, above what loading it takes, in a process for each number of steps."""
    table = Table("steps", "MB", title="LD3 on shapes-unet: peak memory of one iteration of 4 pictures")
    for steps in (5, 10, 20):
        table.add_row(str(steps), f"{peak_of(steps):.0f}")
    return table


def peak_of(steps: int) -> float:
    """MB that one iteration of LD3 with so many steps takes at the most, above those in use before it."""
    code = f"from {__name__} import learn_once; learn_once({steps})"
    parent = str(Path(__file__).resolve().parent.parent / "tests")
    run = subprocess.run([sys.executable, "-c", f"import sys; sys.path.insert(0, {parent!r}); import conftest; {code}"],
                         capture_output=True, text=True, check=True)
    return float(run.stdout.split()[-1])


def learn_once(steps: int, pictures: int = 4) -> None:
    """Writes to stdout by how much the peak memory rose, in MB."""
    from ..host.denoiser import Denoiser
    from ..schedules.power import power_sigmas
    model, clip, _ = load("shapes-unet")
    context = clip.encode_from_tokens_scheduled(clip.tokenize("a red star on sand"))[0][0]
    denoise = Denoiser(lambda x, sigma: model.apply_model(x, sigma, context, {}), {}, batch=pictures)
    x = 14.6 * torch.randn(2 * pictures + 1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    sigmas = power_sigmas(steps, 14.6, 0.03).tolist()
    lesson = Lesson(denoise, x, torch.zeros_like(x), lambda levels: plan_ddim(levels), held=1)
    with torch.no_grad():
        denoise(x[:pictures], 1.0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    learning = learn_ld3(lesson, sigmas, LD3(minibatch=pictures, most_iterations=1, soft_radius=0.0, decouple="off"))
    next(learning)
    next(learning)
    sys.stdout.write(f"{(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024.0}\n")


def shapes_reports() -> Iterator[str]:
    """What the two nodes say of shapes-unet and shapes-dit, as they come from the menu but for fewer iterations."""
    unipc = _unipc()
    asked = {"OdeonOptimizeLD3": ({"sampler": unipc}, {"sampler": unipc, "decouple": "label_only"}),
             "OdeonOptimizeTimeTuner": ({"iterations": 25, "rate": 0.02, "samples": 18},)}
    for name, scheduler in (("shapes-unet", "normal"), ("shapes-dit", "simple")):
        shared = _asked_of(name, 3)
        shared["sigmas"] = model_sigmas(shared["model"], scheduler, 6)
        for which, choices in asked.items():
            for more in choices:
                report = node(which, **{**shared, **more})[1]
                yield f"{name}, 6 {scheduler} steps, {which}, {more.get('decouple', '')}\n{report}\n"


def shipped(minutes: float = 6.0) -> Iterator[str]:
    """Learns the steps and plans that come with the pack, for 6 calls of UniPC at CFG 3, into models/schedules."""
    unipc, folder = _unipc(), Path(os.environ["ODEON_FOLDER"]) / "odeon_schedules"
    for name in ("shapes-unet", "shapes-dit"):
        shared = {**_asked_of(name, 12), "sampler": unipc, "samples": 48, "batch": 16, "minutes": minutes}
        sigmas, report, _, about = node("OdeonOptimizeSteps", **shared, steps=6)
        node("OdeonSaveSigmas", sigmas=sigmas, name=f"{name}-6", about=about)
        yield f"{name}-6\n{report}\n"
        shared |= {"sigmas": model_sigmas(shared["model"], "simple", 6), "teacher_steps": 60, "free": GUIDED}
        sampler, _, report, *_ = node("OdeonOptimizePlan", **shared)
        node("OdeonSavePlan", sampler=sampler, name=f"{name}-plan-6")
        yield f"{name}-plan-6\n{report}\n"
        for made in (f"{name}-6", f"{name}-plan-6"):
            (SCHEDULE_FOLDER / f"{made}.safetensors").write_bytes((folder / f"{made}.safetensors").read_bytes())


def _unipc():
    """The SAMPLER as it comes from the menu; what nodes keep goes into a folder of its own."""
    os.environ["ODEON_FOLDER"] = tempfile.mkdtemp()
    return node("OdeonSamplerUniPC")[0]


def _asked_of(name: str, count: int) -> dict:
    """A Shapes model, so many held-out captions and an empty latent, as inputs of an optimizer."""
    model, clip, _ = load(name)
    positive = [entry for words in captions_of((1, 2, 3), count)
                for entry in clip.encode_from_tokens_scheduled(clip.tokenize(words))]
    return {"model": model, "positive": positive, "latent": {"samples": torch.zeros(1, 4, 16, 16)},
            "negative": clip.encode_from_tokens_scheduled(clip.tokenize(""))}


def _name(asked: dict) -> str:
    return f"{asked['solver']} {asked['order']}{' ' + asked['variant'] if asked['variant'] else ''}"


def _both(errors: Tensor) -> str:
    return f"{errors.square().mean():.4f} / {errors.square().median():.4f}"


def _recorded(figures: dict) -> str:
    return f"{figures['mean_mse']:.4f} / {figures['median_mse']:.4f}"


def _levels(values: Tensor) -> str:
    return " ".join(f"{value:.3g}" for value in values.tolist())


def _best(runs: list[dict], asked: dict) -> float:
    """The least mean of all that was recorded for a solver at so many steps, learned or not."""
    return min(value["mean_mse"] for run in runs if _name(run["settings"]) == _name(asked)
               and run["settings"]["steps"] == asked["steps"]
               for value in (run["learned"], run["baselines"]["edm"], run["baselines"]["logSNR"]))
