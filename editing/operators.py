"""Ways a picture was damaged: what was measured of it, as operators that gradients and adjoints pass."""
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, interpolate, pad

from .impute import GREYS

LUMA = GREYS["luma"]
KINDS = ("downscale", "gaussian blur", "motion blur", "inpaint", "grey", "jpeg", "kernel")
_LUMINANCE = (  # ITU-T T.81, tables K.1 and K.2
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51,
    87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99)
_CHROMINANCE = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, *[99] * 38)
_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


class Operator(NamedTuple):
    """measure(pictures (B, 3, H, W) in [-1, 1]) -> y (B, 3, h, w), linear but for 'jpeg'.

    factor: sides of a picture over those of y. gain: its largest squared singular value, of blurs about. Where all that
    are not 0 are equal (inpaint, downscale, grey) back() is the pseudo-inverse; for blurs it is the adjoint. For
    'jpeg', whose rounding passes gradients on as they are, both are the identity.
    """
    kind: str
    measure: Callable[[Tensor], Tensor]
    gain: float = 1.0
    factor: int = 1

    def __call__(self, pictures: Tensor) -> Tensor:
        return self.measure(pictures)

    def of_larger(self, y: Tensor, spare: int) -> "Operator":
        """This one for pictures whose sides are up to `spare` px longer than y (B, 3, h, w) was made of: what is more
        at the right and the bottom does not count. The size y was made of is the least that may have been."""
        height, width = (side * self.factor for side in y.shape[-2:])

        def measure(pictures: Tensor) -> Tensor:
            over = pictures.shape[-2] - height, pictures.shape[-1] - width
            return self.measure(pictures[..., :height, :width] if 0 <= min(over) <= max(over) <= spare else pictures)

        return self._replace(measure=measure)

    def adjoint(self, y: Tensor, like: Tensor) -> Tensor:
        """A^T y (B, 3, H, W) in the size of like; gradients to y pass where they are on."""
        graph = torch.is_grad_enabled() and y.requires_grad
        with torch.inference_mode(False), torch.enable_grad():
            at = torch.zeros(len(y), *like.shape[1:], dtype=y.dtype, device=y.device).requires_grad_()
            out, = torch.autograd.grad(self.measure(at), at, y.clone() if y.is_inference() else y, create_graph=graph)
        return out

    def back(self, y: Tensor, like: Tensor) -> Tensor:
        """A^T y / gain: a picture that explains y."""
        return self.adjoint(y, like) / self.gain

    def projected(self, pictures: Tensor, y: Tensor) -> Tensor:
        """pictures moved to those that y was measured of: x - A^T (A x - y) / gain."""
        return pictures - self.back(self.measure(pictures) - y, pictures)


def operator(kind: str, *, size: float = 3.0, angle: float = 0.0, factor: int = 4, quality: int = 10,
             area: Tensor | None = None, kernel: Tensor | None = None) -> Operator:
    """The operator of a kind.

    size: pixels, the deviation of 'gaussian blur' and the length of 'motion blur'; angle: of its streak in degrees,
    counterclockwise from the right. factor: pixels of a side that 'downscale' averages to one. quality: 1 to 100 of
    'jpeg', as in JPEG files, its chroma in full size. area: MASK (1 or B, H, W) of 'inpaint', where 1 is missing.
    kernel: (h, w), of 'kernel': what a single point is smeared to, made to sum to 1.
    """
    if kind == "inpaint":
        if area is None:
            raise ValueError("an operator of kind 'inpaint' needs a mask; connect one, white where the picture is "
                             "missing")
        return Operator(kind, partial(_masked, area=area))
    if kind == "kernel":
        if kernel is None:
            raise ValueError("an operator of kind 'kernel' needs one; connect a small picture of what a single point "
                             "is smeared to")
        return Operator(kind, partial(_convolved, kernel=_unit(kernel)))
    if kind == "downscale":
        return Operator(kind, partial(_shrunk, factor=factor), gain=1.0 / factor ** 2, factor=factor)
    if kind == "grey":
        return Operator(kind, _grey, gain=3.0 * sum(weight ** 2 for weight in LUMA))
    if kind == "jpeg":
        return Operator(kind, partial(_jpeg, quality=quality))
    makers = {"gaussian blur": lambda: gaussian(size), "motion blur": lambda: streak(size, angle)}
    if kind not in makers:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    return Operator(kind, partial(_convolved, kernel=makers[kind]()))


def measured(operator: Operator, images: Tensor, *, noise: float = 0.0, seed: int = 0) -> Tensor:
    """The measurement (B, h, w, 3) of IMAGEs (B, H, W, 3 or 4) in [0, 1], with normal noise of a deviation noise.

    What is missing is mid-grey. Noise may lead out of [0, 1]. Its item k is the same in every batch.
    """
    y = operator(images[..., :3].float().movedim(-1, 1) * 2.0 - 1.0)
    drawn = [torch.randn(y.shape[1:], generator=torch.Generator().manual_seed(seed + i)) for i in range(len(y))]
    return ((y + 1.0) / 2.0 + noise * torch.stack(drawn).to(y)).movedim(1, -1)


def gaussian(deviation: float) -> Tensor:
    """A kernel (n, n) of a normal density, n odd, out to 4 deviations."""
    reach = max(1, math.ceil(4.0 * deviation))
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / deviation).square())
    return _unit(line[:, None] * line)


def streak(length: float, angle: float) -> Tensor:
    """A kernel (n, n) of an even line of a length in pixels, at an angle in degrees counterclockwise from the right."""
    reach = math.ceil(length / 2.0)
    along = torch.linspace(-length / 2.0, length / 2.0, 32 * (reach + 1) + 1, dtype=torch.float64)
    x, y = along * math.cos(math.radians(angle)) + reach, -along * math.sin(math.radians(angle)) + reach
    places = torch.arange(2 * reach + 1, dtype=torch.float64)
    columns, rows = ((1.0 - (value[:, None] - places).abs()).clamp(min=0.0) for value in (x, y))
    return _unit(rows.T @ columns)


def _unit(kernel: Tensor) -> Tensor:
    total = float(kernel.sum())
    if total <= 0.0:
        raise ValueError("a kernel needs a sum above 0, got a black picture")
    return kernel / total


def _convolved(pictures: Tensor, *, kernel: Tensor) -> Tensor:
    """Each colour smeared by a kernel, the picture mirrored at its edges."""
    height, width = kernel.shape
    if height // 2 >= pictures.shape[-2] or width // 2 >= pictures.shape[-1]:
        raise ValueError(f"a blur of {width} x {height} px is larger than the picture, {pictures.shape[-1]} x "
                         f"{pictures.shape[-2]}; take a smaller one")
    around = ((width - 1) // 2, width // 2, (height - 1) // 2, height // 2)
    weight = kernel.flip(0, 1).to(pictures)[None, None].expand(pictures.shape[1], 1, -1, -1)
    return conv2d(pad(pictures, around, mode="reflect"), weight, groups=pictures.shape[1])


def _masked(pictures: Tensor, *, area: Tensor) -> Tensor:
    missing = area.reshape(-1, 1, *area.shape[-2:]).to(pictures)
    missing = interpolate(missing, size=pictures.shape[-2:], mode="bilinear")
    if len(missing) not in (1, len(pictures)):
        raise ValueError(f"need one mask, or one for each of {len(pictures)} pictures, got {len(missing)}")
    return pictures * (missing < 0.5)


def _shrunk(pictures: Tensor, *, factor: int) -> Tensor:
    """Means of whole squares from the top left; what is left at the right and the bottom does not count."""
    if factor > min(pictures.shape[-2:]):
        raise ValueError(f"downscale by {factor} leaves nothing of a picture of {pictures.shape[-1]} x "
                         f"{pictures.shape[-2]} px; take a smaller factor")
    return avg_pool2d(pictures, factor)


def _grey(pictures: Tensor) -> Tensor:
    luma = (pictures * pictures.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
    return luma.expand_as(pictures)


def _jpeg(pictures: Tensor, *, quality: int) -> Tensor:
    """Rounded in its blocks' frequencies as JPEG is; gradients pass the rounding as if it were not there."""
    height, width = pictures.shape[-2:]
    turn = pictures.new_tensor(_YCC)
    whole = pad(pictures, (0, -width % 8, 0, -height % 8), mode="replicate")
    planes = torch.einsum("bchw,dc->bdhw", 127.5 * whole, turn)
    rows, columns = planes.shape[-2] // 8, planes.shape[-1] // 8
    blocks = planes.reshape(len(planes), 3, rows, 8, columns, 8).movedim(-3, -2)
    table = _tables(quality).to(pictures)[:, None, None]
    basis = _cosines().to(pictures)
    found = basis @ blocks @ basis.T / table
    found = found + (found.round() - found).detach()
    blocks = basis.T @ (found * table) @ basis
    planes = blocks.movedim(-2, -3).reshape(planes.shape)[..., :height, :width]
    return torch.einsum("bdhw,cd->bchw", planes, torch.linalg.inv(turn)) / 127.5


def _tables(quality: int) -> Tensor:
    """Steps (3, 8, 8) of the frequencies of luma and both chromas, as the Independent JPEG Group scales them."""
    scale = 5000.0 / quality if quality < 50 else 200.0 - 2.0 * quality
    tables = torch.tensor([_LUMINANCE, _CHROMINANCE, _CHROMINANCE], dtype=torch.float64).reshape(3, 8, 8)
    return ((tables * scale + 50.0) / 100.0).floor().clamp(1.0, 255.0)


def _cosines() -> Tensor:
    """The orthonormal discrete cosine transform (8, 8)."""
    k = torch.arange(8, dtype=torch.float64)
    basis = torch.cos(math.pi * (2.0 * k + 1.0) * k[:, None] / 16.0) / 2.0
    basis[0] /= math.sqrt(2.0)
    return basis
