"""What data sets of image and mask files have in common: the check before a run, lists, subsets, captions."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch

from seg4diff.data.captions import REMEDY, Captions
from seg4diff.data.files import Pairs
from seg4diff.data.source import SPLITS, DataSource
from seg4diff.errors import MissingFileError, UserError


class PairedFiles(DataSource):
    """A data set whose every image is a file with a mask file beside it.

    A subclass gives its title, the environment variable that its configuration reads for `root`, where to get the data, and the files
    of a split.

    Args:
        root: folder of the data set.
        captions: JSON file {image stem: caption} with a caption for every training image, or None.
        subset: number of training images, drawn by `seed`; None = all.
        seed: seed of the subset.
        lists: a text file for some splits, one image per line, that says which images make it up: {"train": ..., "test": ...}.
            An image is written as in the data set's own lists: its path below the folder of images, without the suffix.
    """

    title: ClassVar[str]
    variable: ClassVar[str]
    advice: ClassVar[str]

    def __init__(
        self, *, root: str, captions: str | None, subset: int | None, seed: int, lists: dict[str, str | None] | None = None
    ) -> None:
        if subset is not None and subset < 1:
            raise UserError(f"`subset` must be a number of images, at least 1, found {subset}.")
        self._root, self._captions = Path(root), Captions(captions)
        self._subset, self._seed, self._lists = subset, seed, {split: file for split, file in (lists or {}).items() if file}

    @abstractmethod
    def files(self, split: str) -> Pairs:
        """Where the images and masks of "train", "validation" or "test" are."""

    def prepare(self, splits: Sequence[str] = SPLITS) -> None:
        missing = [problem for pairs in dict.fromkeys(map(self.pairs, splits)) for problem in pairs.problems()]
        uncaptioned = []
        if "train" in splits:
            uncaptioned = self._captions.problems([] if missing else self._stems("train", self.keys("train")))
        advice = []
        if missing:
            advice.append(f"{self.advice} and set {self.variable} or `root` to it; where only a part is wanted, `lists` says which images.")
        if uncaptioned:
            advice.append(f"For the captions, {REMEDY}.")
        if advice:
            raise MissingFileError(f"{self.title} is incomplete, missing: {'; '.join(missing + uncaptioned)}. {' '.join(advice)}")

    def keys(self, split: str) -> list[str]:
        """The images of a split, after the lists and the subset."""
        keys = self.pairs(split).keys()
        if split != "train" or self._subset is None or self._subset >= len(keys):
            return keys
        order = torch.randperm(len(keys), generator=torch.Generator().manual_seed(self._seed))
        return [keys[k] for k in sorted(order[: self._subset].tolist())]

    def captions(self, split: str, keys: Sequence[str]) -> dict[str, str]:
        """Captions by image stem. Every training image has one where a file is given; evaluation reads none."""
        return self._captions.of(self._stems(split, keys)) if split == "train" else self._captions.read()

    def _stems(self, split: str, keys: Sequence[str]) -> list[str]:
        images = self.pairs(split).images
        return [images.file(key).stem for key in keys]

    def pairs(self, split: str) -> Pairs:
        """The files of a split; its list is the one that the configuration gives, where it does."""
        pairs = self.files(split)
        return replace(pairs, listed=Path(self._lists[split]), list_archive="`lists`") if split in self._lists else pairs
