"""Connected parts of a label map, as COCO annotations and as prompts for other segmenters."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt, find_objects, label

from seg4diff.data.rle import RunLengths
from seg4diff.data.sample import IGNORE

NEIGHBOURS = np.ones((3, 3), dtype=bool)
"""Pixels that touch at a corner are connected."""


@dataclass(frozen=True)
class Instance:
    """A connected part of the pixels of a word.

    Attributes:
        name: the word.
        category: its label.
        box: (left, top, width, height) in pixels.
        point: (x, y) of its pixel that lies deepest inside, a prompt for SAM.
        mask: (H, W) bool.
    """

    name: str
    category: int
    box: tuple[int, int, int, int]
    point: tuple[int, int]
    mask: np.ndarray

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(self.mask.sum())

    def coco(self) -> dict[str, Any]:
        """An annotation in the format of COCO, with packed run lengths; "point" is ours."""
        lengths = RunLengths.of(self.mask)
        return {
            "category_id": self.category,
            "category_name": self.name,
            "bbox": list(self.box),
            "area": self.area,
            "iscrowd": 0,
            "segmentation": {"size": [lengths.height, lengths.width], "counts": lengths.pack()},
            "point": list(self.point),
        }


def instances(labels: np.ndarray, names: Sequence[str], least: int) -> Iterator[Instance]:
    """The connected parts of each word in a label map, from the largest to the smallest; one mask is made at a time.

    Args:
        labels: (H, W) positions of the names, `IGNORE` where there is no label.
        names: the words.
        least: number of pixels that a part must have.
    """
    numbers, categories = np.zeros(labels.shape, dtype=np.int32), [-1]
    for k in range(len(names)):
        if k != IGNORE:
            own, count = label(labels == k, NEIGHBOURS)
            numbers[own > 0] = own[own > 0] + len(categories) - 1
            categories += [k] * count
    areas, places = np.bincount(numbers.flatten(), minlength=len(categories)), find_objects(numbers)
    for number in sorted(range(1, len(categories)), key=lambda number: -areas[number]):
        if areas[number] >= least:
            yield _part(numbers, number, places[number - 1], names[categories[number]], categories[number])


def coco(labels: np.ndarray, names: Sequence[str], file_name: str, least: int = 1) -> dict[str, Any]:
    """The connected parts of a picture as a file of COCO.

    Args:
        labels: see `instances`.
        names: see `instances`.
        file_name: name of the picture.
        least: see `instances`.
    """
    height, width = labels.shape
    parts = enumerate(instances(labels, names, least), start=1)
    return {
        "images": [{"id": 1, "file_name": file_name, "width": width, "height": height}],
        "categories": [{"id": k, "name": name} for k, name in enumerate(names)],
        "annotations": [{"id": number, "image_id": 1} | part.coco() for number, part in parts],
    }


def _part(numbers: np.ndarray, number: int, place: tuple[slice, slice], name: str, category: int) -> Instance:
    """The part of a number in a map of numbers; `place` is the smallest box around it."""
    rows, columns = place
    mask = numbers == number
    depth = distance_transform_edt(np.pad(mask[place], 1))  # the edge of the picture is an edge of the part
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    box = (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
    return Instance(name, category, box, (columns.start + int(x) - 1, rows.start + int(y) - 1), mask)
