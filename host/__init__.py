"""The seam to whatever runs the nodes: ComfyUI where the pack was loaded by it, else the embedded runner.

Nodes and command line call these verbs and nothing else of a host. The choice is made once, here.
"""
import functools
import inspect
import logging
import sys

import torch

from ..measure.kept import VERSION, read_tensors, write_tensors
from ..samplers.process import FLOW
from .adapters import Worn
from .attention import control_of, patch_blocks, patch_network
from .common import Call, clock_of, planned
from .gradients import Decoder
from .live import remember
from .measuring import key_of, same_weights
from .renamed import follow_queued
from .sampler_key import sampler_key
from .sampling import OfModel
from .tap import Tap, patch_shared, patch_tap

if "comfy" in sys.modules:
    from . import comfyui as _host
    from . import comfyui_menu as _menu
else:
    from . import embedded as _host
    from .embedded import menu as _menu

follow_queued()
folder, identity, process_of = _host.folder, _host.identity, _host.process_of
as_latent, predicts_eps = _host.as_latent, _host.predicts_eps
of_latent, colours_of = _host.of_latent, _host.colours_of
relabel, with_table = _host.relabel, _host.with_table
make_clip, make_model, make_network, make_vae = _host.make_clip, _host.make_model, _host.make_network, _host.make_vae
noise, patch_guidance, patch_prediction = _host.noise, _host.patch_guidance, _host.patch_prediction
patch_evaluation, patch_scale, with_model = _host.patch_evaluation, _host.patch_scale, _host.with_model
patches_of, sampler, solver, inverter = _host.patches_of, _host.sampler, _host.solver, _host.inverter
sampled = _host.sampled
attention_layers, levels_of_skips = _host.attention_layers, _host.levels_of_skips
patch_conditions, patch_control = _host.patch_conditions, _host.patch_control
adapter_places = _host.adapter_places
followed, preview = _menu.followed, _menu.preview
named_sampler, named_sigmas = _menu.named_sampler, _menu.named_sigmas
sampler_names, scheduler_names = _menu.sampler_names, _menu.scheduler_names

__all__ = ["Call", "OfModel", "SCHEDULES", "adapted", "adapter_places", "after_steps", "as_latent",
           "attention_layers", "colours_of", "control_of", "decoder", "drawn", "folder", "followed", "identity",
           "inverter", "levels_of", "levels_of_skips", "make_clip", "make_model", "make_network", "make_vae",
           "measure", "named_sampler", "named_sigmas", "noise", "of_latent", "patch_blocks", "patch_conditions",
           "patch_control", "patch_evaluation", "patch_guidance", "patch_network", "patch_prediction", "patch_scale",
           "plan_for", "plan_of", "predicts_eps", "preview", "process_of", "record_of", "relabel", "replanned",
           "same_weights", "sampled", "sampler", "sampler_names", "scheduler_names", "shared_attention", "solver",
           "student", "tapped", "time_of", "with_model", "with_table", "wrapped"]

SCHEDULES = "odeon_schedules"  # the folder of learned steps and plans


def levels_of(model):
    """The noise levels of a MODEL: sigmas (its table, rising), sigma_min, sigma_max, and what its network is told of a
    level, timestep(sigma tensor), beside sigma(timestep tensor), which of flow models is no inverse of it."""
    remember(model)
    return _host.levels_of(model)


def measure(model, positive, negative, cfg: float, *, what: str, latent: dict, count: int, sigmas, seed: int,
            options: dict, start, cost: int, batch: int = 0, several_prompts: str = "combined", gradients: bool = False,
            told: bool = False, keep: bool = False) -> tuple[dict, dict]:
    """(the last state of a measurement on a MODEL, what it was measured on).

    start(denoise, x (count, ...), state=..., process=..., clock=...) -> Iterator[Progress] runs as a KSampler would
    run: loaded, guided, patched, with progress and preview. An interrupted run leaves what it has in folder("partial")
    and the same call goes on from there. options: whatever else the result depends on. several_prompts: 'combined', or
    'each' for one entry of `positive` after the other, one for each picture. gradients: denoise passes them, out of
    inference mode; a model that can't is refused before anything else. told: denoise takes told=, the level that the
    network is told, without gradients. keep: the result is kept in folder("cache"), and the same call gives it at once.
    """
    about = {"what": what, "model": identity(model), "patches": key_of(patches_of(model)), "cfg": cfg, "seed": seed,
             "conditioning": key_of([positive, negative]), "size": list(latent["samples"].shape[1:]),
             "several_prompts": several_prompts,
             **{key: key_of(value) if isinstance(value, torch.Tensor) else value for key, value in options.items()}}
    name = f"{key_of([about, sigmas.tolist(), count])}.safetensors"
    kept = folder("cache") / name
    if keep and kept.is_file():
        return read_tensors(kept)[0], about
    task = _host.measured(model, positive, negative, cfg, latent=latent, count=count, sigmas=sigmas, seed=seed,
                          start=start, partial=folder("partial") / name, about=about, cost=cost, batch=batch,
                          each=several_prompts == "each", gradients=gradients, told=told,
                          interrupted=folder(SCHEDULES) / "interrupted.safetensors")
    if keep:
        try:
            write_tensors(kept, task.result, about)
        except ValueError as error:  # the result itself is there
            logging.warning("Odeon: %s", error)
    return task.result, about


def drawn(model, positive, negative, cfg: float, *, sampler, sigmas, latent: dict, seed: int, done: int = 0,
          total: int = 0) -> tuple[torch.Tensor, int]:
    """followed(), its result kept in folder("cache"), so that the same run is there at once another time; a SAMPLER
    that sampler_key can't tell from others is run again."""
    key, kept = sampler_key(sampler), None
    if key is not None:
        about = {"what": "a drawn picture", "model": identity(model), "patches": key_of(patches_of(model)), "cfg": cfg,
                 "seed": seed, "conditioning": key_of([positive, negative]), "sampler": key, "odeon": VERSION,
                 "latent": key_of([latent["samples"], latent.get("noise_mask"), latent.get("batch_index")]),
                 "host": _menu.__name__.rpartition(".")[2]}
        kept = folder("cache") / f"{key_of([about, sigmas.tolist()])}.safetensors"
        if kept.is_file():
            found = read_tensors(kept)[0]
            return found["samples"], int(found["calls"])
    samples, calls = followed(model, positive, negative, cfg, sampler=sampler, sigmas=sigmas, latent=latent, seed=seed,
                              done=done, total=total)
    if kept is not None:
        try:
            write_tensors(kept, {"samples": samples, "calls": torch.tensor(calls)}, about)
        except ValueError as error:  # the result itself is there
            logging.warning("Odeon: %s", error)
    return samples, calls


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


def shared_attention(model, shape, share: float):
    """A MODEL whose pictures of a batch all have the first one's content; see patch_shared."""
    return patch_shared(model, _host.network_of(model), shape, share, attend=_host.own_attention)


def tapped(model, where: str) -> tuple[object, Tap]:
    """(a MODEL whose network's inner state can be read and changed, its Tap) at a place: 'middle' or 'fine'."""
    return patch_tap(model, _host.network_of(model), where)


def time_of(model):
    """time(sigma: float) -> the model's own time in [0, 1], 1 at pure noise: sigma of flow models, else the share of
    the table of levels below it."""
    process, table = process_of(model), levels_of(model).sigmas
    clock, last = clock_of(process, table), 1.0 if process is FLOW else len(table) - 1.0

    def time(sigma: float) -> float:
        return min(max(clock.time_of(sigma) / last, 0.0), 1.0)

    return time


def record_of(sampler) -> list | None:
    """What the last run of a SAMPLER made by `sampler` left in its option `record`; None where it has none."""
    return getattr(getattr(sampler, "sampler_function", None), "options", {}).get("record")


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
        def own(levels: list[float]) -> list:
            steps = student(sampler, process, clock)(levels)
            if any(step.guided for step in steps):
                raise ValueError("a plan learned with guidance is whole as it is: its numbers are for D and for what "
                                 "guidance made of it; connect it without a wrapper, or learn one with free = "
                                 "levels+coefficients")
            return steps

        return replan(own, sigmas, process=process, **options)

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
