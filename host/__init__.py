"""The seam to whatever runs the nodes: ComfyUI where the pack was loaded by it, else the embedded runner.

Nodes and command line call these verbs and nothing else of a host. The choice is made once, here.
"""
import functools
import inspect
import logging
import sys

from ..measure.kept import read_tensors, write_tensors
from ..samplers.process import FLOW
from .adapters import Worn
from .attention import patch_blocks, patch_network
from .common import Call, OfModel, clock_of, planned
from .denoiser import NoGradients
from .gradients import Decoder
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
patch_evaluation, patch_scale, with_model = _host.patch_evaluation, _host.patch_scale, _host.with_model
patches_of, sampler, solver = _host.patches_of, _host.sampler, _host.solver
attention_layers, levels_of_skips = _host.attention_layers, _host.levels_of_skips
patch_conditions = _host.patch_conditions
adapter_places = _host.adapter_places

__all__ = ["SCHEDULES", "Call", "NoGradients", "OfModel", "adapted", "adapter_places", "after_steps", "as_latent",
           "attention_layers", "decoder", "folder", "identity", "levels_of", "levels_of_skips", "make_clip",
           "make_model", "make_network", "make_vae", "measure", "noise", "of_latent", "patch_blocks",
           "patch_conditions", "patch_evaluation", "patch_guidance", "patch_network", "patch_prediction", "patch_scale",
           "plan_for", "plan_of", "predicts_eps", "process_of", "relabel", "replanned", "same_weights", "sampler",
           "solver", "student", "time_of", "with_model", "with_table", "wrapped"]

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


def adapted(model, adapters, scale: float, *, mark: str):
    """(a MODEL with guidance.agd's Adapters on all its adapter_places, at a CFG they stand for, what wears them);
    mark: names their weights."""
    worn = Worn(adapters, scale, time_of(model))
    blocks = [(*name.split("_"), 0) for name in adapter_places(model) if name.count("_") == 1]
    if blocks:
        patched = patch_blocks(model, [(kind, int(i), inner) for kind, i, inner in blocks], worn.after)
    else:
        patched = patch_network(model, worn.patches())
    patched.model_options["transformer_options"]["odeon_adapters"] = f"{mark} at {scale:g}"
    return patch_conditions(patched, worn.start), worn


def time_of(model):
    """time(sigma: float) -> the model's own time in [0, 1], 1 at pure noise: sigma of flow models, else the share of
    the table of levels below it."""
    process, table = process_of(model), levels_of(model).sigmas
    clock, last = clock_of(process, table), 1.0 if process is FLOW else len(table) - 1.0

    def time(sigma: float) -> float:
        return min(max(clock.time_of(sigma) / last, 0.0), 1.0)

    return time


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
    return after_steps(solver(plan), sampler.sampler_function.after)


def after_steps(sampler, change):
    """A SAMPLER that after each step to a level sigma goes on from change(x, sigma, process); None is no change."""
    plan_fn, options = plan_of(sampler)
    made, earlier = solver(plan_fn, **options), sampler.sampler_function.after
    both = [each for each in (earlier, change) if each is not None]
    if both:
        made.sampler_function.after = lambda x, sigma, process: functools.reduce(
            lambda x, each: each(x, sigma, process), both, x)
    return made


def decoder(vae) -> Decoder:
    """decode(a LATENT's samples) -> pictures (B, 3, H, W) in about [0, 1], in float32, with gradients if on;
    give_back() when done."""
    return Decoder(vae.first_stage_model)


def wrapped(sampler, wrap, **options):
    """A SAMPLER whose steps are wrap(steps of `sampler`, process=..., **options)."""
    return replanned(sampler, lambda plan, sigmas, process: wrap(plan(sigmas), process=process, **options))
