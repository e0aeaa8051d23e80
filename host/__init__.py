"""The seam to whatever runs the nodes: ComfyUI where the pack was loaded by it, else the embedded runner.

Nodes and command line call these verbs and nothing else of a host. The choice is made once, here.
"""
import functools
import inspect
import logging
import sys

from ..measure.kept import read_tensors, write_tensors
from .common import clock_of, planned
from .denoiser import NoGradients
from .measuring import key_of, same_weights

if "comfy" in sys.modules:
    from . import comfyui as _host
else:
    from . import embedded as _host

folder, identity, process_of = _host.folder, _host.identity, _host.process_of
as_latent, levels_of, predicts_eps = _host.as_latent, _host.levels_of, _host.predicts_eps
of_latent = _host.of_latent
relabel, with_table = _host.relabel, _host.with_table
make_clip, make_model, make_network, make_vae = _host.make_clip, _host.make_model, _host.make_network, _host.make_vae
noise, patch_guidance, patch_prediction = _host.noise, _host.patch_guidance, _host.patch_prediction
patches_of, sampler, solver = _host.patches_of, _host.sampler, _host.solver

__all__ = ["SCHEDULES", "NoGradients", "as_latent", "folder", "identity", "levels_of", "make_clip", "make_model",
           "make_network", "make_vae", "measure", "noise", "of_latent", "patch_guidance", "patch_prediction",
           "plan_for", "plan_of", "predicts_eps", "process_of", "relabel", "replanned", "same_weights", "sampler",
           "solver", "student", "with_table", "wrapped"]

SCHEDULES = "odeon_schedules"  # the folder of learned steps and plans


def measure(model, positive, negative, cfg: float, *, what: str, latent: dict, count: int, sigmas, seed: int,
            options: dict, start, cost: int, batch: int = 0, several_prompts: str = "combined", gradients: bool = False,
            keep: bool = False) -> tuple[dict, dict]:
    """(the last state of a measurement on a MODEL, what it was measured on).

    start(denoise, x (count, ...), state=..., process=..., clock=...) -> Iterator[Progress] runs as a KSampler would
    run: loaded, guided, patched, with progress and preview. An interrupted run leaves what it has in folder("partial")
    and the same call goes on from there. options: whatever else the result depends on. several_prompts: 'combined', or
    'each' for one entry of `positive` after the other, one for each picture. gradients: denoise passes them, out of
    inference mode; a model that can't is refused before anything else. keep: the result is kept in folder("cache"),
    and the same call gives it at once.
    """
    about = {"what": what, "model": identity(model), "patches": key_of(patches_of(model)), "cfg": cfg, "seed": seed,
             "conditioning": key_of([positive, negative]), "size": list(latent["samples"].shape[1:]),
             "several_prompts": several_prompts, **options}
    name = f"{key_of([about, sigmas.tolist(), count])}.safetensors"
    kept = folder("cache") / name
    if keep and kept.is_file():
        return read_tensors(kept)[0], about
    task = _host.measured(model, positive, negative, cfg, latent=latent, count=count, sigmas=sigmas, seed=seed,
                          start=start, partial=folder("partial") / name, about=about, cost=cost, batch=batch,
                          each=several_prompts == "each", gradients=gradients,
                          interrupted=folder(SCHEDULES) / "interrupted.safetensors")
    if keep:
        try:
            write_tensors(kept, task.result, about)
        except ValueError as error:  # the result itself is there
            logging.warning("Odeon: %s", error)
    return task.result, about


def student(sampler, process, clock):
    """plan(sigmas: list[float]) -> steps of a SAMPLER made by `solver`; clock: see planned."""
    plan_fn, options = plan_of(sampler)
    return lambda sigmas: planned(plan_fn, sigmas, process=process, clock=clock, **options)


def plan_for(model, sampler):
    """student() of a MODEL: with its process and clock."""
    process = process_of(model)
    return student(sampler, process, lambda: clock_of(process, levels_of(model).sigmas))


def plan_of(sampler):
    """(plan function, options) of a SAMPLER made by `solver`, for wrappers that build on its steps."""
    plan = getattr(getattr(sampler, "sampler_function", None), "plan_and_options", None)
    if plan is None:
        raise ValueError("this needs a SAMPLER with a plan, from one of Odeon's solver nodes, "
                         f"got {type(sampler).__name__}; connect one")
    return plan


def replanned(sampler, replan, **options):
    """A SAMPLER whose steps are replan(plan, sigmas, process=..., **options); plan(levels) are those of `sampler`."""
    plan_fn, _ = plan_of(sampler)

    @functools.wraps(plan_fn)
    def plan(sigmas: list[float], *, process, clock) -> list:
        return replan(student(sampler, process, clock), sigmas, process=process, **options)

    plan.__signature__ = inspect.signature(plan, follow_wrapped=False)
    return solver(plan)


def wrapped(sampler, wrap, **options):
    """A SAMPLER whose steps are wrap(steps of `sampler`, process=..., **options)."""
    return replanned(sampler, lambda plan, sigmas, process: wrap(plan(sigmas), process=process, **options))
