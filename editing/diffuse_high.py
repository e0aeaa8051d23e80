"""DiffuseHigh: a picture made larger in steps, the coarse structure held by wavelets."""
from collections.abc import Callable
from itertools import pairwise

from torch import Tensor
from torch.nn import functional


def scales_of_text(text: str) -> list[float]:
    """Rising factors above 1 out of '1.5, 2'."""
    try:
        scales = [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        scales = []
    if not scales or not all(1.0 < scale <= 64.0 for scale in scales) or any(
            after <= before for before, after in pairwise(scales)):
        raise ValueError(f"scales must be rising factors from above 1 to 64, with commas between, got {text!r}; "
                         "write 2, or 1.5, 2")
    return scales


def enlarged(pictures: Tensor, size: tuple[int, int], *, alpha: float = 1.0, blur: float = 1.05,
             kernel: int = 3) -> Tensor:
    """Pictures (B, C, H, W) brought to size (H', W') by cubic curves and sharpened: (1 + alpha) g - alpha blurred g.

    blur: standard deviation in px of a Gaussian cut off at `kernel` px (odd). alpha = 0 does not sharpen.
    Source: Kim et al. 2024, arXiv 2406.18459, section 3.4.
    """
    if kernel % 2 == 0:
        raise ValueError(f"kernel must be odd, got {kernel}; take {kernel + 1}")
    large = functional.interpolate(pictures, size=size, mode="bicubic", align_corners=False)
    if alpha == 0.0 or kernel == 1:
        return large
    from kornia.filters import gaussian_blur2d

    return (1.0 + alpha) * large - alpha * gaussian_blur2d(large, (kernel, kernel), (blur, blur))


def structure_guided(run: Callable, x: Tensor, sigmas: list[float], *, keep: Callable[[Tensor], Tensor],
                     dwt_steps: int) -> Tensor:
    """x (B, ...) at sigmas[0] -> the state at sigmas[-1], the first dwt_steps predictions held to a structure.

    run(x, sigmas) -> (state at the end of Euler's steps, the last prediction); keep(D) -> the prediction with the low
    band of its picture replaced. A held step is Euler's with the prediction so changed.
    Source: Kim et al. 2024, arXiv 2406.18459, algorithm 1.
    """
    held = sigmas[:dwt_steps + 1]
    for sigma, sigma_next in pairwise(held):
        x, denoised = run(x, [sigma, sigma_next])
        x = x + (1.0 - sigma_next / sigma) * (keep(denoised) - denoised)
    rest = sigmas[len(held) - 1:]
    return run(x, rest)[0] if len(rest) > 1 else x
