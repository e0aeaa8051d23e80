"""The base of every node that finds steps or a solver for the user's own model."""
from typing import NamedTuple

from torch import Tensor

from .. import host
from ..measure.plot import draw_lines
from .inputs import CHOICE, FLOAT, INT, SOCKET


class Task(NamedTuple):
    """The inputs that every optimizer has."""
    model: object
    positive: list
    negative: list
    sigmas: Tensor
    latent: dict
    cfg: float
    start_seed: int
    samples: int
    batch: int
    several_prompts: str

    @property
    def levels(self) -> list[float]:
        return self.sigmas.tolist()

    @property
    def sigma_min(self) -> float:
        return float(host.levels_of(self.model).sigma_min)

    def run(self, start, *, what: str, cost: int, options: dict, **needs) -> tuple[dict, dict]:
        """host.measure on `samples` noises: (the last state, what it was made for). needs: gradients or told."""
        return host.measure(
            self.model, self.positive, self.negative, self.cfg, what=what, latent=self.latent, count=self.samples,
            sigmas=self.sigmas, seed=self.start_seed, start=start, cost=cost, batch=self.batch,
            several_prompts=self.several_prompts, options=options, keep=True, **needs)


class OptimizeNode:
    """A node that finds SIGMAS: optimize(task, **own options) -> results(...)."""
    RETURN_TYPES = ("SIGMAS", "STRING", "IMAGE", "ODEON_ABOUT")
    RETURN_NAMES = ("sigmas", "report", "plot", "about")
    OUTPUT_TOOLTIPS = ("The steps found, for the sampler.", "What was found, what it gains and what it cost, in words.",
                       "A picture of how the search went.", "What the steps were made for: connect to Save sigmas.")
    FUNCTION = "run"
    CATEGORY = "Odeon/schedules/optimize"

    @staticmethod
    def inputs(sigmas: str, *, samples: int = 24, **own) -> dict:
        return {"required": {
            "model": SOCKET("MODEL", "The model to find steps for, with the patches it will be sampled with."),
            "positive": SOCKET("CONDITIONING", "What pictures will be asked for, or examples of it."),
            "negative": SOCKET("CONDITIONING", "As it will be in the sampler."),
            "sigmas": SOCKET("SIGMAS", sigmas),
            "latent": SOCKET("LATENT", "An empty latent of the size to sample at."),
            "cfg": FLOAT(3.0, 1.0, 100.0, "As it will be in the sampler.", step=0.1),
            **own,
            "samples": INT(samples, 2, 4096, "Pictures to learn and judge on: more make the steps serve every seed, "
                                             "and take longer."),
            "start_seed": INT(0, 0, 2 ** 32 - 1, "Of the noises; the same number, the same result."),
            "batch": INT(8, 1, 1024, "Pictures in one model call: only memory and speed depend on it.", advanced=True),
            "several_prompts": CHOICE(["each", "combined"], "Where Conditioning (Combine) joined several prompts: each "
                                      "picture takes one of them in turn, or all take their mean as a sampler would.",
                                      advanced=True),
        }}

    def run(self, **given):
        task = Task(**{name: given.pop(name) for name in Task._fields})
        return self.optimize(task, **given)

    @staticmethod
    def results(sigmas: Tensor, about: dict, *, report: list[str], curves: dict, title: str, x_label: str = "",
                y_label: str = "", log: bool = True) -> dict:
        """What a node returns: the report is also shown on it."""
        text = "\n".join(report)
        plot = draw_lines(curves, title=title, x_label=x_label, y_label=y_label, log=log)
        made_for = {**about, "steps": len(sigmas) - 1, "report": text}
        return {"ui": {"text": [text]}, "result": (sigmas.float(), text, plot, made_for)}


NODES = ()
