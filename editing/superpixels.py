"""The regions of a picture that adaptive dragging moves as one: superpixels."""
import math

import torch
from torch import Tensor
from torch.nn import functional


def superpixels(picture: Tensor, *, segments: int = 200, compactness: float = 10.0) -> Tensor:
    """Labels from 0 on (H, W) of about so many regions alike in colour of a picture (3, H, W) in [0, 1].

    compactness: higher makes them squarer. Source: Achanta et al. 2012, SLIC.
    """
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise ImportError("superpixels need scikit-image; pip install 'odeon[science]' brings it, or drag in mode "
                          "'drag'") from error
    pixels = picture.detach().float().cpu().clamp(0.0, 1.0).movedim(0, -1).numpy()
    return torch.from_numpy(slic(pixels, n_segments=segments, compactness=compactness, start_label=0)).long()


def nearest_centre(labels: Tensor, x: int, y: int) -> float:
    """How far the centre of the region at a place is from that of the nearest other one, in px."""
    rows, columns = torch.meshgrid(*map(torch.arange, labels.shape), indexing="ij")
    sizes = torch.bincount(labels.flatten()).clamp(min=1)
    centres = torch.stack([torch.bincount(labels.flatten(), places.flatten().double()) / sizes
                           for places in (columns, rows)], dim=1)
    apart = (centres - centres[labels[y, x]]).norm(dim=1)
    apart[labels[y, x]] = math.inf
    near = float(apart.min())
    return near if math.isfinite(near) else float(min(labels.shape))


def window(region: Tensor, handle: tuple[int, int], radius: int) -> Tensor:
    """The (2 radius + 1)^2 places of a region (H, W), True inside, round a handle (x, y); False beyond the picture."""
    padded = functional.pad(region, (radius,) * 4, value=False)
    x, y = handle
    return padded[y:y + 2 * radius + 1, x:x + 2 * radius + 1]


def facing(radius: int, direction: tuple[float, float]) -> Tensor:
    """The half of a window, True, that lies on the side of a direction (x, y), its middle line included."""
    places = torch.arange(-radius, radius + 1, dtype=torch.float64)
    return places[None] * direction[0] + places[:, None] * direction[1] >= -1e-9


def adaptive_window(labels: Tensor, handle: tuple[int, int], target: tuple[float, float], radius: int, *,
                    segments: int) -> Tensor:
    """What counts of the window round a handle: its own region, where it faces the target; where that is less than a
    quarter of a region's usual size, the facing half of the disc.

    Source: Chen et al. 2024, arXiv 2410.12696, section 3.2.
    """
    x, y = handle
    half = facing(radius, (target[0] - x, target[1] - y))
    own = window(labels == labels[y, x], handle, radius) & half
    if own.sum() >= labels.numel() / (4.0 * segments):
        return own
    places = torch.arange(-radius, radius + 1)
    return (places[None] ** 2 + places[:, None] ** 2 <= radius ** 2) & half
