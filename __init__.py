"""Odeon: diffusion samplers, schedules, guidance and editing for ComfyUI, each exactly its paper's."""
from .host import live
from .nodes import (
    analysis,
    analysis_grid,
    editing,
    editing_attention,
    editing_boundary,
    editing_control,
    editing_drag,
    editing_inverse,
    editing_inversion,
    editing_prompts,
    guidance,
    guidance_adapters,
    guidance_attention,
    guidance_fewer,
    guidance_gradient,
    guidance_losses,
    guidance_rules,
    guidance_steps,
    models,
    one_more_step,
    optimize_ays,
    optimize_grid,
    optimize_learned,
    optimize_plan,
    optimize_search,
    optimize_steps,
    samplers,
    samplers_adaptive,
    samplers_ems,
    samplers_fitted,
    samplers_sigma,
    schedules,
    schedules_families,
    schedules_files,
    schedules_models,
    schedules_shapes,
    schedules_tables,
)

_MODULES = (samplers, samplers_sigma, samplers_adaptive, samplers_ems, samplers_fitted, schedules, schedules_families,
            schedules_models, schedules_shapes, schedules_tables, schedules_files, one_more_step, optimize_grid,
            optimize_learned, optimize_plan, optimize_search, optimize_steps, optimize_ays, guidance, guidance_rules,
            guidance_gradient, guidance_losses, guidance_steps, guidance_fewer, guidance_attention, guidance_adapters,
            editing, editing_boundary, editing_control, editing_drag, editing_inverse, editing_inversion,
            editing_prompts, editing_attention, analysis, analysis_grid, models)
_NODES = [cls for module in _MODULES for cls in module.NODES]

NODE_CLASS_MAPPINGS = {cls.__name__: cls for cls in _NODES}
NODE_DISPLAY_NAME_MAPPINGS = {cls.__name__: cls.TITLE for cls in _NODES}
WEB_DIRECTORY = "./web"
live.register(NODE_CLASS_MAPPINGS)

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]
