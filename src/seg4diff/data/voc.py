"""PASCAL VOC 2012 segmentation as it is unpacked.

    root/JPEGImages/*.jpg                                 images (VOCtrainval_11-May-2012.tar)
    root/SegmentationClass/*.png                          masks: palette PNGs, 0 = background, 1..20, 255 = void (the same archive)
    root/ImageSets/Segmentation/{train,val}.txt           one image per line (the same archive)
    root/SegmentationClassAug/*.png, .../trainaug.txt     optional: the training masks of the Semantic Boundaries Dataset

The last are made by mmsegmentation's tools/dataset_converters/voc_aug.py; with them, there are 10,582 training images and not 1,464.
VOC20 ignores the background, VOC21 scores it.
"""

from pathlib import Path

from seg4diff.data.files import Folder, Pairs
from seg4diff.data.labelled import LabelledImages

ARCHIVE = "VOCtrainval_11-May-2012.tar"


class Voc(LabelledImages):
    """PASCAL VOC 2012, 20 classes or 21 with background; `root` is VOCdevkit/VOC2012."""

    title, variable = "PASCAL VOC 2012", "VOC_ROOT"
    advice = "Get the archive from host.robots.ox.ac.uk/pascal/VOC/voc2012, unpack it to VOCdevkit/VOC2012"
    largest = 20

    def files(self, split: str) -> Pairs:
        """The lists of ImageSets/Segmentation; training takes the additional masks where they are there."""
        lists = self._root / "ImageSets" / "Segmentation"
        masks: tuple[Path, ...] = (self._root / "SegmentationClass",)
        listed = lists / ("train.txt" if split == "train" else "val.txt")
        added = self._root / "SegmentationClassAug"
        if split == "train" and added.is_dir():
            masks, listed = (*masks, added), lists / "trainaug.txt"  # VOC's own mask first: not every one is among the added
        return Pairs(
            images=Folder((self._root / "JPEGImages",), ".jpg", ARCHIVE),
            masks=Folder(masks, ".png", ARCHIVE),
            listed=listed,
            list_archive=f"{ARCHIVE}; trainaug.txt from mmsegmentation's voc_aug.py",
        )
