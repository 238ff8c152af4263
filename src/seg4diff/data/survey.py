"""What the images and masks of a split hold, one by one and together; what is wrong with them is collected and stops nothing."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from seg4diff.data.geometry import Size, size_of
from seg4diff.data.sample import IGNORE, Vocabulary
from seg4diff.data.source import SampleDataset
from seg4diff.errors import UserError


@dataclass(frozen=True)
class Finding:
    """What one image and its mask hold.

    Attributes:
        index: position in the split.
        name: the image.
        problem: why it cannot be used; the other fields are then empty.
        size: (height, width) of the image.
        pixels: class id -> number of pixels, `IGNORE` among them; None = there is no label map.
        regions: number of masks without names; None = there are none in this data set.
        caption: whether it has a caption of its own.
        content: the same for images of the same pixels, and for no others.
    """

    index: int
    name: str
    problem: str | None = None
    size: Size = (0, 0)
    pixels: dict[int, int] | None = None
    regions: int | None = None
    caption: bool = False
    content: str = ""


class _Findings(Dataset):
    """The findings of a split, made where its samples are read: in loader processes."""

    def __init__(self, samples: SampleDataset) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Finding:
        name = self._samples.name(index)
        try:
            row, labels = self._samples.read(index)
            regions = None if row.regions is None else sum(1 for _ in row.regions)
        except UserError as error:
            return Finding(index, name, problem=str(error))
        counts = torch.bincount(labels.flatten()).tolist()
        pixels = None if row.mask is None else {k: count for k, count in enumerate(counts) if count}
        content = hashlib.sha256(repr(row.image.size).encode() + row.image.tobytes()).hexdigest()
        return Finding(index, name, None, size_of(labels), pixels, regions, bool(row.caption), content)


def survey(samples: SampleDataset, indices: Sequence[int], num_workers: int) -> Iterator[Finding]:
    """Open these images and masks, in order.

    Args:
        samples: a split.
        indices: which of its images.
        num_workers: loader processes.
    """
    yield from DataLoader(_Findings(samples), batch_size=None, sampler=list(indices), num_workers=num_workers)


@dataclass
class Summary:
    """What the images of a split hold together.

    Attributes:
        vocabulary: its classes.
        names: the images of the split, opened or not.
        opened: number of images that were opened.
        problems: image -> why it cannot be used.
        sizes: (height, width) -> number of images.
        captions: number of images with a caption of their own.
        labelled: number of images with a label map.
        class_images: class id -> number of images that it is in.
        class_pixels: class id -> number of pixels, `IGNORE` among them.
        unlabelled: images with a label map that is ignored everywhere.
        regions: number of masks without names -> number of images with as many; empty where the data set has none.
        contents: opened image -> its content.
    """

    vocabulary: Vocabulary
    names: Sequence[str]
    opened: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    sizes: Counter = field(default_factory=Counter)
    captions: int = 0
    labelled: int = 0
    class_images: Counter = field(default_factory=Counter)
    class_pixels: Counter = field(default_factory=Counter)
    unlabelled: list[str] = field(default_factory=list)
    regions: Counter = field(default_factory=Counter)
    contents: dict[str, str] = field(default_factory=dict)

    def add(self, found: Finding) -> None:
        """Count one image."""
        self.opened += 1
        if found.problem is not None:
            self.problems[found.name] = found.problem
            return
        self.sizes[found.size] += 1
        self.contents[found.name] = found.content
        self.captions += found.caption
        if found.regions is not None:
            self.regions[found.regions] += 1
        if found.pixels is not None:
            self.labelled += 1
            self.class_pixels.update(found.pixels)
            self.class_images.update(found.pixels.keys() - {IGNORE})
            if found.pixels.keys() == {IGNORE}:
                self.unlabelled.append(found.name)

    @property
    def ignored(self) -> float:
        """Share of the pixels of label maps that is ignored."""
        return self.class_pixels[IGNORE] / max(1, self.class_pixels.total())

    @property
    def absent(self) -> list[str]:
        """Classes that no image has."""
        return [name for k, name in enumerate(self.vocabulary.names) if not self.class_images[k]]

    @property
    def images(self) -> int:
        """Number of images in the split, opened or not."""
        return len(self.names)

    @property
    def scorable(self) -> bool:
        """Whether there is anything to score: a labelled pixel, or label maps that were not opened."""
        return not self.labelled or self.opened < self.images or len(self.unlabelled) < self.labelled

    def places(self) -> dict[str, list[str]]:
        """A file, or the content of an opened one -> every image of the split that is it."""
        places: dict[str, list[str]] = {}
        for name in self.names:
            for key in {os.path.normpath(name), self.contents.get(name, "")} - {""}:
                places.setdefault(key, []).append(name)
        return places

    @property
    def repeated(self) -> list[list[str]]:
        """Images that are in the split several times: as one file, or as opened ones of the same pixels."""
        groups = {tuple(sorted(names)) for names in self.places().values() if len(names) > 1}
        return sorted(map(list, groups))

    def shared(self, other: "Summary") -> list[str]:
        """Images of this split that are in another one too."""
        theirs = other.places()
        return sorted({name for key, names in self.places().items() if key in theirs for name in names})

    @property
    def mean_regions(self) -> float:
        """Masks without names of an image, on average."""
        return sum(number * count for number, count in self.regions.items()) / max(1, self.regions.total())

    def shares(self) -> dict[str, float]:
        """Class -> its share of the labelled pixels, for the classes that are present."""
        pixels = {name: self.class_pixels[k] for k, name in enumerate(self.vocabulary.names) if self.class_pixels[k]}
        return {name: count / sum(pixels.values()) for name, count in pixels.items()}

    def report(self) -> dict[str, Any]:
        """Everything as plain values, for a JSON file."""
        report: dict[str, Any] = {"images": self.images, "opened": self.opened, "with_caption": self.captions, "problems": self.problems}
        report["repeated"] = self.repeated
        report["sizes"] = {f"{height} x {width}": count for (height, width), count in self.sizes.most_common()}
        if self.labelled:
            report |= {"ignored": self.ignored, "unlabelled": self.unlabelled, "absent": self.absent}
            images = {name: self.class_images[k] for k, name in enumerate(self.vocabulary.names)}
            report["classes"] = {name: {"images": images[name], "pixels": share} for name, share in self.shares().items()}
        if self.regions:
            report["regions"] = {"mean": self.mean_regions, "most": max(self.regions), "images_without": self.regions[0]}
        return report
