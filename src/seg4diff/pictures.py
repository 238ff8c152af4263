"""Pictures for people: label maps in colour, overlays with a legend, sheets of images."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

IGNORED = (40, 40, 40)
SMALLEST_CELL = 192
"""Side in pixels to which the pictures of a sheet are enlarged when they are smaller."""


def class_colours(count: int) -> np.ndarray:
    """Well separated colours, (count, 3) uint8: hues in steps of the golden angle, three levels of light."""
    hue = (np.arange(count) * 0.381966) % 1.0
    value = 0.95 - 0.22 * (np.arange(count) % 3)
    # Each channel is a shifted triangle wave of the hue.
    channel = np.abs((hue[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1
    return (255 * value[:, None] * (1 - 0.72 * (1 - channel.clip(0, 1)))).astype(np.uint8)


def colour_labels(labels: Tensor, count: int) -> Image.Image:
    """Label map (H, W) -> RGB picture; ids outside 0..count-1 are dark grey."""
    ids = labels.cpu().numpy()
    inside = (ids >= 0) & (ids < count)
    picture = np.empty((*ids.shape, 3), dtype=np.uint8)
    picture[:] = IGNORED
    picture[inside] = class_colours(count)[ids[inside]]
    return Image.fromarray(picture)


def overlay(image: Image.Image, labels: Tensor, names: Sequence[str], opacity: float = 0.6) -> Image.Image:
    """Blend a label map (H, W) over its image and write each class name at the middle of its region."""
    height, width = labels.shape
    colours = colour_labels(labels, len(names))
    picture = Image.blend(image.convert("RGB").resize((width, height)), colours, opacity)
    scale = max(1, round(288 / max(height, width)))
    picture = picture.resize((width * scale, height * scale), Image.Resampling.NEAREST)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(max(11, min(picture.size) // 20))
    ids = labels.cpu().numpy()
    for k in np.unique(ids):
        rows, columns = np.nonzero(ids == k)
        if k >= len(names) or rows.size < 0.004 * ids.size:
            continue
        # The pixel nearest to the centre of the region lies inside it also when the region is a ring.
        nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
        position = (int(columns[nearest]) * scale, int(rows[nearest]) * scale)
        draw.text(position, names[k], fill="white", stroke_fill="black", stroke_width=2, font=font, anchor="mm")
    return picture


def sheet(rows: Sequence[Sequence[Image.Image]], row_titles: Sequence[str] = (), column_titles: Sequence[str] = ()) -> Image.Image:
    """A grid of pictures with optional titles; every cell takes the size of the largest picture, and small ones are enlarged."""
    largest = [max(size) for size in zip(*(picture.size for row in rows for picture in row), strict=True)]
    scale = max(1, round(SMALLEST_CELL / max(largest)))
    width, height = largest[0] * scale, largest[1] * scale
    font = ImageFont.load_default(max(11, height // 16))
    gap, line = 4, round(font.size * 1.4)
    titles = [_wrap(title, width, font) for title in column_titles]
    left = max((round(font.getlength(title)) for title in row_titles), default=0) + (2 * gap if row_titles else 0)
    top = line * max((title.count("\n") + 1 for title in titles), default=0)
    columns = max(len(row) for row in rows)
    page = Image.new("RGB", (left + columns * (width + gap) + gap, top + len(rows) * (height + gap) + gap), "white")
    draw = ImageDraw.Draw(page)
    for c, title in enumerate(titles):
        x = left + gap + c * (width + gap) + width // 2
        draw.multiline_text((x, top), title, fill="black", font=font, anchor="md", align="center")
    for r, row in enumerate(rows):
        y = top + gap + r * (height + gap)
        if row_titles:
            draw.text((gap, y + height // 2), row_titles[r], fill="black", font=font, anchor="lm")
        for c, picture in enumerate(row):
            factor = min(width / picture.width, height / picture.height)
            if factor > 1:
                size = (round(picture.width * factor), round(picture.height * factor))
                picture = picture.resize(size, Image.Resampling.NEAREST)
            page.paste(picture, (left + gap + c * (width + gap), y))
    return page


def _wrap(title: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """Break a title into lines of at most `width` pixels, between words."""
    lines = [""]
    for word in title.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)
