"""COCO-Stuff (171 classes) in its original layout.

    root/{train,val}2017/*.jpg                        images (train2017.zip, val2017.zip)
    root/stuffthingmaps/{train,val}2017/*.png         masks (stuffthingmaps_trainval2017.zip)

A mask pixel is the category id minus one (0..181), 255 = unlabelled; a lookup table makes the 171 used ids contiguous on the fly.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from seg4diff.data.sample import IGNORE, Vocabulary
from seg4diff.data.source import DataSource, Row, SampleDataset
from seg4diff.data.vocabularies import read_vocabulary
from seg4diff.errors import MissingFileError, UserError

ARCHIVES = {"images": "train2017.zip and val2017.zip", "masks": "stuffthingmaps_trainval2017.zip"}
LARGEST_ID = 181
FOLDERS = {"train": "train2017", "validation": "val2017", "test": "val2017"}


class CocoStuff(DataSource):
    """COCO-Stuff with 171 classes.

    Args:
        root: folder with train2017, val2017 and stuffthingmaps.
        captions: JSON file {image stem: caption}, or None: the list of class names in the image is its caption.
        subset: number of training images, drawn by `seed`; None = all.
        seed: seed of the subset.
    """

    def __init__(self, *, root: str, captions: str | None, subset: int | None, seed: int) -> None:
        names = read_vocabulary("coco_stuff")
        self.vocabulary = Vocabulary(tuple(names.values()))
        self._lookup = np.full(IGNORE + 1, IGNORE, dtype=np.uint8)
        self._lookup[[category - 1 for category in names]] = np.arange(len(names))
        self._root, self._captions, self._subset, self._seed = Path(root), captions, subset, seed

    def prepare(self) -> None:
        missing = []
        for folder in dict.fromkeys(FOLDERS.values()):
            if not (self._root / folder).is_dir():
                missing.append(f"images {self._root / folder} (from {ARCHIVES['images']})")
            if not self._mask_folder(folder).is_dir():
                missing.append(f"masks {self._mask_folder(folder)} (from {ARCHIVES['masks']})")
        if self._captions is not None and not Path(self._captions).is_file():
            missing.append(f"captions {self._captions} (a JSON file of image stem: caption)")
        if missing:
            raise MissingFileError(
                f"COCO-Stuff is incomplete, missing: {'; '.join(missing)}. Get the archives from cocodataset.org and "
                "github.com/nightrome/cocostuff, unpack them into one folder and set COCO_ROOT or data.source.root to it."
            )

    def split(self, split: str, image_size: tuple[int, int] | None, resize_mask: bool) -> "CocoStuffDataset":
        images = sorted((self._root / FOLDERS[split]).glob("*.jpg"))
        if split == "train" and self._subset is not None and self._subset < len(images):
            order = torch.randperm(len(images), generator=torch.Generator().manual_seed(self._seed))
            images = [images[k] for k in sorted(order[: self._subset].tolist())]
        captions = self._read_captions()
        if not images:
            raise MissingFileError(f"{self._root / FOLDERS[split]} holds no .jpg: unpack {ARCHIVES['images']} there.")
        uncaptioned = [path.stem for path in images if captions is not None and path.stem not in captions]
        if uncaptioned:
            raise UserError(
                f"{self._captions} has no caption for {len(uncaptioned)} of {len(images)} images, the first is {uncaptioned[0]}."
            )
        masks = self._mask_folder(FOLDERS[split])
        return CocoStuffDataset(images, masks, self._lookup, captions, self.vocabulary, image_size, resize_mask)

    def _read_captions(self) -> dict[str, str] | None:
        if self._captions is None:
            return None
        try:
            captions = json.loads(Path(self._captions).read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{self._captions} is not JSON ({error}): it must be one object of image stem: caption.") from error
        if not isinstance(captions, dict) or not all(isinstance(caption, str) for caption in captions.values()):
            raise UserError(f"{self._captions} must be one JSON object of image stem: caption, both strings.")
        return captions

    def _mask_folder(self, folder: str) -> Path:
        return self._root / "stuffthingmaps" / folder


class CocoStuffDataset(SampleDataset):
    """The samples of one split of `CocoStuff`."""

    def __init__(
        self,
        images: list[Path],
        masks: Path,
        lookup: np.ndarray,
        captions: dict[str, str] | None,
        vocabulary: Vocabulary,
        image_size: Sequence[int] | None,
        resize_mask: bool,
    ) -> None:
        super().__init__(vocabulary, image_size, resize_mask)
        self._images, self._masks, self._lookup, self._captions = images, masks, lookup, captions
        self._names = vocabulary.names

    def __len__(self) -> int:
        return len(self._images)

    def name(self, index: int) -> str:
        return str(self._images[index])

    def row(self, index: int) -> Row:
        path = self._images[index]
        mask_path = self._masks / f"{path.stem}.png"
        values = np.array(Image.open(mask_path))
        if ((values > LARGEST_ID) & (values != IGNORE)).any():
            raise UserError(f"mask {mask_path} holds values above {LARGEST_ID}: a pixel is a category id minus one, {IGNORE} = unlabelled.")
        ids = self._lookup[values]
        if self._captions is None:
            caption = " ".join(self._names[k] for k in np.unique(ids) if k != IGNORE)
        else:
            caption = self._captions[path.stem]
        return Row(image=Image.open(path), mask=Image.fromarray(ids), caption=caption, name=str(path), mask_name=str(mask_path))
