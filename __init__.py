"""Odeon: diffusion samplers, schedules, guidance and editing for ComfyUI, each exactly its paper's."""
from .nodes import (
    editing,
    guidance,
    models,
    samplers,
    samplers_adaptive,
    samplers_ems,
    samplers_fitted,
    samplers_sigma,
    schedules,
)

_MODULES = (samplers, samplers_sigma, samplers_adaptive, samplers_ems, samplers_fitted, schedules, guidance, editing,
            models)
_NODES = [cls for module in _MODULES for cls in module.NODES]

NODE_CLASS_MAPPINGS = {cls.__name__: cls for cls in _NODES}
NODE_DISPLAY_NAME_MAPPINGS = {cls.__name__: cls.TITLE for cls in _NODES}
WEB_DIRECTORY = "./web"

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]
