"""The embedded runner's side of the seam: models, conditioning and sampling without ComfyUI."""
import os
from pathlib import Path

import torch

from ...models.dit import ShapesDiT
from ...models.unet import ShapesUNet
from ...samplers.process import Process
from ..common import Sampling, Solver, clock_of
from ..measuring import Measuring, fingerprint
from .context import current
from .model import Clip, Model, Vae
from .sampling import Guider, Noise, Sampler

__all__ = ["folder", "identity", "make_clip", "make_model", "make_network", "make_vae", "measured", "noise",
           "patch_guidance", "patch_prediction", "patches_of", "process_of", "sampler", "solver"]


def solver(plan_fn, **options) -> Sampler:
    """A SAMPLER that runs the plan of plan_fn(sigmas, process=..., **options)."""
    return Sampler(Solver(plan_fn, options, process_of=process_of, table_of=_table_of))


def sampler(sample_fn, **options) -> Sampler:
    """A SAMPLER that runs sample_fn(model, x, sigmas, process=..., callback=..., **options), which picks its steps."""
    return Sampler(Sampling(sample_fn, options, process_of=process_of, table_of=_table_of,
                            identity_of=identity))


def process_of(model: Model) -> Process:
    """VE or FLOW, by what the MODEL predicts."""
    return model.get_model_object("model_sampling").process


def _table_of(model: Model):
    return model.get_model_object("model_sampling").levels.sigmas


def patch_guidance(model: Model, start) -> Model:
    """A MODEL with one more guidance rule, after those already there.

    start() -> rule, called at the start of every run, so that a rule's state lives and dies with it;
    rule(cond, uncond, *, scale, sigma) -> the guided prediction. At scale 1 no rule runs.
    """
    patched = model.clone()
    patched.rules.append(start)
    return patched


def patch_prediction(model: Model, change) -> Model:
    """A MODEL whose every prediction goes through change(denoised, sigma (B,)), after guidance and at any scale."""
    patched = model.clone()
    patched.changes.append(change)
    return patched


def noise(seed: int, change) -> Noise:
    """A NOISE: change(the unit noise (B, ...) of that seed)."""
    return Noise(seed, change)


def folder(kind: str) -> Path:
    """Where files of a kind live: in $ODEON_FOLDER, else in ~/.odeon."""
    return Path(os.environ.get("ODEON_FOLDER") or Path.home() / ".odeon") / kind


def identity(model: Model) -> str:
    """A name for the weights of a MODEL, whatever patches it has."""
    return fingerprint(model.network, {})


def patches_of(model: Model) -> list:
    """Nothing: the embedded runner has no weight patches."""
    return []


def measured(model: Model, positive: list, negative: list, cfg: float, *, latent: dict, count: int, sigmas, seed: int,
             **measuring) -> Measuring:
    """Runs a measurement (see Measuring) on `count` pictures of the latent's size, guided as a KSampler would."""
    samples = model.fix_empty_latent_channels(latent["samples"])[:1]
    start = Noise(seed).generate_noise({"samples": samples.expand(count, *samples.shape[1:])})
    task = Measuring(report=lambda progress: current().progress(progress.done, progress.total),
                     process_of=process_of, clock_of=lambda model: clock_of(process_of(model), _table_of(model)),
                     **measuring)
    Guider(model, positive, negative, cfg).sample(start, torch.zeros_like(start), Sampler(task), sigmas, seed=seed)
    return task


def make_model(network, *, prediction: str, levels, channels: int, rgb_factors: list[list[float]]) -> Model:
    """A MODEL around a network; prediction: 'eps', 'v' or 'flow'; latents have `channels`."""
    return Model(network, prediction=prediction, levels=levels, channels=channels)


def make_network(config: dict, weights: dict, *, prediction: str, levels, rgb_factors: list[list[float]],
                 rgb_bias: list[float]) -> Model:
    """A MODEL of a Shapes network, a transformer if config has an image_model and a UNet otherwise."""
    network = ShapesDiT(config) if "image_model" in config else ShapesUNet()
    network.load_state_dict(weights)
    return Model(network.eval().requires_grad_(False), prediction=prediction, levels=levels, channels=4)


def make_clip(tokenizer, encoder) -> Clip:
    """A CLIP from a tokenizer and a text encoder module."""
    return Clip(tokenizer, encoder)


def make_vae(codec, *, ratio: int) -> Vae:
    """A VAE from a codec module (pictures in [-1, 1], `ratio` pixels a latent place)."""
    return Vae(codec, ratio)
