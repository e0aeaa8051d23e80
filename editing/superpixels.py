"""The regions of a picture that adaptive dragging moves as one: superpixels."""
import math

import torch
from torch import Tensor
from torch.nn import functional

ROUNDS = 10  # of means and who belongs to them, as SLIC does


def superpixels(picture: Tensor, *, segments: int = 200, compactness: float = 10.0) -> Tensor:
    """Labels from 0 on (H, W) of about so many connected regions alike in colour, of pictures (3, H, W) in [0, 1].

    The picture is first stretched to all of [0, 1]. Means of colour (Lab) and place begin on a grid of cells S px wide;
    a pixel goes to the mean, of those begun in its own and the 8 cells around, that is nearest by (colour apart /
    compactness)^2 + (px apart / S)^2: a higher compactness makes them squarer. Parts cut off that are below half of a
    region's usual size go to the neighbour they touch most.
    Source: Achanta et al. 2012, SLIC Superpixels, algorithm 1.
    """
    from kornia.color import rgb_to_lab

    height, width = picture.shape[-2:]
    side = max(round((height * width / segments) ** 0.5), 1)
    colours = picture.detach().float().cpu().clamp(0.0, 1.0)
    colours = (colours - colours.min()) / (colours.max() - colours.min()).clamp(min=1e-6)
    lab = rgb_to_lab(colours[None])[0] / compactness
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.cat([lab, torch.stack([columns, rows]) / side]).flatten(1).T
    grid = [torch.arange(side // 2, length, side) for length in (height, width)]
    centres = pixels.reshape(height, width, -1)[grid[0]][:, grid[1]].flatten(0, 1)
    near = _cells_around(rows // side, columns // side, *map(len, grid)).flatten(1)
    for _ in range(ROUNDS):
        apart = torch.stack([(pixels - centres[cells]).square().sum(1) for cells in near])
        labels = near.gather(0, apart.argmin(0)[None])[0]
        counts = torch.bincount(labels, minlength=len(centres))[:, None]
        sums = torch.zeros_like(centres).index_add(0, labels, pixels)
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    return _whole(labels.reshape(height, width), height * width / (2.0 * segments))


def _cells_around(rows: Tensor, columns: Tensor, high: int, wide: int) -> Tensor:
    """The numbers of the 9 cells (9, H, W) that lie at and around those of each pixel."""
    return torch.stack([(rows + i).clamp(0, high - 1) * wide + (columns + j).clamp(0, wide - 1)
                        for i in (-1, 0, 1) for j in (-1, 0, 1)])


def _whole(labels: Tensor, least: float) -> Tensor:
    """Labels of the connected parts of labels (H, W), those of fewer than `least` pixels joined to neighbours."""
    try:
        from scipy.ndimage import label
    except ImportError as error:
        raise ImportError("superpixels need SciPy; pip install 'odeon[science]' brings it, or drag in mode "
                          "'drag'") from error
    joined = torch.zeros(2 * labels.shape[0] - 1, 2 * labels.shape[1] - 1, dtype=torch.bool)  # pixels and what is
    joined[::2, ::2] = True  # between each two
    joined[1::2, ::2], joined[::2, 1::2] = labels[1:] == labels[:-1], labels[:, 1:] == labels[:, :-1]
    parts = torch.from_numpy(label(joined.numpy())[0][::2, ::2]).long()
    counts = torch.bincount(parts.flatten())
    for part in counts.argsort()[:int((counts < least).sum())].tolist():  # the small ones, which only grow
        own = parts == part
        touched = torch.cat([parts[1:][own[:-1]], parts[:-1][own[1:]], parts[:, 1:][own[:, :-1]],
                             parts[:, :-1][own[:, 1:]]])
        touched = touched[touched != part]
        if own.sum() < least and len(touched):
            parts[own] = touched.mode().values
    return parts.unique(return_inverse=True)[1]


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
