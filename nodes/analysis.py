"""Pictures of numbers: schedules as curves, and a run step by step."""
from .. import host
from ..measure.grid import labelled_grid
from ..measure.plot import draw_lines
from ..measure.trajectory import UNITS, Seen, calls_of_steps, changes, schedule_curve, spread
from .inputs import CHOICE, FLOAT, INT, SEED, SOCKET

SCHEDULES = 6  # that one plot takes
CFG = FLOAT(3.0, 1.0, 100.0, "Guidance scale; 1 is none.", step=0.1)
HIDDEN = {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}  # what the pictures shown on a node carry


class OdeonPlotSigmas:
    TITLE = "Plot sigmas"
    DESCRIPTION = "Draws one or several schedules as curves, in sigma, log-SNR or timesteps of your model."
    SEARCH_ALIASES = ["plot schedule", "show sigmas", "sigma curve", "graph", "compare schedules", "visualize"]
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("plot",)
    OUTPUT_TOOLTIPS = ("The curves as a picture of 900 x 560 pixels, to save or to preview.",)
    OUTPUT_NODE = True
    FUNCTION = "plot"
    CATEGORY = "Odeon/analysis"

    @classmethod
    def INPUT_TYPES(cls):
        more = {f"sigmas_{i}": SOCKET("SIGMAS", "One more schedule to draw.") for i in range(2, SCHEDULES + 1)}
        return {"required": {
            "sigmas": SOCKET("SIGMAS", "The schedule to draw."),
            "unit": CHOICE(UNITS, "sigma: the level itself. log_sigma: the same on a log axis, its 0 left out. "
                                  "log_snr: log of signal to noise power. timestep: what the network is told."),
            "names": ("STRING", {"default": "", "tooltip": "What to call the schedules, between commas, in their "
                                                           "order."}),
        }, "optional": {**more, "model": SOCKET("MODEL", "The model that the schedules are for: log_snr and timestep "
                                                         "need it.")}, "hidden": HIDDEN}

    def plot(self, sigmas, unit, names="", model=None, prompt=None, extra_pnginfo=None, **more):
        given = [sigmas, *(more[name] for name in sorted(more) if more[name] is not None)]
        written = [name.strip() for name in names.split(",")]
        known = {} if model is None else {"levels": host.levels_of(model), "process": host.process_of(model)}
        curves = {}
        for i, schedule in enumerate(given):
            name = written[i] if i < len(written) and written[i] else f"{max(len(schedule) - 1, 0)} steps"
            while name in curves:
                name += "'"
            curves[name] = schedule_curve(schedule.tolist(), unit, **known)
        titles = {"sigma": "Noise level (sigma)", "log_sigma": "Noise level (sigma), log axis",
                  "log_snr": "log-SNR", "timestep": "Timestep"}
        plot = draw_lines(curves, title=f"{titles[unit]} by step", x_label="step", y_label=titles[unit],
                          log=unit == "log_sigma")
        return {"ui": host.preview(plot, prompt, extra_pnginfo), "result": (plot,)}


class OdeonTrajectory:
    TITLE = "Trajectory"
    DESCRIPTION = "Draws a picture and shows how it came about: what the model saw at each step, and how much changed."
    SEARCH_ALIASES = ["step by step", "denoising process", "intermediate steps", "preview steps", "film strip",
                      "convergence", "evaluations", "nfe"]
    RETURN_TYPES = ("IMAGE", "IMAGE", "LATENT", "STRING")
    RETURN_NAMES = ("strip", "plot", "latent", "report")
    OUTPUT_TOOLTIPS = ("What the model predicted at each step, side by side; a row for each picture of the batch.",
                       "How much the prediction changed from step to step, and how far it was from the result.",
                       "The finished picture, as a sampler would give it.", "Steps, model calls and changes in words.")
    OUTPUT_NODE = True
    FUNCTION = "follow"
    CATEGORY = "Odeon/analysis"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": SOCKET("MODEL", "The model to draw with, with its patches."),
            "positive": SOCKET("CONDITIONING", "What the picture shows."),
            "negative": SOCKET("CONDITIONING", "What it does not; no effect at cfg 1."),
            "sampler": SOCKET("SAMPLER", "The sampler to watch, ComfyUI's or Odeon's."),
            "sigmas": SOCKET("SIGMAS", "Its schedule."),
            "latent": SOCKET("LATENT", "An empty latent of the size to draw, or a picture to start from."),
            "vae": SOCKET("VAE", "Turns the predictions into pictures."),
            "cfg": CFG,
            "noise_seed": SEED,
            "most": INT(10, 2, 100, "At most so many pictures in a row, evenly chosen among the steps."),
            "cell": INT(192, 32, 1024, "Width of each picture in pixels.", advanced=True),
        }, "hidden": HIDDEN}

    def follow(self, model, positive, negative, sampler, sigmas, latent, vae, cfg, noise_seed, most, cell, prompt=None,
               extra_pnginfo=None):
        if len(sigmas) < 2:
            raise ValueError(f"there is no step to watch: SIGMAS has {len(sigmas)} values; raise steps or denoise")
        seen = []

        def watch(step: int, denoised, calls: int) -> None:
            seen.append(Seen(denoised.float().cpu(), calls))

        samples, calls = host.followed(model, positive, negative, cfg, sampler=sampler, sigmas=sigmas, latent=latent,
                                       seed=noise_seed, watch=watch)
        if not seen:
            raise ValueError("this sampler reports no steps, so there is nothing to watch; take another one")
        result = host.of_latent(model, samples.float().cpu())
        moved, left = changes(seen, result)
        levels = sigmas.tolist() if len(seen) == len(sigmas) - 1 else None
        labels = [f"step {i + 1}" + (f", sigma {levels[i]:.3g}" if levels else "") for i in range(len(seen))]
        places = spread(len(seen), most)
        pictures = [vae.decode(host.as_latent(model, seen[i].denoised)) for i in places]
        pictures.append(vae.decode(samples))
        strip = labelled_grid([[_still(batch[k]) for batch in pictures] for k in range(len(samples))],
                              [""] * len(samples), [*(labels[i] for i in places), f"result, {calls} calls"], width=cell)
        plot = draw_lines({"change since the step before": moved, "distance to the result": left},
                          title=f"{len(seen)} steps, {calls} model calls", x_label="model calls",
                          y_label="root mean square, in the latent", log=True)
        report = _report(labels, calls_of_steps(seen, calls), moved, left, calls)
        shown = [host.preview(picture, prompt, extra_pnginfo)["images"] for picture in (strip, plot)]
        return {"ui": {"images": [*shown[0], *shown[1]], "text": [report]},
                "result": (strip, plot, {**latent, "samples": samples}, report)}


def _still(picture):
    """The first frame of a decoded picture or film."""
    return picture if picture.ndim == 3 else picture[0]


def _report(labels: list[str], spent: list[int], moved, left, calls: int) -> str:
    far = [f"{value:.4g}" for _, value in left]
    gone = ["-", *(f"{value:.4g}" for _, value in moved)]
    lines = [f"{len(labels)} steps, {calls} model calls"]
    return "\n".join([*lines, *(f"{label}: {count} call{'s' * (count != 1)}, change {change}, from the result {rest}"
                                for label, count, change, rest in zip(labels, spent, gone, far))])


NODES = (OdeonPlotSigmas, OdeonTrajectory)
