"""ComfyUI's side of the seam: changes of a MODEL's model_sampling, as object patches."""
import copy

import comfy.model_sampling

from .relabel import relabelled


def levels_of(model):
    """The noise levels of a MODEL: sigmas (its table, rising), sigma_min, sigma_max, and what its network is told of a
    level, timestep(sigma tensor), beside sigma(timestep tensor), which of flow models is no inverse of it."""
    sampling = model.get_model_object("model_sampling")
    return getattr(sampling, "own_levels", sampling)


def relabel(model, told, *, whole: bool):
    """A MODEL whose network is told level told(sigma) of every sigma; whole: see relabelled."""
    return _with_sampling(model, relabelled(model.get_model_object("model_sampling"), told, levels=levels_of(model),
                                            whole=whole))


def with_table(model, sigmas, *, v_prediction: bool):
    """A MODEL with another table of levels, its network told their places as before; v_prediction: and read as one
    that predicts v."""
    made = copy.copy(model.get_model_object("model_sampling"))
    made._buffers = dict(made._buffers)
    made.set_sigmas(sigmas)
    if v_prediction:
        made.__class__ = type("Velocity", (type(made), comfy.model_sampling.V_PREDICTION), {})
    return _with_sampling(model, made)


def colours_of(model) -> list[list[float]] | None:
    """How much red, green and blue each channel of a MODEL's latents stands for, as previews show it."""
    return model.get_model_object("latent_format").latent_rgb_factors


def predicts_eps(model) -> bool:
    """Whether the network is read as one that predicts noise."""
    sampling = comfy.model_sampling
    others = (sampling.V_PREDICTION, sampling.X0)
    made = model.get_model_object("model_sampling")
    return isinstance(made, sampling.EPS) and not isinstance(made, others)


def _with_sampling(model, sampling):
    patched = model.clone()
    patched.add_object_patch("model_sampling", sampling)
    return patched


def as_latent(model, x):
    """Predictions of a MODEL as a LATENT's samples."""
    return model.model.process_latent_out(x)


def of_latent(model, samples):
    """A LATENT's samples as a MODEL predicts them."""
    return model.model.process_latent_in(samples)
