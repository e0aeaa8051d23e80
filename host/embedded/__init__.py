"""The embedded runner's side of the seam: models, conditioning and sampling without ComfyUI."""
import os
from pathlib import Path

import torch

from ...models.dit import ShapesDiT
from ...models.levels import TableLevels
from ...models.unet import ShapesUNet
from ...samplers.process import Process
from ..common import Beside, Solver, clock_of, require_beside
from ..denoiser import smooth
from ..inverting import upward
from ..measuring import Measuring, fingerprint
from ..relabel import relabelled
from ..sampling import Sampling
from .attention import (
    adapter_places,
    attention_layers,
    levels_of_skips,
    network_of,
    own_attention,
    patch_conditions,
    patch_control,
)
from .context import current
from .model import Clip, Model, ModelSampling, Vae
from .sampling import Guider, Noise, Sampler, prompting

__all__ = ["adapter_places", "as_latent", "attention_layers", "colours_of", "folder", "identity", "inverter",
           "levels_of", "levels_of_skips", "make_clip", "make_model", "make_network", "make_vae", "measured",
           "network_of", "noise", "of_latent", "own_attention", "patch_conditions", "patch_control",
           "patch_evaluation", "patch_guidance", "patch_prediction", "patch_scale", "patches_of", "predicts_eps",
           "process_of", "relabel", "sampled", "sampler", "solver", "with_model", "with_table"]


def solver(plan_fn, **options) -> Sampler:
    """A SAMPLER that runs the plan of plan_fn(sigmas, process=..., **options)."""
    return Sampler(Solver(plan_fn, options, process_of=process_of, table_of=_table_of))


def sampler(sample_fn, **options) -> Sampler:
    """A SAMPLER that runs sample_fn(model, x, sigmas, process=..., callback=..., **options), which picks its steps."""
    return Sampler(_sampling(sample_fn, options))


def inverter(sample_fn, **options) -> Sampler:
    """A sampler() that runs up rising sigmas, from a clean LATENT to its noise; see upward."""
    class Inverter(Sampler):
        def sample(self, run, sigmas, *args):
            return super().sample(run, upward(sigmas, process_of(run.inner_model.model_patcher)), *args)

    return Inverter(_sampling(sample_fn, options))


def _sampling(sample_fn, options: dict) -> Sampling:
    return Sampling(sample_fn, options, process_of=process_of, table_of=_table_of, identity_of=identity,
                    prompting=prompting, weights_of=lambda model: model.network)


def sampled(model: Model, positive: list, negative: list, cfg: float, *, sampler: Sampler, sigmas, latent: dict,
            seed: int) -> torch.Tensor:
    """The samples that SamplerCustom would give with noise of that seed, for a LATENT whose mask is left out."""
    samples = model.fix_empty_latent_channels(latent["samples"])
    return Guider(model, positive, negative, cfg).sample(
        Noise(seed).generate_noise({**latent, "samples": samples}), samples, sampler, sigmas, seed=seed,
        callback=lambda step, denoised, x, total: current().progress(step + 1, total))


def process_of(model: Model) -> Process:
    """VE or FLOW, by what the MODEL predicts."""
    return model.get_model_object("model_sampling").process


def levels_of(model: Model):
    """The noise levels of a MODEL: sigmas (its table, rising), sigma_min, sigma_max, and what its network is told of a
    level, timestep(sigma tensor), beside sigma(timestep tensor), which of flow models is no inverse of it."""
    return model.get_model_object("model_sampling").levels


def relabel(model: Model, told, *, whole: bool) -> Model:
    """A MODEL whose network is told level told(sigma) of every sigma; whole: see relabelled."""
    return _with_sampling(model, relabelled(model.model_sampling, told, levels=levels_of(model), whole=whole))


def with_table(model: Model, sigmas, *, v_prediction: bool) -> Model:
    """A MODEL with another table of levels, its network told their places as before; v_prediction: and read as one
    that predicts v."""
    levels = TableLevels(sigmas, rounded=levels_of(model).rounded)
    return _with_sampling(model, ModelSampling("v" if v_prediction else model.model_sampling.prediction, levels))


def colours_of(model: Model) -> list[list[float]] | None:
    """How much red, green and blue each channel of a MODEL's latents stands for, as previews show it."""
    return model.rgb_factors


def predicts_eps(model: Model) -> bool:
    """Whether the network is read as one that predicts noise."""
    return model.model_sampling.prediction == "eps"


def _with_sampling(model: Model, sampling: ModelSampling) -> Model:
    patched = model.clone()
    patched.model_sampling = sampling
    return patched


def as_latent(model: Model, x: torch.Tensor) -> torch.Tensor:
    """Predictions of a MODEL as a LATENT's samples."""
    return x


def of_latent(model: Model, samples: torch.Tensor) -> torch.Tensor:
    """A LATENT's samples as a MODEL predicts them."""
    return samples


def _table_of(model: Model):
    return levels_of(model).sigmas


def patch_guidance(model: Model, start) -> Model:
    """A MODEL with one more guidance rule, after those already there.

    start() -> rule, called at the start of every run, so that a rule's state lives and dies with it;
    rule(cond, uncond, call: Call) -> the guided prediction. Where the unconditional prediction was not evaluated no
    rule runs.
    """
    return model.with_rule("guidance", start)


def patch_prediction(model: Model, start) -> Model:
    """A MODEL whose every prediction goes through one more change, after guidance and at any scale.

    start() -> change, called at the start of every run; change(denoised, call: Call) -> denoised.
    """
    return model.with_rule("prediction", start)


def patch_evaluation(model: Model, start) -> Model:
    """A MODEL with one more say in what is evaluated, wherever guidance is on (not at CFG 1).

    start() -> evaluate, called at the start of every run; evaluate(call: Call) -> (cond, uncond), made by
    call.predict, which asks evaluations patched before. Returning (cond, cond) is no guidance, and no rule runs.
    """
    return model.with_rule("evaluation", start)


def patch_scale(model: Model, start) -> Model:
    """A MODEL whose CFG depends on the level, for everything that reads it; at 1 nothing unconditional is evaluated.

    start() -> change, called at the start of every run; change(scale, sigma: float) -> scale. Not called where the
    sampler's own CFG is 1, nor without a negative.
    """
    return model.with_rule("scale", start)


def with_model(model: Model, other: Model, positive: list | None = None) -> tuple[Model, Beside]:
    """(a MODEL that keeps another one beside it, what Call.predict takes as model=).

    positive: the other one's own words for 'cond', where it has another text encoder. Raises ValueError where the two
    can't be evaluated on one state. Guidance nodes of the other one do nothing.
    """
    require_beside("kind of latents", f"{model.channels} channels", f"{other.channels} channels")
    require_beside("kind of model", type(model.network).__name__, type(other.network).__name__)
    require_beside("prediction type", model.model_sampling.prediction, other.model_sampling.prediction)
    return model.clone(), Beside(None, other, positive, identity(other))


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
    """What changes a MODEL: its rules and options; the embedded runner has no weight patches."""
    return [model.rules, model.model_options]


def measured(model: Model, positive: list, negative: list, cfg: float, *, latent: dict, count: int, sigmas, seed: int,
             each: bool, gradients: bool, told: bool, **measuring) -> Measuring:
    """Runs a measurement (see Measuring) on `count` pictures of the latent's size, guided as a KSampler would."""
    samples = model.fix_empty_latent_channels(latent["samples"])[:1]
    start = Noise(seed).generate_noise({"samples": samples.expand(count, *samples.shape[1:])})
    sampling = None
    if gradients or told:
        model, sampling = model.clone(), smooth(model.model_sampling.levels)
        model.model_sampling = ModelSampling(model.model_sampling.prediction, sampling)
    guider = Guider(model, positive, negative, cfg)
    one_by_one = each and len(positive) > 1
    task = Measuring(report=lambda progress: current().progress(progress.done, progress.total),
                     process_of=process_of, clock_of=lambda model: clock_of(process_of(model), _table_of(model)),
                     sampling=sampling, weights_of=(lambda model: model.network) if gradients else None,
                     prompts=len(positive) if one_by_one else 1,
                     choose=(lambda prompt: setattr(guider, "positive", positive[prompt:prompt + 1]))
                     if one_by_one else None, **measuring)
    guider.sample(start, torch.zeros_like(start), Sampler(task), sigmas, seed=seed)
    return task


def make_model(network, *, prediction: str, levels, channels: int, rgb_factors: list[list[float]]) -> Model:
    """A MODEL around a network; prediction: 'eps', 'v' or 'flow'; latents have `channels`."""
    return Model(network, prediction=prediction, levels=levels, channels=channels, rgb_factors=rgb_factors)


def make_network(config: dict, weights: dict, *, prediction: str, levels, rgb_factors: list[list[float]],
                 rgb_bias: list[float]) -> Model:
    """A MODEL of a Shapes network, a transformer if config has an image_model and a UNet otherwise."""
    network = ShapesDiT(config) if "image_model" in config else ShapesUNet()
    network.load_state_dict(weights)
    return Model(network.eval().requires_grad_(False), prediction=prediction, levels=levels, channels=4,
                 rgb_factors=rgb_factors)


def make_clip(tokenizer, encoder) -> Clip:
    """A CLIP from a tokenizer and a text encoder module."""
    return Clip(tokenizer, encoder)


def make_vae(codec, *, ratio: int) -> Vae:
    """A VAE from a codec module (pictures in [-1, 1], `ratio` pixels a latent place)."""
    return Vae(codec, ratio)
