"""Visualisation: label maps in colour, overlays with class names, contact sheets."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from seg4diff.data.decoding import to_rgb

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
    ids, colours = labels.cpu().numpy(), np.array([*class_colours(count), IGNORED], dtype=np.uint8)
    return Image.fromarray(colours.take(np.where((ids >= 0) & (ids < count), ids, count), axis=0))


def overlay(image: Image.Image, labels: Tensor, names: Sequence[str], opacity: float = 0.6) -> Image.Image:
    """Blend a label map (H, W) over its image, draw the borders and write each class name where its region is widest."""
    height, width = labels.shape
    colours = colour_labels(labels, len(names))
    picture = Image.blend(to_rgb(image).resize((width, height)), colours, opacity)
    scale = max(1, round(288 / max(height, width)))
    picture = picture.resize((width * scale, height * scale), Image.Resampling.NEAREST)
    ids = labels.cpu().numpy()
    picture.paste((255, 255, 255), mask=Image.fromarray(_borders(ids.repeat(scale, 0).repeat(scale, 1))))
    draw, font = ImageDraw.Draw(picture), _font(max(11, min(picture.size) // 20))
    for k in np.unique(ids):
        region = ids == k
        if k < len(names) and region.sum() >= 0.004 * ids.size:
            row, column = _widest(region)
            _write(draw, picture.size, (column * scale, row * scale), names[k], font)
    return picture


def _font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font; its fixed bitmap font is for calls without a size."""
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def _write(draw: ImageDraw.ImageDraw, size: tuple[int, int], middle: tuple[int, int], text: str, font: ImageFont.FreeTypeFont) -> None:
    """Write a name around a point, moved as far as it takes to lie within the picture."""
    left, top, right, bottom = draw.textbbox(middle, text, font=font, anchor="mm", stroke_width=2)
    x = middle[0] + max(0, -left) - max(0, right - size[0])
    y = middle[1] + max(0, -top) - max(0, bottom - size[1])
    draw.text((x, y), text, fill="white", stroke_fill="black", stroke_width=2, font=font, anchor="mm")


def _borders(ids: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels of a label map whose neighbour to the right or below has another label."""
    borders = np.zeros(ids.shape, dtype=bool)
    borders[:-1] |= ids[:-1] != ids[1:]
    borders[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    return borders


def _widest(region: np.ndarray) -> tuple[int, int]:
    """(row, column) of the middle of the largest circle within a region (H, W) bool, on a grid of at most 200 points a side."""
    step = max(1, max(region.shape) // 200)
    coarse = region[::step, ::step] if region[::step, ::step].any() else region
    depth = distance_transform_edt(np.pad(coarse, 1))[1:-1, 1:-1]
    factor = step if coarse is not region else 1
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    return int(row) * factor, int(column) * factor


def heat_over(picture: Image.Image, values: Tensor, opacity: float = 0.75) -> Image.Image:
    """A map (H, W) in [0, 1] over a picture of its size, from dark (0) to bright (1)."""
    return Image.blend(picture, Image.fromarray(colormaps["inferno"](values.numpy(), bytes=True)[..., :3]), opacity)


def highlight(picture: Image.Image, region: np.ndarray) -> Image.Image:
    """An RGB picture in pale grey, with a region (H, W) bool in magenta."""
    values = (0.4 * np.asarray(picture).mean(axis=-1, keepdims=True) + 0.6 * 255).astype(np.uint8).repeat(3, axis=-1)
    values[region] = (200, 0, 120)
    return Image.fromarray(values)


def overlay_regions(image: Image.Image, regions: Tensor, opacity: float = 0.55) -> Image.Image:
    """Tint regions (M, H, W) bool over their image, smaller ones above larger ones, and draw their outlines; the rest stays as it is."""
    height, width = regions.shape[-2:]
    order = regions.flatten(1).sum(1).argsort(descending=True).tolist()
    labels = torch.full((height, width), -1)
    for k in order:
        labels[regions[k].cpu()] = k
    picture = to_rgb(image).resize((width, height))
    tinted = Image.blend(picture, colour_labels(labels, len(regions)), opacity)
    picture.paste(tinted, mask=Image.fromarray((labels >= 0).numpy()))
    picture.paste((255, 255, 255), mask=Image.fromarray(_borders(labels.numpy())))
    return picture


def contact_sheet(entries: Sequence[tuple[Sequence[Image.Image], str]], title: str, columns: int = 2) -> Image.Image:
    """Pictures that belong together side by side with a text below them, `columns` such groups in a row."""
    gap, font, heading = 8, _font(13), _font(20)
    width = max(sum(picture.width + gap for picture in pictures) - gap for pictures, _ in entries)
    texts = [_wrap(text, width, font) for _, text in entries]
    line, top = round(font.size * 1.4), round(heading.size * 1.8)
    rows = [range(first, min(first + columns, len(entries))) for first in range(0, len(entries), columns)]
    heights = [
        max(max(picture.height for picture in entries[k][0]) + line * (texts[k].count("\n") + 1) for k in row) + 3 * gap for row in rows
    ]
    page = Image.new("RGB", (min(columns, len(entries)) * (width + 2 * gap) + gap, top + sum(heights)), "white")
    draw = ImageDraw.Draw(page)
    draw.text((gap, gap), title, fill="black", font=heading)
    y = top
    for row, height in zip(rows, heights, strict=True):
        for column, k in enumerate(row):
            x = left = gap + column * (width + 2 * gap)
            for picture in entries[k][0]:
                page.paste(picture, (x, y))
                x += picture.width + gap
            below = y + max(picture.height for picture in entries[k][0]) + gap // 2
            draw.multiline_text((left, below), texts[k], fill="black", font=font, spacing=line - font.size)
        y += height
    return page


def sheet(rows: Sequence[Sequence[Image.Image]], row_titles: Sequence[str] = (), column_titles: Sequence[str] = ()) -> Image.Image:
    """A grid of pictures with optional titles; every cell takes the size of the largest picture, and small ones are enlarged."""
    largest = [max(size) for size in zip(*(picture.size for row in rows for picture in row), strict=True)]
    scale = max(1, round(SMALLEST_CELL / max(largest)))
    width, height = largest[0] * scale, largest[1] * scale
    font = _font(max(11, height // 16))
    gap, line = 4, round(font.size * 1.4)
    titles = [_wrap(title, width, font) for title in column_titles]
    row_titles = [_wrap(title, width, font) for title in row_titles]
    widest = max((font.getlength(line) for title in row_titles for line in title.split("\n")), default=0)
    left = round(widest) + (2 * gap if row_titles else 0)
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
            draw.multiline_text((gap, y + height // 2), row_titles[r], fill="black", font=font, anchor="lm")
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
