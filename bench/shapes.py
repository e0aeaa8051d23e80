"""What the models of the Shapes family draw, measured by the judge, and what they cost."""
import json
import subprocess
import sys
import time

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import NODE_CLASS_MAPPINGS
from ..host.embedded import make_clip, make_network, make_vae
from ..host.embedded.core_sampling import model_sigmas, named_sampler
from ..host.embedded.sampling import Guider, Noise
from ..models.quality import judge_pictures
from ..models.text import ShapesTokenizer
from ..models.train.scenes import scenes_of
from ..models.weights import FOLDER, NETWORKS, card, shapes_autoencoder, shapes_judge, shapes_network

COUNTS = (1, 2, 3)
STEPS = (2, 3, 5, 8, 12, 20, 50)
# models that are used otherwise: steps and schedule (all others: STEPS, "normal")
USED = {"shapes-unet-few": ((1, 2, 3, 4, 8), "sgm_uniform")}
SEED = 24
PART = 32


def load(model: str) -> tuple:
    """MODEL, CLIP and VAE of the embedded runner."""
    trained, codec = shapes_network(model), shapes_autoencoder()
    network = make_network(trained.config, trained.weights, prediction=trained.prediction, levels=trained.levels,
                           rgb_factors=[], rgb_bias=[])
    return network, make_clip(ShapesTokenizer(), trained.text), make_vae(codec, ratio=8)


def node(name: str, /, **changes) -> tuple:
    """What a node gives with its defaults but for the changes."""
    cls = NODE_CLASS_MAPPINGS[name]
    inputs = {key: spec[1]["default"] for group in cls.INPUT_TYPES().values() for key, spec in group.items()
              if "default" in spec[1]}
    out = getattr(cls(), cls.FUNCTION)(**{**inputs, **changes})
    return out["result"] if isinstance(out, dict) else out


def encoded(clip, words: list[str]) -> list:
    """A CONDITIONING with a prompt for every picture of a batch."""
    found = [clip.encode_from_tokens_scheduled(clip.tokenize(text))[0] for text in words]
    return [[torch.cat([cond for cond, _ in found]),
             {"pooled_output": torch.cat([more["pooled_output"] for _, more in found])}]]


@torch.inference_mode()
def pictures(parts: tuple, captions: list[str], *, cfg: float, steps: int, sampler: str = "euler",
             scheduler: str = "normal", progress=None) -> Tensor:
    """Pictures (B, 3, 128, 128) in [-1, 1], one for each caption; caption i has the same noise at all settings."""
    model, clip, vae = parts
    sigmas = model_sigmas(model, scheduler, steps)
    latents = torch.zeros(len(captions), 4, 16, 16)
    noise = Noise(SEED).generate_noise({"samples": latents})
    made = []
    for i in range(0, len(captions), PART):
        words = captions[i:i + PART]
        guider = Guider(model, encoded(clip, words), encoded(clip, [""]), cfg)
        out = guider.sample(noise[i:i + PART], latents[i:i + PART], named_sampler(sampler), sigmas, seed=SEED)
        made.append(vae.decode(out).movedim(-1, 1) * 2.0 - 1.0)
        if progress:
            progress.update(len(words) * steps)
    return torch.cat(made)


def captions_of(objects: tuple[int, ...], count: int) -> list[str]:
    """Captions of held-out scenes that neither training nor its own measurement has used."""
    return [scene.caption for scene in scenes_of(count, SEED, held_out=True, objects=objects)]


def measure_model(name: str, *, scales: tuple[float, ...], count: int) -> dict:
    """Figures by CFG and number of things at the most steps (a model in USED: the fewest), and by steps at the first
    scale on one to three things; distances are to shapes-unet-v's 50 steps for a model in USED."""
    parts, judge = load(name), shapes_judge()
    counts, scheduler = USED.get(name, (STEPS, "normal"))
    best = counts[0] if name in USED else counts[-1]
    mixed = captions_of(COUNTS, count)
    total = len(scales) * len(COUNTS) * count * best + count * (sum(counts) + 50 * (name in USED))
    with tqdm(total=total, desc=name, unit="picture step") as progress:
        by_cfg = {}
        for cfg in scales:
            by_cfg[f"{cfg:g}"] = row = {}
            for objects in COUNTS:
                asked = captions_of((objects,), count)
                made = pictures(parts, asked, cfg=cfg, steps=best, scheduler=scheduler, progress=progress)
                row[f"things_{objects}"] = _rounded(judge_pictures(judge, made, asked).together)
        teacher = load("shapes-unet-v") if name in USED else parts
        reference = pictures(teacher, mixed, cfg=scales[0], steps=50, scheduler=scheduler, progress=progress)
        by_steps = {}
        for steps in counts:
            made = reference if steps == 50 else pictures(parts, mixed, cfg=scales[0], steps=steps,
                                                          scheduler=scheduler, progress=progress)
            by_steps[str(steps)] = _rounded(judge_pictures(judge, made, mixed, reference=reference).together)
    return {"count": count, "steps_of_cfg": best, "scheduler": scheduler, "by_cfg": by_cfg, "cfg_of_steps": scales[0],
            "by_steps": by_steps}


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {key: round(value, 4) for key, value in figures.items()}


def measure_cost(name: str) -> dict[str, float]:
    """Seconds to load, seconds for a picture in 20 steps with CFG, and the process's peak memory, in a fresh one."""
    code = f"from odeon.bench.shapes import _cost; _cost({name!r})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def _cost(name: str) -> None:
    import resource  # not on Windows

    started = time.perf_counter()
    parts = load(name)
    loaded = time.perf_counter()
    pictures(parts, ["a small red star left of a large blue ring on sand"], cfg=3.0, steps=20)
    done = time.perf_counter()
    sys.stdout.write(json.dumps({"load_seconds": round(loaded - started, 2), "picture_seconds": round(done - loaded, 2),
                      "threads": torch.get_num_threads(),
                      "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}) + "\n")


def write_card(name: str, figures: dict) -> None:
    """Adds the figures to the card of shipped weights."""
    if name not in NETWORKS:
        raise ValueError(f"model must be one of {', '.join(NETWORKS)}, got {name!r}")
    text = json.dumps({**card(name), "figures": figures}, indent=1)
    (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")
