"""Pictures of the gallery: what a workflow drew on one small sheet, and curves of noise levels."""
import math

from PIL import Image, ImageDraw, ImageFont

EDGE = 480  # pixels: the width of a sheet, and its greatest height; ComfyUI shows it in a square of about 250
GAP, LABEL, LARGEST = 4, 20, 238  # LARGEST: of a picture's side, which is 128 as it was drawn
WHOLE = 9  # so many pictures of a single name are all shown
ROWS = 1.4  # what a layout in rows gains
GROUND, WORDS = "#1d1f23", "#e6e8eb"
WIDE = 1.4  # from this ratio of sides on it is a plot or a strip, which takes a whole row
CURVE, INK, FAINT = (400, 150), "#2f6fde", "#d5dae1"

Named = list[tuple[str, list[Image.Image]]]  # what each SaveImage drew, under a few words


def sheet(drawn: Named) -> Image.Image:
    """The pictures of every name side by side, as large and as many as the room allows, with plots below them.

    Raises ValueError where there is nothing to show.
    """
    plots = [_as_wide(images[0]) for _, images in drawn if images and images[0].width >= WIDE * images[0].height]
    small = [(name, images) for name, images in drawn if images and images[0].width < WIDE * images[0].height]
    if not (plots or small):
        raise ValueError("the workflow drew nothing; add a SaveImage")
    if not small:
        return _under_one_another(plots)
    return _under_one_another([_squares(small, EDGE - sum(plot.height + GAP for plot in plots[:1])), *plots[:1]])


def _under_one_another(parts: list[Image.Image]) -> Image.Image:
    """Parts on the ground with a gap around them, smaller where they would be higher than wide."""
    made = Image.new("RGB", (EDGE, sum(part.height + GAP for part in parts) + GAP), GROUND)
    top = GAP
    for part in parts:
        made.paste(part, ((EDGE - part.width) // 2, top))
        top += part.height + GAP
    return made if made.height <= EDGE else _square(made, EDGE)


def _as_wide(image: Image.Image) -> Image.Image:
    """A plot or a strip, as wide as the sheet."""
    width = EDGE - 2 * GAP
    return image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)


def _squares(drawn: Named, room: float) -> Image.Image:
    """Blocks of pictures, each under its name, as many of each as of the others."""
    each = min(len(images) for _, images in drawn)
    label = LABEL if len(drawn) > 1 else 0
    fewest = min(each, WHOLE) if len(drawn) == 1 else 1
    options = [(across, wide, high) for across in range(1, len(drawn) + 1) for wide in range(each, 0, -1)
               for high in range(1, -(-each // wide) + 1) if wide * high >= fewest and wide * (high - 1) < each]
    across, wide, high = max(options, key=lambda option: _worth(*option, count=len(drawn), label=label, room=room))
    side = int(_side(across, wide, high, count=len(drawn), label=label, room=room))
    block, rows = wide * (side + GAP), math.ceil(len(drawn) / across)
    made = Image.new("RGB", (across * block - GAP, rows * (label + high * (side + GAP)) - GAP), GROUND)
    draw, font = ImageDraw.Draw(made), ImageFont.load_default(14)
    for i, (name, images) in enumerate(drawn):
        alone = (across - len(drawn) % across) * block // 2 if len(drawn) - i <= len(drawn) % across else 0
        x, y = alone + i % across * block, i // across * (label + high * (side + GAP))
        words = _cut(name, block - GAP, font) if label else ""
        draw.text((x + (block - GAP) / 2, y + LABEL / 2 - 3), words, WORDS, font, anchor="mm")
        for j, image in enumerate(images[:wide * high]):
            made.paste(_square(image, side), (x + j % wide * (side + GAP), y + label + j // wide * (side + GAP)))
    return made


def _square(image: Image.Image, side: int) -> Image.Image:
    """A picture in a square of the ground."""
    scale = side / max(image.size)
    fitted = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    made = Image.new("RGB", (side, side), GROUND)
    made.paste(fitted, ((side - fitted.width) // 2, (side - fitted.height) // 2))
    return made


def _side(across: int, wide: int, high: int, *, count: int, label: int, room: float) -> float:
    """Pixels of a picture's side where `across` blocks of wide x high pictures stand in a row."""
    rows = math.ceil(count / across)
    return min((EDGE - GAP) / (across * wide) - GAP, ((room - GAP) / rows - label) / high - GAP, LARGEST)


def _worth(across: int, wide: int, high: int, *, count: int, label: int, room: float) -> float:
    """What a layout is worth: the area that is covered, larger pictures before more of them; notes of workflows say
    above and below, so rows of several pictures come first."""
    side = max(_side(across, wide, high, count=count, label=label, room=room), 0.0)
    return count * wide * high * side ** 2.5 * (ROWS if across == 1 and wide > 1 else 1.0)


def _cut(text: str, width: float, font) -> str:
    while len(text) > 3 and font.getlength(text) > width:
        text = text[:-2].rstrip(". ") + "."
    return text


def curve(levels: list[float], words: str) -> Image.Image:
    """Noise levels by step under a few words, in a logarithm unless they are a flow model's; 0 stands on the ground."""
    wide, high = CURVE
    made = Image.new("RGB", CURVE, "white")
    draw, font = ImageDraw.Draw(made), ImageFont.load_default(12)
    left, right, top, bottom = 48, 14, 26, 22
    places = _places(levels)
    points = [(left + i / (len(levels) - 1) * (wide - left - right), high - bottom - share * (high - top - bottom))
              for i, share in enumerate(places)]
    for x, _ in points:
        draw.line((x, top, x, high - bottom), FAINT)
    draw.line((left, high - bottom, wide - right, high - bottom), "#5b6470")
    draw.line(points, INK, 2)
    for x, y in points:
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), INK)
    draw.text((left - 8, points[0][1]), f"{levels[0]:.3g}", "black", font, anchor="rm")
    draw.text((left - 8, points[-1][1]), f"{levels[-1]:.3g}", "black", font, anchor="rm")
    if _logarithmic(levels) and levels[-1] == 0.0:
        draw.text((left - 8, points[-2][1]), f"{levels[-2]:.3g}", "black", font, anchor="rm")
    draw.text((wide / 2, 12), words + ", log sigma" * _logarithmic(levels), "black", font, anchor="mm")
    draw.text((left, high - 10), "0", "black", font, anchor="mm")
    draw.text((wide - right, high - 10), f"{len(levels) - 1} steps", "black", font, anchor="rm")
    return made.quantize(16)


def _logarithmic(levels: list[float]) -> bool:
    return max(levels) > 1.0


def _places(levels: list[float]) -> list[float]:
    """Heights in 0 to 1."""
    if not _logarithmic(levels):
        return [level / max(levels) for level in levels]
    low, high = math.log(min(level for level in levels if level > 0.0)), math.log(max(levels))
    low -= 0.16 * (high - low)  # so that 0 lies below the last level above it
    return [(math.log(level) - low) / (high - low) if level > 0.0 else 0.0 for level in levels]
