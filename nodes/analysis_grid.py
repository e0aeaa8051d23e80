"""Samplers, schedules, steps and scales held against one another: as pictures, and as error by model calls."""
import logging
import statistics
import time
from typing import NamedTuple

import torch

from .. import host
from ..measure.grid import labelled_grid
from ..measure.plot import draw_lines
from ..schedules.optimize.teacher import teach, teacher_cost
from .analysis import CFG, HIDDEN
from .inputs import INT, SEED, SOCKET
from .menu import chosen, numbers, sampler_choice, sampler_of, schedule_choice, sigmas_of

ANOTHER = "One more to compare; none leaves it out."
MORE = "Further names between commas, as they stand in the menus above."
CONNECTED = "A SAMPLER of your own to compare with the others."


def _sampler_inputs() -> dict:
    return {"sampler_1": sampler_choice("A sampler by name; Odeon's at their defaults.", "euler"),
            "sampler_2": sampler_choice(ANOTHER, "Odeon UniPC"), "sampler_3": sampler_choice(ANOTHER),
            "more_samplers": ("STRING", {"default": "", "tooltip": MORE})}


class Cell(NamedTuple):
    """What one run of a comparison takes."""
    sampler: object
    sigmas: torch.Tensor
    cfg: float


class Drawn(NamedTuple):
    """What a cell gave: samples, model calls, seconds; or words where it failed."""
    samples: torch.Tensor | None
    calls: int
    seconds: float
    words: str = ""


def _draw_all(model, positive, negative, cells: list[Cell], *, latent: dict, seed: int) -> list[Drawn]:
    """Every cell once, with one bar for all; what was drawn before is read from the cache, so that a run that was
    stopped goes on. A cell that can't be drawn is told in words and the others go on."""
    total, done, found = sum(len(cell.sigmas) - 1 for cell in cells), 0, []
    logging.info("Odeon: %d runs of %d steps in all; a step is one model call, of some samplers two or more",
                 len(cells), total)
    for cell in cells:
        began = time.perf_counter()
        try:
            samples, calls = host.drawn(model, positive, negative, cell.cfg, sampler=cell.sampler, sigmas=cell.sigmas,
                                        latent=latent, seed=seed, done=done, total=total)
            found.append(Drawn(samples, calls, time.perf_counter() - began))
        except ValueError as error:
            found.append(Drawn(None, 0, 0.0, str(error)))
        done += len(cell.sigmas) - 1
    return found


class OdeonCompareGrid:
    TITLE = "Compare grid"
    DESCRIPTION = "Draws one picture with every sampler, schedule, number of steps and scale you pick, side by side."
    SEARCH_ALIASES = ["xy plot", "x/y/z plot", "grid", "compare samplers", "compare schedulers", "contact sheet"]
    RETURN_TYPES = ("IMAGE", "IMAGE", "STRING")
    RETURN_NAMES = ("grid", "pictures", "report")
    OUTPUT_TOOLTIPS = ("All pictures with their names around them.",
                       "The same pictures in full size, row by row; black where one could not be drawn.",
                       "A line for each picture: its names, model calls and seconds.")
    OUTPUT_NODE = True
    FUNCTION = "compare"
    CATEGORY = "Odeon/analysis"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": SOCKET("MODEL", "The model to draw with, with its patches."),
            "positive": SOCKET("CONDITIONING", "What the picture shows."),
            "negative": SOCKET("CONDITIONING", "What it does not; no effect at scale 1."),
            "vae": SOCKET("VAE", "Turns latents into pictures."),
            "latent": SOCKET("LATENT", "An empty latent of the size to draw; of a batch the first is taken."),
            **_sampler_inputs(),
            "schedule_1": schedule_choice("A schedule by name; Odeon's at their defaults.", "normal"),
            "schedule_2": schedule_choice(ANOTHER, "karras"), "schedule_3": schedule_choice(ANOTHER),
            "more_schedules": ("STRING", {"default": "", "tooltip": MORE}),
            "steps": ("STRING", {"default": "8", "tooltip": "Numbers of steps between commas."}),
            "scales": ("STRING", {"default": "3", "tooltip": "Guidance scales (CFG) between commas."}),
            "noise_seed": SEED,
            "limit": INT(40, 1, 10000, "At most so many pictures. Where the lists ask for more nothing is drawn, and "
                                       "you are told how much it would be."),
            "cell": INT(256, 32, 2048, "Width of each picture in the grid, in pixels.", advanced=True),
        }, "optional": {
            "sampler": SOCKET("SAMPLER", CONNECTED), "sampler_b": SOCKET("SAMPLER", CONNECTED),
            "sigmas": SOCKET("SIGMAS", "A schedule of your own, with its own number of steps."),
            "sigmas_b": SOCKET("SIGMAS", "A schedule of your own, with its own number of steps."),
        }, "hidden": HIDDEN}

    def compare(self, model, positive, negative, vae, latent, noise_seed, limit, cell, prompt=None, extra_pnginfo=None,
                **lists):
        scales = numbers(lists["scales"], "scales")
        samplers = _samplers(lists)
        rows = [(f"{name}, scale {scale:g}" if len(scales) > 1 else name, sampler, scale)
                for name, sampler in samplers.items() for scale in scales]
        schedules = chosen(*(lists[f"schedule_{i}"] for i in (1, 2, 3)), more=lists["more_schedules"])
        counts = numbers(lists["steps"], "steps", whole=True)
        own = {name: lists[name] for name in ("sigmas", "sigmas_b") if lists.get(name) is not None}
        _require_few(rows, schedules, counts, own, limit)
        columns = {f"{name} {steps}": sigmas_of(name, model, steps) for name in schedules for steps in counts}
        columns |= {f"{name}, {len(own[name]) - 1} steps": own[name] for name in own}
        one = {**latent, "samples": latent["samples"][:1]}
        one |= {name: latent[name][:1] for name in ("noise_mask", "batch_index") if name in latent}
        drawn = _draw_all(model, positive, negative, [Cell(sampler, sigmas, scale) for _, sampler, scale in rows
                                                      for sigmas in columns.values()],
                          latent=one, seed=noise_seed)
        pictures = [made.words if made.samples is None else _still(vae.decode(made.samples)) for made in drawn]
        wide = len(columns)
        grid = labelled_grid([pictures[i:i + wide] for i in range(0, len(pictures), wide)],
                             [name for name, _, _ in rows], list(columns), width=cell)
        names = [f"{row}, {column}" for row, _, _ in rows for column in columns]
        report = "\n".join(f"{name}: {made.words or f'{made.calls} model calls, {made.seconds:.1f} seconds'}"
                           for name, made in zip(names, drawn))
        return {"ui": {**host.preview(grid, prompt, extra_pnginfo), "text": [report]},
                "result": (grid, _batch(pictures), report)}


def _samplers(lists: dict) -> dict:
    """The samplers asked for, by what to call them: of the menus, then those connected."""
    names = chosen(*(lists[f"sampler_{i}"] for i in (1, 2, 3)), more=lists["more_samplers"])
    found = {name: sampler_of(name) for name in names}
    found |= {name: lists[name] for name in ("sampler", "sampler_b") if lists.get(name) is not None}
    if not found:
        raise ValueError("there is nothing to compare: pick a sampler in the menus, or connect one")
    return found


def _require_few(rows: list, schedules: list[str], counts: list[int], own: dict, limit: int) -> None:
    """Raises ValueError where a grid is empty, or more than the limit, saying what it would cost."""
    columns = len(schedules) * len(counts) + len(own)
    if not columns:
        raise ValueError("there is no schedule to draw with: pick one in the menus, or connect SIGMAS")
    cells = len(rows) * columns
    if cells > limit:
        steps = len(rows) * (len(schedules) * sum(counts) + sum(len(sigmas) - 1 for sigmas in own.values()))
        raise ValueError(f"this grid has {cells} pictures ({len(rows)} rows of {columns}), {steps} steps in all, a "
                         f"model call each and more with some samplers; the limit is {limit}. Nothing was drawn: "
                         f"raise limit to {cells} if you want them all, or shorten the lists")


def _still(decoded: torch.Tensor) -> torch.Tensor:
    """The first picture or frame (H, W, 3) of a decoded batch or film."""
    while decoded.ndim > 3:
        decoded = decoded[0]
    return decoded


def _batch(pictures: list) -> torch.Tensor:
    """An IMAGE of pictures, black for words."""
    shape = next((picture.shape for picture in pictures if not isinstance(picture, str)), (64, 64, 3))
    return torch.stack([torch.zeros(shape) if isinstance(picture, str) else picture for picture in pictures])


class OdeonPlotError:
    TITLE = "Plot error"
    DESCRIPTION = "Measures how far samplers end from an accurate run of your model, by the number of model calls."
    SEARCH_ALIASES = ["nfe", "error curve", "convergence", "benchmark samplers", "how many steps", "compare samplers"]
    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("plot", "report")
    OUTPUT_TOOLTIPS = ("Error against model calls, a curve for each sampler; lower is better.",
                       "The same in numbers, and how exact the accurate run is itself.")
    OUTPUT_NODE = True
    FUNCTION = "measure"
    CATEGORY = "Odeon/analysis"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": SOCKET("MODEL", "The model to measure on, with its patches."),
            "positive": SOCKET("CONDITIONING", "What the pictures show."),
            "negative": SOCKET("CONDITIONING", "What they do not; no effect at cfg 1."),
            "latent": SOCKET("LATENT", "An empty latent of the size to sample at."),
            **_sampler_inputs(),
            "schedule": schedule_choice("The schedule that all samplers run on.", "normal"),
            "steps": ("STRING", {"default": "4, 6, 8, 12, 16", "tooltip": "Numbers of steps between commas."}),
            "cfg": CFG,
            "samples": INT(4, 1, 256, "Pictures to measure on, all at once; their median is drawn."),
            "start_seed": INT(0, 0, 2 ** 32 - 1, "Of the noises; the same number, the same result."),
            "teacher_steps": INT(60, 8, 1000, "Steps of the accurate run.", advanced=True),
        }, "optional": {"sampler": SOCKET("SAMPLER", CONNECTED), "sampler_b": SOCKET("SAMPLER", CONNECTED)},
            "hidden": HIDDEN}

    def measure(self, model, positive, negative, latent, schedule, steps, cfg, samples, start_seed, teacher_steps,
                prompt=None, extra_pnginfo=None, **lists):
        samplers, counts = _samplers(lists), sorted(numbers(steps, "steps", whole=True))
        if not chosen(schedule):
            raise ValueError("there is no schedule to measure on; pick one")
        columns = [sigmas_of(schedule, model, count) for count in counts]
        bad = [count for count, sigmas in zip(counts, columns) if sigmas[-1] != 0.0]
        if bad:
            raise ValueError(f"{schedule} does not end at 0 at {bad[0]} steps, so its pictures are not finished; "
                             "pick another schedule")
        if latent["samples"].any():
            raise ValueError("the error is measured from pure noise; connect an empty latent")
        empty = {"samples": latent["samples"][:1].expand(samples, *latent["samples"].shape[1:]).clone()}
        targets = {top: self._target(model, positive, negative, cfg, latent=empty, top=top, seed=start_seed,
                                     steps=teacher_steps) for top in dict.fromkeys(float(s[0]) for s in columns)}
        cells = [Cell(sampler, sigmas, cfg) for sampler in samplers.values() for sigmas in columns]
        drawn = _draw_all(model, positive, negative, cells, latent=empty, seed=start_seed)
        curves, lines = {name: [] for name in samplers}, []
        for (name, count), cell, made in zip([(name, count) for name in samplers for count in counts], cells, drawn):
            if made.words:
                lines.append(f"{name}, {count} steps: {made.words}")
                continue
            end = host.of_latent(model, made.samples.float().cpu())
            off = (end - targets[float(cell.sigmas[0])][0]).double().square().flatten(1).mean(1).sqrt().tolist()
            curves[name].append((made.calls, statistics.median(off)))
            lines.append(f"{name}, {count} steps: {made.calls} model calls, error {statistics.median(off):.4g} "
                         f"(mean {statistics.fmean(off):.4g})")
        exact = max(error for _, error in targets.values())
        lines.append(f"the accurate run itself is off by about {exact:.2g} or less: errors near that mean nothing")
        plot = draw_lines({name: sorted(curve) for name, curve in curves.items()}, log=True, x_label="model calls",
                          title=f"Distance to an accurate run, {schedule}, CFG {cfg:g}",
                          y_label=f"root mean square in the latent, median of {samples}")
        report = "\n".join(lines)
        return {"ui": {**host.preview(plot, prompt, extra_pnginfo), "text": [report]}, "result": (plot, report)}

    @staticmethod
    def _target(model, positive, negative, cfg, *, latent: dict, top: float, seed: int,
                steps: int) -> tuple[torch.Tensor, float]:
        """(where an accurate run takes the noises from level `top`, about how far it is off itself)."""
        low = float(host.levels_of(model).sigma_min)

        def start(denoise, x, *, state, process, clock):
            return teach(denoise, x, [top, 0.0], steps=steps, sigma_min=low, process=process, state=state)

        state, _ = host.measure(
            model, positive, negative, cfg, what="an accurate run", latent=latent, count=len(latent["samples"]),
            sigmas=torch.tensor([top, 0.0]), seed=seed, start=start, cost=teacher_cost(steps),
            options={"teacher_steps": steps}, keep=True)
        return state["targets"].float().cpu(), state["error"].median().item() / 4.0


NODES = (OdeonCompareGrid, OdeonPlotError)
