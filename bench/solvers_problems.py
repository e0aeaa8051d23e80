"""The four problems of `python -m odeon.bench solvers`: a model, where it starts, its levels and its converged end."""
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..host.common import clock_of
from ..models.levels import DiscreteLevels, FlowLevels
from ..samplers.clock import Clock
from ..samplers.exponential_adams import plan_exponential_adams
from ..samplers.linear import run
from ..samplers.process import FLOW, VE, Process
from ..schedules.classic import classic_sigmas

CFG = 3.0
SEED = 24
EXACT_STARTS = 256
PROBLEMS = ("exact-ve", "exact-flow", "shapes-unet", "shapes-dit")


class Problem(NamedTuple):
    """denoise(x (B, ...), sigma) -> D, sigma one number or one for each item; start is noisy at sigmas(n)[0]."""
    name: str
    title: str
    scheduler: str
    process: Process
    levels: DiscreteLevels | FlowLevels
    start: Tensor
    denoise: Callable
    reference_steps: int

    def sigmas(self, steps: int) -> list[float]:
        """ComfyUI's levels of this scheduler, in its float32."""
        return classic_sigmas(self.scheduler, self.levels, steps).float().tolist()

    @property
    def clock(self) -> Clock:
        return clock_of(self.process, self.levels.sigmas)

    def reference(self) -> tuple[Tensor, float]:
        """Where the ODE ends, and the median rms by which that moves if its steps are halved."""
        fine, coarse = (self._solved(self.reference_steps // part) for part in (1, 2))
        return fine, rms(fine - coarse).quantile(0.5).item()

    def _solved(self, steps: int) -> Tensor:
        sigmas = self.sigmas(steps)
        if self.process is VE:
            top, bottom = sigmas[0], sigmas[-2]
            fine = [top * (bottom / top) ** (i / steps) for i in range(steps + 1)]
        else:
            high, low = (torch.tensor(sigma, dtype=torch.float64).logit().item() for sigma in (0.9995, 0.001))
            fine = [1.0, *torch.linspace(high, low, steps, dtype=torch.float64).sigmoid().tolist()]
        return solve(self.denoise, self.start, plan_exponential_adams([*fine, 0.0], order=3, process=self.process))


@torch.inference_mode()
def solve(model: Callable, x: Tensor, steps: list) -> Tensor:
    """run() for networks: no gradients kept, one number for sigma."""
    return run(model, x, steps)


def rms(difference: Tensor) -> Tensor:
    """Root mean square of every item, (B,)."""
    return difference.double().square().flatten(1).mean(1).sqrt()


def problem(name: str, count: int) -> Problem:
    """One of PROBLEMS; count: pictures of a Shapes problem."""
    if name not in PROBLEMS:
        raise ValueError(f"problem must be one of {', '.join(PROBLEMS)}, got {name!r}")
    return _exact(name == "exact-flow") if name.startswith("exact") else _shapes(name, count)


def load_mixture():
    """tests/gmm.py of the checkout: the exact denoiser that the tests use, with its data."""
    path = Path(__file__).resolve().parent.parent / "tests" / "gmm.py"
    if not path.is_file():
        raise ValueError(f"{path} is missing: this measurement needs a checkout of the repository, tests included")
    spec = importlib.util.spec_from_file_location("odeon_bench_gmm", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _exact(flow: bool) -> Problem:
    mixture = load_mixture()
    exact = mixture.denoise_flow if flow else mixture.denoise

    def denoise(x: Tensor, sigma: float | Tensor) -> Tensor:
        if not isinstance(sigma, Tensor):
            return exact(x.double(), sigma).to(x.dtype)
        return torch.vmap(lambda item, level: exact(item[None], level)[0])(x.double(), sigma.double()).to(x.dtype)

    levels = FlowLevels() if flow else DiscreteLevels()
    noise = torch.randn(EXACT_STARTS, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(SEED))
    start = noise if flow else noise * float(levels.sigma_max)
    name, title = ("exact-flow", "Exact mixture, flow") if flow else ("exact-ve", "Exact mixture, VE")
    return Problem(name, title, "simple" if flow else "karras", FLOW if flow else VE, levels, start, denoise, 2000)


def _shapes(name: str, count: int) -> Problem:
    from ..host.embedded.sampling import Noise
    from .shapes import captions_of, load

    model, clip, _ = load(name)
    words = [clip.encode_from_tokens_scheduled(clip.tokenize(text))[0] for text in captions_of((1, 2, 3), count)]
    context, pooled = torch.cat([c for c, _ in words]), torch.cat([more["pooled_output"] for _, more in words])
    empty, more = clip.encode_from_tokens_scheduled(clip.tokenize(""))[0]

    def denoise(x: Tensor, sigma: float | Tensor) -> Tensor:
        level = sigma.float() if isinstance(sigma, Tensor) else x.new_full((len(x),), sigma)
        cond = model.apply_model(x, level, context, {}, pooled)
        uncond = model.apply_model(x, level, empty, {}, more["pooled_output"])
        return uncond + CFG * (cond - uncond)

    sampling = model.model_sampling
    noise = Noise(SEED).generate_noise({"samples": torch.zeros(count, 4, 16, 16)})
    start = sampling.noise_scaling(sampling.sigma_max, noise, torch.zeros_like(noise), True)
    title = "Shapes UNet (eps)" if name == "shapes-unet" else "Shapes DiT (flow)"
    scheduler = "simple" if sampling.process is FLOW else "karras"
    return Problem(name, f"{title}, CFG {CFG:g}", scheduler, sampling.process, sampling.levels, start, denoise, 240)
