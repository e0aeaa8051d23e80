"""Predictor-corrector sampling that puts the known part of a picture back after every move: inpainting, colouring."""
import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from ..samplers.ddim import plan_ddim
from ..samplers.linear import Update
from ..samplers.process import Process
from .known import known_latent, new_share

GREYS = {"luma": (0.2126, 0.7152, 0.0722), "mean": (1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0)}
PREDICTORS = ("ancestral", "reverse_diffusion", "euler_maruyama", "none")


def plan_predictor(sigmas: list[float], *, predictor: str = "ancestral", process: Process) -> list[Update]:
    """One update of x by D for each step; the last one to sigma = 0 returns D without noise.

    With s = sigma / alpha: ancestral is DDPM's posterior. reverse_diffusion has its mean and the forward step's own
    noise, sqrt(s^2 - s_next^2), too much where steps are large. euler_maruyama: a step of the reverse SDE in log s,
    stable from about 2 log(s / s_next) < 1 on. none: the state as it is, in the next level's scale.
    Raises ValueError for all but ancestral where alpha = 0, at the top of flow models.
    Source: Song et al. 2021, arXiv 2011.13456, appendix E, F and G.
    """
    if predictor not in PREDICTORS:
        raise ValueError(f"predictor must be one of {', '.join(PREDICTORS)}, got {predictor!r}")
    ancestral = [step.predict for step in plan_ddim(sigmas, eta=1.0, process=process)]
    if predictor == "ancestral":
        return ancestral
    return [update if sigma_next == 0.0 else _predict(sigma, sigma_next, predictor, process)
            for (sigma, sigma_next), update in zip(pairwise(sigmas), ancestral)]


def _predict(sigma: float, sigma_next: float, predictor: str, process: Process) -> Update:
    alpha, alpha_next = process.alpha(sigma), process.alpha(sigma_next)
    if alpha == 0.0:
        raise ValueError(f"predictor {predictor!r} can't start from sigma {sigma:g}, where a flow model has no picture "
                         "left; take 'ancestral', or a schedule that starts lower")
    s, s_next = sigma / alpha, sigma_next / alpha_next
    if predictor == "none":
        kept, spread = 1.0, 0.0
    elif predictor == "reverse_diffusion":
        kept, spread = (s_next / s) ** 2, math.sqrt((s - s_next) * (s + s_next))
    else:
        h = 2.0 * math.log(s / s_next)
        kept, spread = 1.0 - h, s * math.sqrt(h)
    return Update(kept * alpha_next / alpha, (alpha_next * (1.0 - kept),), alpha_next * spread)


def langevin(x: Tensor, denoised: Tensor, noise: Tensor, *, sigma: float, alpha: float, snr: float) -> Tensor:
    """x after one step of Langevin dynamics at a level: x + e score + sqrt(2 e) noise, e = 2 (snr |noise| / |score|)^2,
    lengths over each item, score = (alpha D - x) / sigma^2.

    Source: Song et al. 2021, arXiv 2011.13456, algorithm 4 (whose lengths are means over the batch).
    """
    score = (alpha * denoised - x) / sigma ** 2
    axes = tuple(range(1, x.ndim))
    lengths = [torch.linalg.vector_norm(value, dim=axes, keepdim=True) for value in (noise, score)]
    size = 2.0 * (snr * lengths[0] / lengths[1].clamp(min=torch.finfo(x.dtype).tiny)).square()
    return x + size * score + (2.0 * size).sqrt() * noise


@torch.no_grad()
def _imputed(model: Callable, x: Tensor, sigmas: list[float], *, snr: float, corrections: int, predictor: str,
             put: Callable, known: Tensor, process: Process, noise_sampler: Callable, callback) -> Tensor:
    """x (B, ...) at sigmas[0] -> a sample with the known part; put(x, kept) -> x with that part of kept."""
    updates = plan_predictor(sigmas, predictor=predictor, process=process)

    def imputed(x: Tensor, sigma: float) -> Tensor:
        kept = process.alpha(sigma) * known + (sigma * noise_sampler(sigma, sigma) if sigma else 0.0)
        return put(x, kept)

    x = imputed(x, sigmas[0])
    for i, ((sigma, sigma_next), update) in enumerate(zip(pairwise(sigmas), updates)):
        level = x.new_full((len(x),), sigma)
        for _ in range(corrections):
            denoised = model(x, level)
            x = imputed(langevin(x, denoised, noise_sampler(sigma, sigma).to(x), sigma=sigma,
                                 alpha=process.alpha(sigma), snr=snr), sigma)
        denoised = model(x, level)
        if callback is not None:
            callback(i, x, denoised, sigma)
        noise = noise_sampler(sigma, sigma_next) if update.noise_coef else None
        x = imputed(update(x, (denoised,), noise), sigma_next)
    return x


def sample_impute(model: Callable, x: Tensor, sigmas: list[float], *, snr: float = 0.16, corrections: int = 1,
                  predictor: str = "ancestral", area: Tensor | None = None, known: Tensor | None = None,
                  mask: Tensor | None, clean: Tensor, process: Process, noise_of: Callable,
                  callback: Callable | None = None) -> Tensor:
    """x (B, ...) at sigmas[0] -> a picture that is the known one where it is kept, made by predictor and corrector.

    snr: length of Langevin steps, corrections of them at every level; after each of them, and after each predictor,
    the kept part is set to the known latent under fresh noise of that level. area, mask: see new_share; known: the
    latent kept, else clean, what the run was given. Model calls: (corrections + 1) a step.
    Source: Song et al. 2021, arXiv 2011.13456, appendix I.2. Its code puts the known part back at the level before
    the predictor's step, and keeps the last step's noise in the new part; both are meant otherwise, and are so here.
    """
    share = new_share(area, mask, x)
    return _imputed(model, x, sigmas, snr=snr, corrections=corrections, predictor=predictor, process=process,
                    put=lambda x, kept: share * x + (1.0 - share) * kept, known=known_latent(known, clean, x),
                    noise_sampler=noise_of("impute"), callback=callback)


def grey_part(value: Tensor, weights: tuple[float, ...] = GREYS["mean"]) -> Tensor:
    """The part of values (B, 3 k, ...), all k of red first, along the weights that make a place's grey of its colours.

    Of the mean it is the projection on (1, 1, 1) / sqrt(3), the first axis of the rotated colours of arXiv 2011.13456,
    appendix I; other weights are another first axis.
    """
    colours = value.reshape(len(value), 3, -1, *value.shape[2:])
    axis = value.new_tensor(weights).reshape(3, *[1] * (colours.ndim - 2))
    along = (colours * axis).sum(1, keepdim=True) / axis.square().sum()
    return (along * axis).reshape(value.shape)


def one_colour_each(factors: list[list[float]] | None) -> bool:
    """Whether channels hold one colour each, all of red first, by how much red, green and blue they stand for."""
    if factors is None or len(factors) % 3:
        return False
    return all((factor != 0.0) == (colour == 3 * i // len(factors))
               for i, three in enumerate(factors) for colour, factor in enumerate(three))


def sample_colorize(model: Callable, x: Tensor, sigmas: list[float], *, snr: float = 0.16, corrections: int = 1,
                    predictor: str = "ancestral", grey: str = "luma", known: Tensor | None = None,
                    pixel_space: bool, mask: Tensor | None, clean: Tensor, process: Process, noise_of: Callable,
                    callback: Callable | None = None) -> Tensor:
    """x (B, 3 k, ...) at sigmas[0] -> a picture whose grey is that of the known one; otherwise as sample_impute.

    grey: what the known picture has of its colours, 'luma' (Rec. 709) or the paper's 'mean'.
    pixel_space: whether the channels are colours, all k of red first; ValueError where they are not, and for a mask.
    Source: Song et al. 2021, arXiv 2011.13456, appendix I.3.
    """
    if not pixel_space:
        raise ValueError("Colorize needs a model of pixels, and this one works on a VAE's latents, which mix colours; "
                         "take Inverse problem (OdeonSamplerInverseProblem) with an Operator of kind 'grey'")
    if mask is not None:
        raise ValueError("Colorize colours the whole picture; take the LATENT's noise mask off")
    return _imputed(model, x, sigmas, snr=snr, corrections=corrections, predictor=predictor, process=process,
                    put=lambda x, kept: x + grey_part(kept - x, GREYS[grey]), known=known_latent(known, clean, x),
                    noise_sampler=noise_of("colorize"), callback=callback)
