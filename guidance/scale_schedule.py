"""The CFG as a function of the noise level: within an interval, along a curve, or by a table."""
import bisect
import math

CURVES = ("constant", "linear", "cosine", "table")
UNITS = ("factor", "cfg")


def edm_sigma(sigma: float, flow: bool) -> float:
    """The level as noise over picture, sigma / alpha: a flow's t is t / (1 - t), infinite at 1."""
    if not flow:
        return sigma
    return math.inf if sigma >= 1.0 else sigma / (1.0 - sigma)


def interval_scale(scale: float, sigma: float, *, sigma_hi: float = 5.42, sigma_lo: float = 0.28,
                   outside_scale: float = 1.0, curve: str = "constant", table: str = "") -> float:
    """The CFG at an EDM sigma: `scale` for sigma_lo < sigma <= sigma_hi (-1: no upper end), outside_scale elsewhere.

    curve: 'constant' inside; 'linear' and 'cosine' rise from outside_scale at the upper end to scale at the lower, in
    sigma / (1 + sigma), a flow's time; 'table' has factors on scale, evenly placed from the upper end to the lower.
    Source: Kynkaanniemi et al. 2024, arXiv 2404.07724, section 3; the curves Wang et al. 2024, arXiv 2404.13040.
    """
    if curve not in CURVES:
        raise ValueError(f"curve must be one of {', '.join(CURVES)}, got {curve!r}")
    top = math.inf if sigma_hi < 0.0 else sigma_hi
    if not 0.0 <= sigma_lo <= top:
        raise ValueError(f"need 0 <= sigma_lo <= sigma_hi, got {sigma_lo} and {sigma_hi}; swap the two")
    factors = numbers_of(table) if curve == "table" else []
    if not sigma_lo * (1.0 + 1e-6) < sigma <= top * (1.0 + 1e-6):  # levels come in float32
        return outside_scale
    if curve == "constant":
        return scale
    high, low, here = (1.0 if math.isinf(s) else s / (1.0 + s) for s in (top, sigma_lo, sigma))
    place = min(max((high - here) / (high - low), 0.0), 1.0) if high > low else 1.0
    if curve == "table":
        return scale * _between(factors, place)
    share = place if curve == "linear" else 0.5 - 0.5 * math.cos(math.pi * place)
    return outside_scale + share * (scale - outside_scale)


def scheduled_scale(scale: float, sigma: float, points: list[tuple[float, float]], *, unit: str = "factor") -> float:
    """The CFG at an EDM sigma by points (sigma, value), highest sigma first: linear in log sigma between two, the end
    values beyond. unit: 'factor' multiplies scale, 'cfg' takes its place."""
    if unit not in UNITS:
        raise ValueError(f"unit must be one of {', '.join(UNITS)}, got {unit!r}")
    below = bisect.bisect_left([-level for level, _ in points], -sigma)
    if below in (0, len(points)):
        value = points[min(below, len(points) - 1)][1]
    else:
        (high, first), (low, last) = points[below - 1:below + 1]
        value = first + (last - first) * math.log(high / sigma) / math.log(high / low)
    return value if unit == "cfg" else scale * value


def points_of(text: str) -> list[tuple[float, float]]:
    """Lines or parts 'sigma: value', highest sigma first. Raises ValueError for anything else."""
    points = []
    for part in text.replace("\n", ",").split(","):
        if not part.strip():
            continue
        pieces = part.split(":")
        try:
            sigma, value = (float(piece) for piece in pieces)
        except ValueError:
            raise ValueError(f"need parts 'sigma: value' such as 14: 1, 5: 7.5, got {part.strip()!r}") from None
        points.append((sigma, value))
    if not points or any(low >= high for (high, _), (low, _) in zip(points, points[1:])) or points[-1][0] <= 0.0:
        raise ValueError("need at least one 'sigma: value', the sigmas falling and above 0, got "
                         f"{text.strip()!r}; sort them")
    if not all(math.isfinite(number) for point in points for number in point):
        raise ValueError(f"sigmas and values must be finite, got {text.strip()!r}")
    return points


def numbers_of(text: str) -> list[float]:
    """Numbers with commas or spaces between them. Raises ValueError for none or anything else."""
    try:
        numbers = [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise ValueError(f"need numbers such as 0.5, 1, 0.5, got {text.strip()!r}") from None
    if not numbers or not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"need at least one finite number such as 0.5, 1, 0.5, got {text.strip()!r}")
    return numbers


def _between(values: list[float], place: float) -> float:
    """Values at even places in [0, 1], linear between."""
    at = place * (len(values) - 1)
    low = min(int(at), max(len(values) - 2, 0))
    return values[low] + (at - low) * (values[min(low + 1, len(values) - 1)] - values[low])
