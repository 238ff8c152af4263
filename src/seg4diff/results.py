"""Results of `Model`: a label map, a map for each word, and pictures of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from seg4diff.attention.maps import Scores, i2t, i2t_per_head, quadrant_mass
from seg4diff.attention.seam import Visit
from seg4diff.backbones.base import TextCondition
from seg4diff.data.geometry import Window
from seg4diff.data.sample import IGNORE, resize_labels
from seg4diff.disk import save_picture
from seg4diff.errors import UserError
from seg4diff.pictures import IGNORED, class_colours, heat_over, overlay, sheet
from seg4diff.segmentation.frame import Frame
from seg4diff.segmentation.instances import Instance, instances
from seg4diff.segmentation.prompts import find_names, token_sets

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OVERLAY, CELL, COLUMNS = 1024, 256, 4
"""Longest side in pixels of an overlay, at most, and of a picture on the sheet of maps; columns of that sheet, at most."""


class WordMaps(Mapping[str, Tensor]):
    """A map for each word, brought to the size of the picture when it is asked for: (H, W) in [0, 1], on the CPU.

    Args:
        names: the words.
        maps: (names, h, w) on the token grid, each scaled to [0, 1].
        frame: where the shown part of the picture lies on the canvas that the model saw.
        shown: that part.
        size: (height, width) of the picture; outside the shown part maps are 0.
    """

    def __init__(self, names: Sequence[str], maps: Tensor, frame: Frame, shown: Window, size: tuple[int, int]) -> None:
        self._names, self.grid, self._frame, self._shown, self._size = list(names), maps, frame, shown, size

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(f"there is no map of '{name}', only of {', '.join(self._names) or 'no word'}")
        k = self._names.index(name)
        return self._shown.paste(self._frame.upsample(self.grid[k : k + 1])[0].cpu(), self._size, 0.0)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def at(self, size: tuple[int, int]) -> Tensor:
        """All maps of the shown part at another size: (names, height, width)."""
        return Frame(self._frame.canvas, self._frame.window, size).upsample(self.grid).cpu()


@dataclass(frozen=True)
class Segmentation:
    """A segmented picture.

    Attributes:
        picture: the picture, upright, 8-bit RGB.
        names: `names[k]` is the word of label k; without words, the numbers of the regions from the largest, "0".
        labels: (H, W) uint8, 255 where a pixel has no label.
        maps: word -> (H, W) in [0, 1]; empty without words.
        shown: the part of the picture that the model saw.
        stem: name of the picture, for its files.
    """

    picture: Image.Image
    names: tuple[str, ...]
    labels: np.ndarray
    maps: WordMaps
    shown: Window
    stem: str = "picture"

    def mask(self, name: str) -> np.ndarray:
        """Where the pixels of a word are: (H, W) bool."""
        if name not in self.names:
            raise UserError(f"'{name}' is none of the words of this segmentation ({', '.join(self.names)}).")
        return self.labels == self.names.index(name)

    def instances(self, least: int = 1) -> list[Instance]:
        """The connected parts of each word, from the largest to the smallest.

        Args:
            least: number of pixels that a part must have.
        """
        return list(instances(self.labels, self.names, least))

    def overlay(self) -> Image.Image:
        """The regions over the picture with their names, at most 1024 pixels wide or high."""
        return _draw_regions(self.picture, self._labels, self.names, min(max(self.picture.size), OVERLAY))

    @property
    def _labels(self) -> Tensor:
        return torch.from_numpy(self.labels.astype(np.int64))

    def label_map(self) -> Image.Image:
        """The labels as a palette picture, 255 = no label."""
        picture = Image.fromarray(self.labels)
        picture.putpalette([*class_colours(IGNORE).flatten().tolist(), *IGNORED])
        return picture

    def heat(self) -> Image.Image:
        """A sheet of the picture, its regions and a heat map for each word, dark to bright as its map goes from 0 to 1."""
        part, labels = self.picture.crop(self.shown.corners), self.shown.cut(self._labels)
        regions = _draw_regions(part, labels, self.names, 2 * CELL).reduce(2)  # smooth outlines, readable names
        return draw_maps(part, regions, list(self.maps), self.maps.at((regions.height, regions.width)))

    def heat_of(self, name: str) -> Image.Image:
        """The map of one word over the picture, at most 1024 pixels wide or high."""
        scale = min(1, OVERLAY / max(self.picture.size))
        width, height = (max(1, round(length * scale)) for length in self.picture.size)
        values = interpolate(self.maps[name][None, None], size=(height, width), mode="bilinear", antialias=True)[0, 0]
        return heat_over(self.picture.resize((width, height)), values.clamp(0, 1))

    def plot(self) -> "Figure":
        """The overlay, and the heat maps where there are words, as a matplotlib figure; a notebook shows it."""
        return show([self.overlay(), *([self.heat()] if self.maps else [])])

    def save(self, folder: str | Path, stem: str | None = None) -> None:
        """Write labels/<stem>.png (a palette PNG, 255 = no label), overlays/<stem>.png and, with words, maps/<stem>.png; labels come last.

        Args:
            folder: output folder; it is created.
            stem: name of the files; None: that of the picture.
        """
        shown = {"overlays": self.overlay()} | ({"maps": self.heat()} if self.maps else {})
        for kind, picture in (shown | {"labels": self.label_map()}).items():
            save_picture(picture, Path(folder) / kind / f"{stem or self.stem}.png")


@dataclass(frozen=True)
class Generated:
    """A generated image.

    Attributes:
        image: the image.
        prompt: its prompt.
        seed: the seed of its noise.
        scale: factor on the LoRA, 0 = the base model; None = the model as it stood.
        words: where each word of the prompt went over the image; None where no maps were read. Small words such as "a" get no pixels.
        path: file that the image was asked for; None = none.
        stem: name of the image, for its files.
        strip: the same as `words` at further sampling steps, by step.
    """

    image: Image.Image
    prompt: str
    seed: int
    scale: float | None = None
    words: Segmentation | None = None
    path: Path | None = None
    stem: str = "image"
    strip: Mapping[int, Segmentation] = field(default_factory=dict)

    @property
    def maps(self) -> Mapping[str, Tensor]:
        """Word of the prompt -> (H, W) in [0, 1]; empty where no maps were read."""
        return {} if self.words is None else self.words.maps

    def overlay(self) -> Image.Image:
        """Where each word went, over the image; the image alone where no maps were read."""
        return self.image if self.words is None else self.words.overlay()

    def plot(self) -> "Figure":
        """Image, overlay and heat maps as a matplotlib figure; a notebook shows it."""
        return show([self.image] if self.words is None else [self.overlay(), self.words.heat()])

    def save(self, folder: str | Path, stem: str | None = None) -> None:
        """Write images/<stem>.png and, where maps were read, overlays/<stem>.png and maps/<stem>.png; the image comes last.

        Args:
            folder: where to; its folders are made.
            stem: name of the files; None: that of the image.
        """
        shown = {} if self.words is None else {"overlays": self.overlay(), "maps": self.words.heat()}
        for kind, picture in (shown | {"images": self.image}).items():
            save_picture(picture, Path(folder) / kind / f"{stem or self.stem}.png")


class BlockAttention:
    """One block of one pass over one picture.

    Attributes:
        block: its index.
        joint: its queries, keys and values.
    """

    def __init__(self, visit: Visit, grid: tuple[int, int], condition: TextCondition, prompt: str) -> None:
        self.block, self.joint = visit.block, visit.joint
        self._grid, self._condition, self._prompt = grid, condition, prompt

    def map(self, word: str, scores: Scores = "joint") -> Tensor:
        """Image-to-text attention of a word of the prompt, mean over its tokens and the heads: (h, w) on the token grid.

        Args:
            word: a word, or several that stand together.
            scores: see `seg4diff.attention.maps.i2t`.

        Raises:
            UserError: the prompt has no such word.
        """
        found = find_names(self._prompt, [word], [0]) if word.strip() else None
        if found is None or not found.classes:
            raise UserError(f"'{word}' is not in the prompt '{self._prompt}'.")
        (tokens,) = token_sets(self._condition, 0, found)
        return self.maps(scores)[tokens].mean(dim=0)

    def maps(self, scores: Scores = "joint") -> Tensor:
        """Image-to-text attention of every text token, mean over the heads: (T, h, w)."""
        return i2t(self.joint, scores)[0].unflatten(-1, self._grid)

    def maps_per_head(self, scores: Scores = "joint") -> Tensor:
        """As `maps`, of each head: (heads, T, h, w)."""
        return i2t_per_head(self.joint, scores)[0].unflatten(-1, self._grid)

    def mass(self) -> dict[str, float]:
        """Share of the attention in each quadrant, mean over the heads: see `quadrant_mass`."""
        return {name: float(mass.mean()) for name, mass in quadrant_mass(self.joint).items()}


def show(pictures: Sequence[Image.Image]) -> "Figure":
    """Pictures one below the other as a matplotlib figure."""
    from matplotlib.figure import Figure

    heights = [picture.height / picture.width for picture in pictures]
    figure = Figure(figsize=(7, 7 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(pictures), squeeze=False, height_ratios=heights)
    for axis, picture in zip(axes.flat, pictures, strict=True):
        axis.imshow(picture)
        axis.set_axis_off()
    return figure


def by_size(proposals: Tensor) -> tuple[Tensor, list[str]]:
    """Proposals (H, W) numbered from the largest region, 0, to the smallest; the numbers as names."""
    found, labels, pixels = proposals.unique(return_inverse=True, return_counts=True)
    ranks = pixels.argsort(descending=True, stable=True).argsort()
    return ranks.clamp_max(IGNORE)[labels], [str(k) for k in range(min(len(found), IGNORE))]


def _draw_regions(picture: Image.Image, labels: Tensor, names: Sequence[str], side: int) -> Image.Image:
    """An overlay of labels (H, W) whose longer side is `side` pixels."""
    return overlay(picture, resize_labels(labels, [max(1, round(length * side / max(labels.shape))) for length in labels.shape]), names)


def draw_maps(picture: Image.Image, regions: Image.Image, names: Sequence[str], maps: Tensor) -> Image.Image:
    """See `Segmentation.heat`; maps (names, H, W) have the size of `regions`."""
    picture = picture.resize(regions.size)
    shown = [picture, regions, *(heat_over(picture, own) for own in maps)]
    cells = [sheet([[cell]], (), [title]) for cell, title in zip(shown, ["picture", "regions", *names], strict=True)]
    columns = -(-len(cells) // -(-len(cells) // COLUMNS))  # rows of one length where that is possible
    return sheet([cells[k : k + columns] for k in range(0, len(cells), columns)])
