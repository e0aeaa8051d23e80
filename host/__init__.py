"""The seam to whatever runs the nodes: ComfyUI where the pack was loaded by it, else the embedded runner.

Nodes and command line call these verbs and nothing else of a host. The choice is made once, here.
"""
import functools
import inspect
import sys

from .common import planned
from .measuring import key_of

if "comfy" in sys.modules:
    from . import comfyui as _host
else:
    from . import embedded as _host

folder, identity, process_of = _host.folder, _host.identity, _host.process_of
make_clip, make_model, make_network, make_vae = _host.make_clip, _host.make_model, _host.make_network, _host.make_vae
noise, patch_guidance, patch_prediction = _host.noise, _host.patch_guidance, _host.patch_prediction
patches_of, sampler, solver = _host.patches_of, _host.sampler, _host.solver

__all__ = ["folder", "identity", "make_clip", "make_model", "make_network", "make_vae", "measure", "noise",
           "patch_guidance", "patch_prediction", "plan_of", "process_of", "sampler", "solver", "wrapped"]


def measure(model, positive, negative, cfg: float, *, what: str, latent: dict, count: int, sigmas, seed: int,
            options: dict, start, cost: int) -> tuple[dict, dict]:
    """(the last state of a measurement on a MODEL, what it was measured on).

    start(denoise, x (count, ...), state=..., process=..., clock=...) -> Iterator[Progress] runs as a KSampler would
    run: loaded, guided, patched, with progress and preview. An interrupted run leaves what it has in folder("partial")
    and the same call goes on from there. options: whatever else the result depends on.
    """
    about = {"what": what, "model": identity(model), "patches": key_of(patches_of(model)), "cfg": cfg, "seed": seed,
             "conditioning": key_of([positive, negative]), "size": list(latent["samples"].shape[1:]), **options}
    partial = folder("partial") / f"{key_of([about, sigmas.tolist(), count])}.safetensors"
    task = _host.measured(model, positive, negative, cfg, latent=latent, count=count, sigmas=sigmas, seed=seed,
                          start=start, partial=partial, about=about, cost=cost)
    return task.result, about


def plan_of(sampler):
    """(plan function, options) of a SAMPLER made by `solver`, for wrappers that build on its steps."""
    plan = getattr(getattr(sampler, "sampler_function", None), "plan_and_options", None)
    if plan is None:
        raise ValueError("this needs a SAMPLER with a plan, from one of Odeon's solver nodes, "
                         f"got {type(sampler).__name__}; connect one")
    return plan


def wrapped(sampler, wrap, **options):
    """A SAMPLER whose steps are wrap(steps of `sampler`, process=..., **options)."""
    plan_fn, inner = plan_of(sampler)

    @functools.wraps(plan_fn)
    def plan(sigmas: list[float], *, process, clock) -> list:
        return wrap(planned(plan_fn, sigmas, process=process, clock=clock, **inner), process=process, **options)

    plan.__signature__ = inspect.signature(plan, follow_wrapped=False)
    return solver(plan)
