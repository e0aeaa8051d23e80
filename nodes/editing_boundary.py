"""Editing across a boundary between two kinds of pictures, found in a model's own noisy states."""
import torch

from .. import host
from ..editing.boundary import (
    MODES,
    SPACES,
    Boundary,
    as_far_in,
    fitted_plane,
    length_ratio,
    mixing_level,
    moved,
)
from ..editing.path import euler_progress
from ..measure.progress import Progress
from ..samplers.clock import FLOW_CLOCK, clock_of_table
from ..samplers.ddim import plan_ddim
from ..samplers.linear import run
from ..samplers.noise import shared_noise
from ..samplers.process import FLOW
from .inputs import BOOLEAN, CHOICE, FLOAT, INT, SEED, SOCKET

HIGHEST = 0.98  # share of the model's time up to which a level is looked for
WATCHED = 8  # examples that the level is looked for on


def rising_levels(model, steps: int, *, share: float | None = None, sigma: float | None = None) -> list[float]:
    """steps + 1 levels even in the model's own time, from its lowest to a share of its time or to a level."""
    process, table = host.process_of(model), host.levels_of(model).sigmas.tolist()
    clock = FLOW_CLOCK if process is FLOW else clock_of_table(table)
    first, top = clock.time_of(table[0]), clock.time_of(table[-1])
    last = first + share * (top - first) if sigma is None else clock.time_of(sigma)
    if not first < last <= top:
        raise ValueError(f"the level must lie above the model's lowest, {table[0]:.4g}, and not above its highest, "
                         f"{table[-1]:.4g}, got {sigma:.4g}")
    return [clock.sigma_of(first + i / steps * (last - first)) for i in range(steps + 1)]


class OdeonBoundarySearch:
    TITLE = "Boundary search"
    DESCRIPTION = "Finds what tells two kinds of pictures apart inside your model, from examples of both; no training."
    SEARCH_ALIASES = ["boundary diffusion", "svm", "semantic direction", "attribute", "slider", "latent direction"]
    RETURN_TYPES = ("ODEON_BOUNDARY", "STRING")
    RETURN_NAMES = ("boundary", "report")
    OUTPUT_TOOLTIPS = ("For Boundary edit.", "How well the two kinds are told apart, and how far apart they lie.")
    FUNCTION = "search"
    CATEGORY = "Odeon/editing"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": SOCKET("MODEL", "The model to edit with."),
            "conditioning": SOCKET("CONDITIONING", "What both kinds have in common; an empty prompt will do."),
            "latents_positive": SOCKET("LATENT", "Examples of what pictures shall become, from VAE Encode; 20 to 100."),
            "latents_negative": SOCKET("LATENT", "As many examples of what they are."),
            "sigma_mix": FLOAT(0.0, 0.0, 1000.0, "The noise level to look at: 1.6 for SD, 0.5 for flow models. Higher "
                               "moves more. 0 finds it by itself.", step=0.001),
            "steps": INT(40, 1, 1000, "Steps from each picture up to that level."),
            "c": FLOAT(1.0, 0.0001, 1000.0, "How hard the boundary tries to get every example right.", step=0.0001,
                       advanced=True),
            "batch": INT(0, 0, 4096, "Pictures in one model call, fewer where memory runs out; 0 all.", advanced=True),
        }}

    def search(self, model, conditioning, latents_positive, latents_negative, sigma_mix, steps, c, batch):
        positive, negative = (host.of_latent(model, latents["samples"].float())
                              for latents in (latents_positive, latents_negative))
        if positive.shape[1:] != negative.shape[1:]:
            raise ValueError(f"both kinds of examples need one size, got {tuple(positive.shape[1:])} and "
                             f"{tuple(negative.shape[1:])}")
        clean, prompts = torch.cat([positive, negative]), (conditioning, [], 1.0)
        why = "as given"
        if sigma_mix == 0.0:
            sigma_mix, why = _found_level(model, prompts, clean[:WATCHED], steps)
        sigmas = rising_levels(model, steps, sigma=sigma_mix)
        tapped, tap = host.tapped(model, "middle")

        def start(denoise, like, *, state, process, clock):
            for progress in euler_progress(denoise, clean.to(like), sigmas, state):
                yield progress._replace(total=steps + 1)
            seen = []
            for piece in progress.state["x"].to(like).split(batch or len(clean)):
                with tap.on(piece.shape):
                    denoise(piece, sigmas[-1])
                seen.append(tap.seen.float().cpu())
            yield Progress(steps + 1, steps + 1, {**progress.state, "h": torch.cat(seen)})

        state, about = _measured(tapped, prompts, clean, sigmas, start, what="a boundary", batch=batch)
        alpha = host.process_of(model).alpha(sigmas[-1])
        points = {"z": state["x"] / (alpha ** 2 + sigmas[-1] ** 2) ** 0.5, "h": state["h"]}
        planes = {name: fitted_plane(value[:len(positive)], value[len(positive):], c=c)
                  for name, value in points.items()}
        text = _report(planes, sigmas[-1], why, len(positive), len(negative))
        found = Boundary(planes["z"], planes["h"], tuple(sigmas), tuple(clean.shape[1:]), about)
        return {"ui": {"text": [text]}, "result": (found, text)}


def _measured(model, prompts, clean, sigmas: list[float], start, *, what: str, batch: int = 0, **options):
    return host.measure(model, *prompts, what=what, latent={"samples": clean}, count=len(clean),
                        sigmas=torch.tensor(sigmas[::-1]), seed=0, options={"from": host.key_of(clean), **options},
                        start=start, cost=len(sigmas), batch=batch)


def _found_level(model, prompts, clean, steps: int) -> tuple[float, str]:
    """(the level where inverted pictures are as long as noised ones again, or half of the model's time; why)."""
    sigmas = rising_levels(model, steps, share=HIGHEST)

    def start(denoise, like, *, state, process, clock):
        ratios = list(state["ratios"].tolist()) if state else [1.0]
        for progress in euler_progress(denoise, clean.to(like), sigmas, state):
            sigma = sigmas[progress.done]
            ratios.append(length_ratio(progress.state["x"], clean.to(like), sigma, alpha=process.alpha(sigma)))
            yield progress._replace(state={**progress.state, "ratios": torch.tensor(ratios)})

    state, _ = _measured(model, prompts, clean, sigmas, start, what="the level of a boundary")
    level = mixing_level(sigmas, state["ratios"].tolist())
    if level is not None:
        return level, "from there on inverted pictures are as long as noised ones"
    worst = min(state["ratios"].tolist(), key=lambda ratio: -abs(ratio - 1.0))
    return (rising_levels(model, 1, share=0.5)[-1], "half of the model's time: inverted pictures stay unlike noised "
            f"ones in length, by up to {100.0 * abs(worst - 1.0):.0f} %, so their length shows no level")


def _report(planes: dict, sigma: float, why: str, positive: int, negative: int) -> str:
    lines = [f"level: sigma {sigma:.4g} ({why})", f"examples: {positive} positive, {negative} negative"]
    for name, plane in planes.items():
        lines.append(f"{name}: {100.0 * plane.accuracy:.0f} % told apart; along the normal the negative lie at "
                     f"{plane.offsets[0]:.3g}, the positive at {plane.offsets[1]:.3g}, {plane.gap:.3g} apart")
    lines.append(f"Boundary edit: add_distance of {planes['z'].gap:.3g} takes one kind to where the other lies")
    return "\n".join(lines)


class OdeonBoundaryEdit:
    TITLE = "Boundary edit"
    DESCRIPTION = "Moves pictures across a boundary that Boundary search found: more of one kind, less of the other."
    SEARCH_ALIASES = ["boundary diffusion", "attribute edit", "slider", "semantic", "latent direction"]
    RETURN_TYPES = ("LATENT",)
    OUTPUT_TOOLTIPS = ("The edited pictures.",)
    FUNCTION = "edit"
    CATEGORY = "Odeon/editing"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": SOCKET("MODEL", "The model of the search."),
            "conditioning": SOCKET("CONDITIONING", "As in the search."),
            "latent": SOCKET("LATENT", "The pictures to edit, of the size of the examples."),
            "boundary": SOCKET("ODEON_BOUNDARY", "From Boundary search."),
            "distance": FLOAT(10.0, -150.0, 150.0, "How far to move, in the space of z; the report of the search tells "
                                                   "how far the two kinds lie apart. Below 0 the other way.", step=0.1),
            "space": CHOICE(SPACES, "What is moved: the noisy latent z, the network's hidden state h, or both."),
            "mode": CHOICE(MODES, "add_distance: on from where a picture is; 0 is no move. set_distance: all pictures "
                                  "to one distance from the origin, as published."),
            "eta": FLOAT(1.0, 0.0, 1.0, "Fresh noise on the way back: 1 repairs the picture, 0 keeps nearest to it."),
            "seed": SEED,
            "delayed_h": BOOLEAN(False, "Also gives each later step the hidden state of the one before, as the "
                                        "authors' program does.", advanced=True),
        }}

    def edit(self, model, conditioning, latent, boundary, distance, space, mode, eta, seed, delayed_h):
        clean, sigmas = host.of_latent(model, latent["samples"].float()), list(boundary.sigmas)
        if tuple(clean.shape[1:]) != boundary.shape:
            raise ValueError(f"the boundary is one of latents {boundary.shape}, got {tuple(clean.shape[1:])}; bring "
                             "the picture to the size of the examples")
        if not host.same_weights(boundary.about["model"], host.identity(model)):
            raise ValueError("the boundary was found on another model; search again on this one")
        if latent.get("noise_mask") is not None:
            raise ValueError("a boundary moves whole pictures and can't keep to a noise mask; take the mask off")
        process, (tapped, tap), far = host.process_of(model), host.tapped(model, "middle"), distance
        alpha = process.alpha(sigmas[-1])
        unit, far_h = (alpha ** 2 + sigmas[-1] ** 2) ** 0.5, as_far_in(boundary.h, boundary.z, far, mode=mode)
        plan = plan_ddim([*sigmas[::-1], 0.0], eta=eta, process=process)
        noise = shared_noise(clean, seed, "boundary")

        def changed(h):
            return moved(h.flatten(1), boundary.h, far_h, mode=mode).reshape(h.shape)

        def start(denoise, like, *, state, process, clock):
            for progress in euler_progress(denoise, clean.to(like), sigmas, None):
                yield progress._replace(state={}, total=2 * len(sigmas) - 1)
            x, change = progress.state["x"], None if space == "z" else changed
            if space != "h":
                x = unit * moved((x / unit).flatten(1), boundary.z, far, mode=mode).reshape(x.shape)
            for i, step in enumerate(plan):
                with tap.on(x.shape, change):
                    x = run(denoise, x, [step], noise_sampler=lambda *levels, x=x: noise(*levels).to(x))
                change = (lambda _, h=tap.seen: h) if delayed_h and space != "z" else None
                yield Progress(len(sigmas) + i, 2 * len(sigmas) - 1, {"x": x})

        state, _ = _measured(tapped, (conditioning, [], 1.0), clean, sigmas, start, what="a boundary edit",
                             distance=distance, space=space, mode=mode, eta=eta, noise=seed, delayed_h=delayed_h,
                             boundary=host.key_of([boundary.z.normal, boundary.h.normal, list(boundary.z.offsets)]))
        return ({**latent, "samples": host.as_latent(model, state["x"].cpu())},)


NODES = (OdeonBoundarySearch, OdeonBoundaryEdit)
