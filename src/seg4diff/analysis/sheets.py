"""Sheets of an analysis' example pictures, block after block: principal components, maps of words, proposals without words."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from seg4diff.analysis import drawing
from seg4diff.analysis.album import EXAMPLES, read_album, read_prompts
from seg4diff.analysis.stored import Analysis
from seg4diff.pictures import colour_labels, overlay

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORDS = 4
"""Words of an example whose maps are shown."""
TOKENS = 96
"""Tokens of the empty prompt whose maps are shown."""
LONGEST = 16
"""Characters of a word beside its maps."""


@dataclass(frozen=True)
class Example:
    """One image of the album.

    Attributes:
        number: its number.
        prompt: what the model read with it.
        words: the classes of its prompt.
        image: the image.
        labelled: its masks over it, None without masks.
    """

    number: int
    prompt: str
    words: list[str]
    image: Image.Image
    labelled: Image.Image | None


def read_examples(analysis: Analysis) -> list[Example]:
    """The examples of an analysis in the order of their numbers."""
    prompts = read_prompts(analysis.pictures)
    found = []
    for number, own in read_album(analysis.pictures, EXAMPLES).items():
        prompt, words = prompts[number]
        image = Image.fromarray(own["image"].numpy())
        labelled = overlay(image, own["labels"].long(), words) if "labels" in own else None
        found.append(Example(number, prompt, words, image, labelled))
    return found


def sheets(analysis: Analysis, study: str, example: Example) -> Iterator[tuple[str, str, "Figure"]]:
    """Name, description and figure of each sheet that a study has of an example, at the model's own noise level."""
    pictures = read_album(analysis.pictures, study).get(example.number)
    if pictures and study in SHEETS:
        yield from SHEETS[study](analysis, pictures, example)


def _features(analysis: Analysis, pictures: Mapping[str, Tensor], example: Example) -> Iterator[tuple[str, str, "Figure"]]:
    rows = {
        label: [pictures[key].numpy() if (key := _key(analysis, block, part)) in pictures else None for block in range(analysis.blocks)]
        for label, part in (("queries", "query"), ("keys", "key"), ("values", "value"))
    }
    text = "First three principal components of the image tokens as red, green and blue, each in its own range, for each block."
    yield f"pca-{example.number}", text, _by_block(analysis, rows)


def _maps(analysis: Analysis, pictures: Mapping[str, Tensor], example: Example) -> Iterator[tuple[str, str, "Figure"]]:
    rows = {}
    for k, word in enumerate(example.words[:WORDS]):
        for direction in ("i2t", "t2i"):
            maps = [pictures.get(_key(analysis, block, direction)) for block in range(analysis.blocks)]
            rows[f"{_short(word)}\n{direction.upper()}"] = [None if own is None or k >= len(own) else heat(own[k]) for own in maps]
    if any(tile is not None for row in rows.values() for tile in row):
        text = "Maps of the words of its prompt at each block, each map from its minimum (dark) to its maximum (bright)."
        yield f"maps-{example.number}", text, _by_block(analysis, rows)


def _empty(analysis: Analysis, pictures: Mapping[str, Tensor], example: Example) -> Iterator[tuple[str, str, "Figure"]]:
    merged = [pictures.get(_key(analysis, block, "proposals")) for block in range(analysis.blocks)]
    rows = {"proposals": [None if own is None else regions(own) for own in merged]}
    yield (
        f"proposals-{example.number}",
        "Proposals of the empty prompt at each block, a colour for each. Equal colours at two blocks mean nothing.",
        _by_block(analysis, rows),
    )
    maps = pictures.get(_key(analysis, analysis.expert, "maps"))
    if maps is not None:
        count = min(len(maps), TOKENS)
        text = f"Maps of the {count if count == len(maps) else f'first {count}'} tokens of the empty prompt at block {analysis.expert}."
        text += " Each map has its own scale, from its minimum (dark) to its maximum (bright)."
        tiles = [heat(own) for own in maps[:count]]
        lines = {f"from {first}": tiles[first : first + drawing.BAND] for first in range(0, count, drawing.BAND)}
        columns = [f"+{k}" for k in range(min(count, drawing.BAND))]
        full = {name: [*row, *[None] * (len(columns) - len(row))] for name, row in lines.items()}
        yield f"tokens-{example.number}", text, drawing.draw_sheet(full, columns, None, "token")


SHEETS = {"features": _features, "segmentation": _maps, "empty_prompt": _empty}


def _by_block(analysis: Analysis, rows: Mapping[str, Sequence[np.ndarray | None]]) -> "Figure":
    return drawing.draw_sheet(rows, [str(block) for block in range(analysis.blocks)], str(analysis.marked), "block")


def _key(analysis: Analysis, block: int, name: str) -> str:
    return f"level{analysis.level}/block{block}/{name}"


def heat(values: Tensor) -> np.ndarray:
    """A map (h, w) in its own range, dark to bright, (h, w, 3) uint8."""
    from matplotlib import colormaps

    own = values.float()
    own = (own - own.min()) / (own.max() - own.min()).clamp_min(torch.finfo(torch.float32).tiny)
    return colormaps["inferno"](own.numpy(), bytes=True)[..., :3]


def regions(maps: Tensor) -> np.ndarray:
    """The highest of maps (M, h, w) at each place, as colours (h, w, 3) uint8."""
    return np.asarray(colour_labels(maps.float().argmax(dim=0), len(maps)))


def _short(word: str) -> str:
    return word if len(word) <= LONGEST else f"{word[: LONGEST - 1]}…"
