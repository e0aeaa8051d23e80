"""Sampler functions that choose their own steps, and what they may ask of the run they are in."""
import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..samplers.noise import step_noise
from .common import require_finite, require_reachable
from .denoiser import NoGradients
from .gradients import NO_WAY_BACK, Statement, checkpointed, own_weights
from .inverting import inverted_state
from .measuring import same_weights


@dataclass(frozen=True)
class OfModel:
    """An option of a sampler that is only known with the MODEL it runs on: make(model)."""
    make: Callable


class Sampling:
    """A sampler function in ComfyUI's form around sample_fn(denoise, x, sigmas, process=..., callback=..., **options),
    for methods that choose their own steps or have numbers for each place; denoise(x, sigma (B,)).

    callback(i, x, denoised, sigma, of=None): after a step to or at a level sigma; of: the number of steps, i of them
    done before this one, where they are not those of sigmas. identity_of(model_patcher) names the weights, for options
    that were measured on a model; an OfModel among the options is made when the run begins. A sample_fn also gets what
    its inputs name:
    noise_of: noise_of(stream) -> noise_sampler.
    clean: the LATENT that the run was given, (B, C, ...) in the scale of x, without noise; zeros for an empty one.
    prompted: prompted(positive, negative=None, cfg=1.0) -> denoise of the same MODEL with all its patches under other
    CONDITIONING; at cfg 1 the negative is not evaluated. prompting: the host's, see there.
    differentiable: differentiable(denoise) -> that denoise with a graph from D back to x, to be called out of
    inference mode with gradients on; NoGradients where none comes back. weights_of(model_patcher) -> its network.
    mask: the LATENT's noise mask, (B, C, ...), 1 where the picture is made, or None; denoise then leaves it alone.
    interruptions: what the callback raises where the user stops the run, to go on with the best so far.
    """

    def __init__(self, sample_fn: Callable, options: dict, *, process_of, table_of, identity_of, prompting, weights_of,
                 interruptions: tuple = (KeyboardInterrupt,)):
        self.sample_fn, self.options = sample_fn, options
        self.process_of, self.table_of, self.identity_of = process_of, table_of, identity_of
        self.prompting, self.weights_of, self.interruptions = prompting, weights_of, interruptions

    @property
    def name(self) -> str:
        return self.sample_fn.__name__.removeprefix("sample_")

    @torch.no_grad()
    def __call__(self, model, x: Tensor, sigmas: Tensor, extra_args=None, callback=None, disable=None,
                 noise_sampler=None) -> Tensor:
        """x (B, ...) noisy at sigmas[0] -> the state at sigmas[-1]. Progress counts the levels of sigmas passed."""
        levels, extra_args = sigmas.tolist(), dict(extra_args or {})
        patcher, finite = model.inner_model.model_patcher, []
        self._require_same_model(patcher)
        process = self.process_of(patcher)
        require_reachable([max(levels)], process, self.table_of(patcher))
        require_finite(x, f"{self.name} was started on a latent with NaN or infinite values",
                       "check the node that made the LATENT")
        x, levels = inverted_state(model, x, levels, process)
        with tqdm(total=len(levels) - 1, disable=disable) as bar:
            def report(i: int, x: Tensor, denoised: Tensor, sigma: float, of: int | None = None) -> None:
                place, done = _passed(levels, sigma, i, of)
                if callback is not None:
                    at = sigmas.new_tensor(sigma)
                    callback({"x": x, "i": place, "sigma": at, "sigma_hat": at, "denoised": denoised})
                bar.total = of or bar.total
                bar.update(done - bar.n)

            def watched(denoise: Callable) -> Callable:
                def call(x: Tensor, sigma: Tensor) -> Tensor:
                    denoised = denoise(x, sigma)
                    finite.append((torch.isfinite(denoised.detach()).all(), sigma[0]))
                    return denoised

                return call

            options = {name: value.make(patcher) if isinstance(value, OfModel) else value
                       for name, value in self.options.items()}
            options |= self._asked_for(model, extra_args, levels, watched)
            if "mask" in options:
                extra_args["denoise_mask"] = None
            try:
                return self.sample_fn(watched(lambda x, sigma: model(x, sigma, **extra_args)), x, levels,
                                      process=process, callback=report, **options)
            finally:  # what else goes wrong may have come of it
                self._require_finite_calls(finite)

    def _asked_for(self, model, extra_args: dict, levels: list[float], watched: Callable) -> dict:
        """What the sample_fn's inputs name of what every run has to give."""
        def noise_of(stream: str) -> Callable:
            return step_noise(model.noise, extra_args.get("seed") or 0, f"{stream}@{levels[0]:.9g}")

        def prompted(positive, negative=None, cfg: float = 1.0) -> Callable:
            if negative is None and cfg != 1.0:
                raise ValueError(f"{self.name} needs a negative for its source at CFG {cfg:g}; connect one, or set the "
                                 "source's CFG to 1")
            return watched(self.prompting(model, extra_args, positive, negative, cfg))

        def differentiable(denoise: Callable) -> Callable:
            return _differentiable(denoise, self.weights_of(model.inner_model.model_patcher), extra_args)

        given = {"noise_of": noise_of, "clean": model.latent_image, "prompted": prompted,
                 "differentiable": differentiable, "mask": extra_args.get("denoise_mask"),
                 "interruptions": self.interruptions}
        return {name: value for name, value in given.items() if name in inspect.signature(self.sample_fn).parameters}

    def _require_finite_calls(self, finite: list[tuple[Tensor, Tensor]]) -> None:
        for fine, sigma in finite if finite and not torch.stack([fine for fine, _ in finite]).all() else ():
            if not fine:
                raise ValueError(f"the model returned NaN or infinite values at sigma {sigma.item():.4g} under "
                                 f"{self.name}; try a higher precision, a lower CFG, or another VAE and prompt")

    def _require_same_model(self, patcher) -> None:
        for value in self.options.values():
            about = getattr(value, "about", None) or {}
            if "model" in about and not same_weights(about["model"], self.identity_of(patcher)):
                raise ValueError(f"{self.name} has {about['what']} of another model; measure them on this one, or load "
                                 "the model they were measured on")


def _passed(levels: list[float], sigma: float, i: int, of: int | None) -> tuple[int, int]:
    """(the step of `levels` to show, below len(levels) - 1, what the bar has done) after a step."""
    steps = len(levels) - 1
    if of is not None:
        return min(i * steps // of, steps - 1), min(i + 1, of)
    up = levels[-1] > levels[0]
    before = sum(level < sigma if up else level > sigma for level in levels)
    place = min(max(before - 1, 0), steps - 1)
    return place, place + 1


def _differentiable(denoise: Callable, network, extra_args: dict) -> Callable:
    """denoise(x, sigma) whose D has a graph back to x; what it keeps in memory is told before the first way back."""
    statement = Statement("network")

    def call(x: Tensor, sigma: Tensor) -> Tensor:
        own_weights(network)
        mask = extra_args.get("denoise_mask")
        if mask is not None and mask.is_inference():
            extra_args["denoise_mask"] = mask.clone()
        with checkpointed(network, statement):
            denoised = denoise(x, sigma.clone())
        if not denoised.requires_grad:
            raise NoGradients(NO_WAY_BACK)
        statement.tell(denoised)
        return denoised

    return call
