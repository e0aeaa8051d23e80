"""EDICT: two coupled states, each moved by the slope at the other, so that every step can be undone."""
from collections.abc import Callable

from torch import Tensor

from ..samplers.process import Process
from .inversion import exactly, require_picture, slope


def edict_up(denoise: Callable, clean: Tensor, sigmas: list[float], *, mix: float, leapfrog: bool, process: Process,
             callback: Callable | None = None) -> tuple[Tensor, Tensor]:
    """The pair of states at sigmas[0] whose steps down, see edict_down, end at the pair (clean, clean)."""
    a = b = clean
    steps = len(sigmas) - 1
    for i in reversed(range(steps)):
        sigma, h = sigmas[i], sigmas[i] - sigmas[i + 1]
        b = (b - (1.0 - mix) * a) / mix
        a = (a - (1.0 - mix) * b) / mix
        first, second = (b, a) if leapfrog and i % 2 else (a, b)
        second = second + h * slope(denoise, first, sigma, process, from_sigma=sigmas[i + 1])
        first = first + h * slope(denoise, second, sigma, process)
        a, b = (second, first) if leapfrog and i % 2 else (first, second)
        if callback is not None:
            callback(steps - 1 - i, a, a, sigma)
    return a, b


def edict_down(denoise: Callable, pair: tuple[Tensor, Tensor], sigmas: list[float], *, mix: float, leapfrog: bool,
               process: Process, callback: Callable | None = None) -> tuple[Tensor, Tensor]:
    """The pair at sigmas[-1]. A step: first += h e(second); second += h e(first as moved); then each takes a share
    1 - mix of the other. Both e are told the noisier level. first is a, and b at every other step where leapfrog."""
    a, b = pair
    for i in range(len(sigmas) - 1):
        sigma, h = sigmas[i], sigmas[i + 1] - sigmas[i]
        first, second = (b, a) if leapfrog and i % 2 else (a, b)
        first = first + h * slope(denoise, second, sigma, process)
        second = second + h * slope(denoise, first, sigma, process, from_sigma=sigmas[i + 1])
        a, b = (second, first) if leapfrog and i % 2 else (first, second)
        a = mix * a + (1.0 - mix) * b
        b = mix * b + (1.0 - mix) * a
        if callback is not None:
            callback(i, a, a, sigma)
    return a, b


def sample_edict(denoise: Callable, x: Tensor, sigmas: list[float], *, source: list, mix: float = 0.93,
                 leapfrog: bool = True, source_cfg: float = 1.0, source_negative: list | None = None, clean: Tensor,
                 prompted: Callable, process: Process, callback: Callable | None = None) -> Tensor:
    """The edit of the picture clean (B, C, ...): up the schedule under the source's CONDITIONING, down under the run's.

    x gives the precision alone. Equal words and CFG give clean to rounding, in float64. mix: the authors' p, in [0.5,
    1]; 1 leaves the two states uncoupled in size, below 0.9 they blur. sigmas: strictly decreasing.
    NFE 4 len(sigmas) - 4. Source: Wallace et al. 2022, arXiv 2211.12446, eq. 14 to 17; each other step begins with the
    second state, as their code does.
    """
    if not 0.5 <= mix <= 1.0:
        raise ValueError(f"mix must lie in [0.5, 1], got {mix}")
    process.lams(sigmas)
    require_picture(clean)
    steps, options = len(sigmas) - 1, {"mix": mix, "leapfrog": leapfrog, "process": process}

    def report(done: int) -> Callable | None:
        return callback and (lambda i, x, d, sigma: callback(done + i, x.to(clean), d.to(clean), sigma, of=2 * steps))

    described, wide = exactly(prompted(source, source_negative, cfg=source_cfg), clean.to(x))
    pair = edict_up(described, wide, sigmas, callback=report(0), **options)
    wanted, _ = exactly(denoise, x)
    return edict_down(wanted, pair, sigmas, callback=report(steps), **options)[0].to(x.dtype)
