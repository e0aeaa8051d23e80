"""Pictures side by side with words around them, drawn with Pillow, which every host has."""
import numpy as np
import torch
from torch import Tensor

GAP, LABEL, ROW_LABEL, MOST = 6, 22, 190, 16384  # pixels; MOST: of a side, beyond which browsers show nothing


def labelled_grid(cells: list[list[Tensor | str]], rows: list[str], columns: list[str], *, width: int) -> Tensor:
    """An IMAGE (1, H, W, 3) in [0, 1] of cells[row][column], each a picture (h, w, 3) or words in place of one.

    A cell is `width` pixels wide and as high as the first picture at that width; other pictures are fitted into it.
    Empty row labels take no room. Raises ValueError for cells that don't fit the labels, or a picture that is too big.
    """
    from PIL import Image, ImageDraw, ImageFont

    if len(cells) != len(rows) or any(len(row) != len(columns) for row in cells) or not (rows and columns):
        raise ValueError(f"need {len(rows)} rows of {len(columns)} cells, got {[len(row) for row in cells]}")
    first = next((cell for row in cells for cell in row if isinstance(cell, Tensor)), None)
    height = width if first is None else max(round(width * first.shape[0] / first.shape[1]), 1)
    left = ROW_LABEL if any(rows) else GAP
    size = left + len(columns) * (width + GAP), LABEL + GAP + len(rows) * (height + GAP)
    if max(size) > MOST:
        raise ValueError(f"the picture would be {size[0]} x {size[1]} pixels, more than {MOST}; make the cells smaller "
                         "or the lists shorter")
    image = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    for j, label in enumerate(columns):
        draw.text((left + j * (width + GAP) + width / 2, LABEL / 2 + 2), _fitted(label, width, font), "black", font,
                  anchor="mm")
    for i, (label, row) in enumerate(zip(rows, cells)):
        y = LABEL + GAP + i * (height + GAP)
        draw.multiline_text((GAP, y + height / 2), _wrapped(label, left - 2 * GAP, font), "black", font, anchor="lm")
        for j, cell in enumerate(row):
            x = left + j * (width + GAP)
            if isinstance(cell, str):
                draw.rectangle((x, y, x + width - 1, y + height - 1), "#f4f4f5", "#c2334d")
                draw.multiline_text((x + GAP, y + GAP), _wrapped(cell, width - 2 * GAP, font), "#c2334d", font)
            else:
                picture = Image.fromarray((cell.clamp(0.0, 1.0) * 255.0).round().byte().cpu().numpy())
                scale = min(width / picture.width, height / picture.height)
                picture = picture.resize((max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)))
                image.paste(picture, (x + (width - picture.width) // 2, y + (height - picture.height) // 2))
    return torch.from_numpy(np.array(image)).float()[None] / 255.0


def _fitted(text: str, width: float, font) -> str:
    """Text cut to a width."""
    while len(text) > 4 and font.getlength(text) > width:
        text = text[:-2].rstrip(".") + "."
    return text


def _wrapped(text: str, width: float, font) -> str:
    """Text on as many lines as a width asks for."""
    lines = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(_fitted(word, width, font))
    return "\n".join(lines)
