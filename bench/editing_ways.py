"""How each editor is used, by its nodes: from encoded pictures and two prompts to edited latents."""
from typing import NamedTuple

import torch
from torch import Tensor

from ..host.embedded.core_sampling import named_sampler
from ..host.embedded.sampling import Guider
from .shapes import node


class Task(NamedTuple):
    """A batch of edits: captions (before, after); latents and noise (B, C, h, w); CONDITIONINGs of B prompts, and of an
    empty one; levels; the CFG of the words wanted."""
    model: object
    clip: object
    captions: list[tuple[str, str]]
    latents: Tensor
    noise: Tensor
    source: list
    target: list
    empty: list
    sigmas: Tensor
    cfg: float
    seed: int


def sampled(task: Task, sampler, *, latents: Tensor | None = None, model=None) -> Tensor:
    """A run of a SAMPLER on the words wanted."""
    latents = task.latents if latents is None else latents
    guider = Guider(model or task.model, task.target, task.empty, task.cfg)
    return guider.sample(task.noise, latents, sampler, task.sigmas, seed=task.seed)


def nothing(task: Task) -> Tensor:
    return task.latents


def from_noise(task: Task) -> Tensor:
    return sampled(task, named_sampler("euler"), latents=torch.zeros_like(task.latents))


def img2img(task: Task) -> Tensor:
    return sampled(task, named_sampler("euler"))


def by_words(name: str):
    """An editor that is a SAMPLER with the words that describe the picture."""
    def edit(task: Task, **options) -> Tensor:
        return sampled(task, node(name, source=task.source, source_negative=task.empty, **options)[0])

    return edit


def controlled_ddcm(task: Task, **options) -> Tensor:
    """InfEdit with attention control, each picture by its own two captions."""
    from ..nodes.editing_attention import controlled

    sampler = node("OdeonSamplerDDCM", source=task.source)[0]
    return sampled(task, sampler, model=controlled(task.model, task.clip, task.captions, **options))


def ddim(task: Task, **options) -> Tensor:
    """Up under the words that describe the picture, back by DDIM."""
    return _back(task, _up(task, "OdeonSamplerDDIMInvert", **options), node("OdeonSamplerDDIM")[0])


def edit_friendly(task: Task, *, skip: float | None = None, **options) -> Tensor:
    maps = _maps(task, "OdeonEditFriendlyInvert", **options)
    changed = {} if skip is None else {"skip": skip}
    return sampled(task, node("OdeonSamplerEditFriendly", noise_maps=maps, **changed)[0])


def bdia(task: Task, **options) -> Tensor:
    return sampled(task, node("OdeonSamplerBDIA", noise_maps=_maps(task, "OdeonBDIAInvert", **options))[0])


def rf(task: Task, *, gamma: float = 0.5, **options) -> Tensor:
    """RF inversion and edit, the picture as reference."""
    up = _up(task, "OdeonSamplerRFInvert", gamma=gamma)
    return _back(task, up, node("OdeonSamplerRFEdit", reference={"samples": task.latents}, **options)[0])


def _up(task: Task, name: str, **options) -> Tensor:
    guider = Guider(task.model, task.source, None, 1.0)
    return guider.sample(task.noise, task.latents, node(name, **options)[0], task.sigmas.flip(0), seed=task.seed)


def _back(task: Task, latents: Tensor, sampler) -> Tensor:
    guider = Guider(task.model, task.target, task.empty, task.cfg)
    return guider.sample(torch.zeros_like(latents), latents, sampler, task.sigmas, seed=task.seed)


def _maps(task: Task, name: str, **options):
    return node(name, model=task.model, positive=task.source, negative=task.empty, latent={"samples": task.latents},
                sigmas=task.sigmas, **options)[0]


NODES = {"ddcm": ("OdeonSamplerDDCM",), "flow_edit": ("OdeonSamplerFlowEdit",), "delta": ("OdeonDeltaDenoise",),
         "edict": ("OdeonEDICT",)}
WAYS = {"nothing": nothing, "noise": from_noise, "img2img": img2img,
        **{way: by_words(names[0]) for way, names in NODES.items()},
        "control": controlled_ddcm, "ddim": ddim, "edit_friendly": edit_friendly, "bdia": bdia, "rf": rf}
NODES |= {"control": ("OdeonAttentionControl", "OdeonSamplerDDCM"),
          "ddim": ("OdeonSamplerDDIMInvert", "OdeonSamplerDDIM"),
          "edit_friendly": ("OdeonEditFriendlyInvert", "OdeonSamplerEditFriendly"),
          "bdia": ("OdeonBDIAInvert",), "rf": ("OdeonSamplerRFInvert", "OdeonSamplerRFEdit")}
