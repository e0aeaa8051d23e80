"""The seam to whatever runs the nodes: ComfyUI where the pack was loaded by it, else the embedded runner.

Nodes and command line call these verbs and nothing else of a host. The choice is made once, here.
"""
import functools
import inspect
import sys

from .common import planned

if "comfy" in sys.modules:
    from .comfyui import make_clip, make_model, make_network, make_vae, patch_guidance, process_of, sampler, solver
else:
    from .embedded import make_clip, make_model, make_network, make_vae, patch_guidance, process_of, sampler, solver

__all__ = ["make_clip", "make_model", "make_network", "make_vae", "patch_guidance", "plan_of", "process_of", "sampler",
           "solver", "wrapped"]


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
