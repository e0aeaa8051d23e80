"""The seam to whatever runs the nodes: ComfyUI where the pack was loaded by it, else the embedded runner.

Nodes and command line call these verbs and nothing else of a host. The choice is made once, here.
"""
import sys

if "comfy" in sys.modules:
    from .comfyui import make_clip, make_model, make_unet, make_vae, patch_guidance, process_of, solver
else:
    from .embedded import make_clip, make_model, make_unet, make_vae, patch_guidance, process_of, solver

__all__ = ["make_clip", "make_model", "make_unet", "make_vae", "patch_guidance", "plan_of", "process_of", "solver"]


def plan_of(sampler):
    """(plan function, options) of a SAMPLER made by `solver`, for wrappers that build on its steps."""
    plan = getattr(getattr(sampler, "sampler_function", None), "plan_and_options", None)
    if plan is None:
        raise ValueError("this needs a SAMPLER with a plan, from one of Odeon's solver nodes, "
                         f"got {type(sampler).__name__}; connect one")
    return plan
