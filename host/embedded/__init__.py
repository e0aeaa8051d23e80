"""The embedded runner's side of the seam: models, conditioning and sampling without ComfyUI."""
from ...models.dit import ShapesDiT
from ...models.unet import ShapesUNet
from ...samplers.process import Process
from ..common import Sampling, Solver
from .model import Clip, Model, Vae
from .sampling import Sampler

__all__ = ["make_clip", "make_model", "make_network", "make_vae", "patch_guidance", "process_of", "sampler",
           "solver"]


def solver(plan_fn, **options) -> Sampler:
    """A SAMPLER that runs the plan of plan_fn(sigmas, process=..., **options)."""
    return Sampler(Solver(plan_fn, options, process_of=process_of, table_of=_table_of))


def sampler(sample_fn, **options) -> Sampler:
    """A SAMPLER that runs sample_fn(model, x, sigmas, process=..., callback=..., **options), which picks its steps."""
    return Sampler(Sampling(sample_fn, options, process_of=process_of))


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
