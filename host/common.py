"""What both hosts share: the sampler function that carries a plan, and how guidance rules follow one another."""
from collections.abc import Callable

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..samplers.linear import Step, run
from ..samplers.noise import step_noise
from ..samplers.process import Process


class Solver:
    """A sampler function in ComfyUI's form, f(model, x, sigmas, ...), that runs the plan of one method.

    process_of(model_patcher) -> Process; process: set to plan in that one whatever the model is.
    """

    def __init__(self, plan_fn: Callable[..., list[Step]], options: dict, *, process_of,
                 process: Process | None = None):
        self.plan_and_options = plan_fn, options
        self.process_of = process_of
        self.process = process

    @property
    def name(self) -> str:
        return self.plan_and_options[0].__name__.removeprefix("plan_")

    @torch.no_grad()
    def __call__(self, model, x: Tensor, sigmas: Tensor, extra_args=None, callback=None, disable=None,
                 noise_sampler=None) -> Tensor:
        """x (B, ...) noisy at sigmas[0] -> the state at sigmas[-1]. model(x, sigma (B,), **extra_args) -> denoised."""
        extra_args = extra_args or {}
        plan_fn, options = self.plan_and_options
        levels = sigmas.tolist()  # the one read-back of the schedule, before the first step
        process = self.process or self.process_of(model.inner_model.model_patcher)
        steps = plan_fn(levels, process=process, **options)
        require_finite(x, f"{self.name} was started on a latent with NaN or infinite values",
                       "check the node that made the LATENT")
        if noise_sampler is None and any(step.predict.noise_coef for step in steps):
            noise_sampler = step_noise(model.noise, extra_args.get("seed") or 0, f"{self.name}@{levels[0]:.9g}")

        finite = []
        with tqdm(total=len(steps), disable=disable) as bar:
            def report(i: int, x: Tensor, denoised: Tensor, sigma: float) -> None:
                finite.append(torch.isfinite(denoised).all())
                if callback is not None:
                    callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised})
                bar.update()

            def denoise(x: Tensor, sigma: float) -> Tensor:
                return model(x, x.new_full((x.shape[0],), sigma), **extra_args)

            x = run(denoise, x, steps, noise_sampler=noise_sampler, callback=report)
        self._require_finite_steps(torch.stack(finite).tolist(), levels)
        return x

    def _require_finite_steps(self, finite: list[bool], levels: list[float]) -> None:
        if not all(finite):
            i = finite.index(False)
            raise ValueError(f"the model returned NaN or infinite values at step {i + 1} of {len(finite)} "
                             f"(sigma {levels[i]:.4g}) under {self.name}; try a higher precision, a lower CFG, "
                             "or another VAE and prompt")


def require_finite(x: Tensor, what: str, do: str) -> None:
    """Raises ValueError naming the batch items with NaN or infinite values."""
    bad = [i for i, fine in enumerate(torch.isfinite(x).flatten(1).all(1).tolist()) if not fine]
    if bad:
        raise ValueError(f"{what}: item{'s' * (len(bad) > 1)} {', '.join(map(str, bad))} of {len(x)}; {do}")


def follow_rule(denoised: Tensor, cond: Tensor, uncond: Tensor, *, scale: float, guided: Tensor, first: bool) -> Tensor:
    """The prediction after one more guidance rule.

    guided: what the rule makes of cond and uncond. The first rule replaces plain CFG; a later one adds what it
    would have changed of plain CFG, so that no rule on the MODEL wire undoes another.
    """
    if first:
        return guided
    return denoised + (guided - (uncond + (cond - uncond) * scale))
