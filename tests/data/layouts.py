"""Miniatures of data sets in their original layouts."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (3, 5)
"""Height and width of the images."""


def palette(values: np.ndarray) -> Image.Image:
    """A mode P picture whose colours are far from its indices, so that a conversion to grey would be noticed."""
    mask = Image.fromarray(values.astype(np.uint8))
    mask.putpalette([(97 * k + 31) % 256 for k in range(768)])
    assert mask.mode == "P"
    return mask


def write(image: Path, mask: Path, values: np.ndarray) -> None:
    """One image with its mask."""
    for file in (image, mask):
        file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", values.shape[::-1], (40, 80, 120)).save(image)
    palette(values).save(mask)


def lines(file: Path, names: Iterable[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{name}\n" for name in names))


@dataclass(frozen=True)
class Layout:
    """Where a data set has its files: in its `images` and `masks` folders, by one key, with a suffix of their own.

    {split} stands for what the data set calls the split, {short} for "train" or "val".
    """

    images: str
    masks: str
    key: str
    suffixes: tuple[str, str] = (".jpg", ".png")
    train: str = "train"
    val: str = "val"
    listed: str | None = None

    def name(self, split: str, k: int) -> str:
        """How lists write image number `k` of "train" or "val"."""
        return self.key.format(short=split, k=k, city=("aachen", "ulm")[k // 2 % 2])

    def folders(self, root: Path, split: str) -> tuple[Path, Path]:
        return tuple(root / folder.format(split=getattr(self, split)) for folder in (self.images, self.masks))

    def pair(self, root: Path, split: str, k: int) -> tuple[Path, Path]:
        """Image and mask number `k`."""
        folders = self.folders(root, split)
        return tuple(folder / (self.name(split, k) + suffix) for folder, suffix in zip(folders, self.suffixes, strict=True))

    def write(self, root: Path) -> Path:
        """Four images for each split; the lists are not sorted."""
        for split in ("train", "val"):
            for k in range(4):
                write(*self.pair(root, split, k), values_of(split, k))
            if self.listed is not None:
                lines(root / self.listed.format(split=split), [self.name(split, k) for k in (2, 0, 3, 1)])
        return root


def values_of(split: str, k: int) -> np.ndarray:
    """Values that every data set defines, other ones in every image."""
    return np.random.default_rng([k, len(split)]).integers(7, 21, SIZE)


COCO = Layout("{split}", "stuffthingmaps/{split}", "{k:012d}", train="train2017", val="val2017")
VOC = Layout("JPEGImages", "SegmentationClass", "2007_{short}{k}", listed="ImageSets/Segmentation/{split}.txt")
CONTEXT = Layout("JPEGImages", "SegmentationClassContext", "2008_{short}{k}", listed="ImageSets/SegmentationContext/{split}.txt")
ADE = Layout("images/{split}", "annotations/{split}", "ADE_{short}_{k:08d}", train="training", val="validation")
CITYSCAPES = Layout("leftImg8bit/{split}", "gtFine/{split}", "{city}/{city}_{k:06d}_000019", ("_leftImg8bit.png", "_gtFine_labelIds.png"))


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's counts, one pixel at a time: column by column, beginning with zeros."""
    counts, value = [0], False
    for pixel in mask.T.ravel():
        if bool(pixel) == value:
            counts[-1] += 1
        else:
            counts.append(1)
            value = not value
    return counts


def packed(counts: list[int]) -> str:
    """COCO's string of the counts, one number at a time."""
    text = ""
    for k, number in enumerate(counts):
        rest, more = number - (counts[k - 2] if k > 2 else 0), True
        while more:
            bits, rest = rest & 31, rest >> 5
            more = rest != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
    return text


def sa1b(folder: Path, stem: str, masks: list[np.ndarray], pack: bool) -> None:
    """One image of SA-1B with its masks."""
    folder.mkdir(parents=True, exist_ok=True)
    height, width = masks[0].shape
    Image.new("RGB", (width, height), (200, 100, 0)).save(folder / f"{stem}.jpg")
    annotations = [
        {
            "id": 500 + k,
            "area": int(mask.sum()),
            "bbox": [0, 0, width, height],
            "predicted_iou": 0.9,
            "segmentation": {"size": [height, width], "counts": packed(run_lengths(mask)) if pack else run_lengths(mask)},
        }
        for k, mask in enumerate(masks)
    ]
    image = {"image_id": 1, "width": width, "height": height, "file_name": f"{stem}.jpg"}
    (folder / f"{stem}.json").write_text(json.dumps({"image": image, "annotations": annotations}))
