"""SA-1B as its archives unpack: many masks per image, without names.

    root/**/sa_*.jpg      images (sa_000000.tar ... from ai.meta.com/datasets/segment-anything-downloads)
    root/**/sa_*.json     masks beside them: {"annotations": [{"segmentation": {"size": [height, width], "counts": COCO run lengths}}, ...]}

One flat folder, or one folder per archive.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from seg4diff.data.files import Folder, Pairs, parse_json
from seg4diff.data.paired import PairedFiles
from seg4diff.data.reading import UnreadableError, read_image, reading
from seg4diff.data.rle import RunLengths
from seg4diff.data.sample import Vocabulary
from seg4diff.data.source import Row, Rows
from seg4diff.errors import UserError

ARCHIVE = "the tars of SA-1B"
AGAIN = f"take it from {ARCHIVE} again"


class Sa1b(PairedFiles):
    """SA-1B, for training; its masks have no classes to evaluate (`TrainAndEvaluate` adds a data set that has).

    Args:
        root: folder of the unpacked archives.
        captions: JSON file {image stem: caption}, or None: captions are empty.
        subset: number of images, drawn by `seed`; None = all.
        seed: seed of the subset.
        smallest: masks below this fraction of the image are left out.
        most: number of masks of an image, the largest first.
        lists: see `PairedFiles`.
    """

    title, variable = "SA-1B", "SA1B_ROOT"
    advice = "Get some of its archives from ai.meta.com/datasets/segment-anything-downloads, unpack them into one folder"

    def __init__(
        self,
        *,
        root: str,
        captions: str | None,
        subset: int | None,
        seed: int,
        smallest: float,
        most: int,
        lists: dict[str, str | None] | None = None,
    ) -> None:
        super().__init__(root=root, captions=captions, subset=subset, seed=seed, lists=lists)
        if not 0 <= smallest < 1 or most < 1:
            raise UserError(f"`smallest` must be a fraction in [0, 1) and `most` at least 1, found {smallest} and {most}.")
        self.vocabulary = Vocabulary(())
        self._smallest, self._most = smallest, most

    def files(self, split: str) -> Pairs:
        """All images; there is one split."""
        if split != "train":
            raise UserError(f"SA-1B has no class names and no {split} split: evaluate on another data set, with TrainAndEvaluate.")
        return Pairs(
            images=Folder((self._root,), ".jpg", ARCHIVE, prefix="sa_"), masks=Folder((self._root,), ".json", ARCHIVE, prefix="sa_")
        )

    def rows(self, split: str) -> "Sa1bRows":
        """The images of a split with their masks."""
        keys = self.keys(split)
        return Sa1bRows(self.pairs(split), keys, self.captions(split, keys), self._smallest, self._most)


class Sa1bRows(Rows):
    """The rows of `Sa1b`."""

    def __init__(self, pairs: Pairs, keys: list[str], captions: dict[str, str], smallest: float, most: int) -> None:
        self._pairs, self._keys, self._captions = pairs, keys, captions
        self._smallest, self._most = smallest, most

    def __len__(self) -> int:
        return len(self._keys)

    def name(self, index: int) -> str:
        return str(self._pairs.images.file(self._keys[index]))

    def __getitem__(self, index: int) -> Row:
        path, mask_path = Path(self.name(index)), self._pairs.masks.file(self._keys[index])
        image = read_image(path, str(path), AGAIN)
        regions = self._drawn(mask_path, image.height, image.width)
        caption = self._captions.get(path.stem, "")
        return Row(image=image, mask=None, caption=caption, name=str(path), mask_name=str(mask_path), regions=regions)

    def _drawn(self, path: Path, height: int, width: int) -> Iterator[np.ndarray]:
        """The largest masks, drawn one at a time: at the size of SA-1B all at once would fill the memory."""
        masks = read_masks(path)
        if odd := [mask for mask in masks if (mask.height, mask.width) != (height, width)]:
            raise UserError(
                f"a mask in {path} is {odd[0].width} x {odd[0].height} pixels, its image {width} x {height}: "
                f"an image and its masks must have one size, {AGAIN}."
            )
        kept = [mask for mask in masks if mask.area >= max(self._smallest * height * width, 1)]
        return (mask.draw() for mask in sorted(kept, key=lambda mask: -mask.area)[: self._most])


def read_masks(path: Path) -> list[RunLengths]:
    """The masks of one image's JSON file."""
    with reading(f"the mask {path}", AGAIN):
        text = path.read_bytes()
    try:
        return [RunLengths.parse(one["segmentation"]) for one in parse_json(text)["annotations"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UnreadableError(
            f"{path} does not hold masks as SA-1B writes them, annotations with run lengths ({error!r}): {AGAIN}."
        ) from error
