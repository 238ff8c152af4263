"""Cityscapes as it is unpacked.

    root/leftImg8bit/{train,val}/<city>/*_leftImg8bit.png         images (leftImg8bit_trainvaltest.zip)
    root/gtFine/{train,val}/<city>/*_gtFine_labelIds.png          masks of label ids 0..33 (gtFine_trainvaltest.zip)

Vocabularies: cityscapes (the 19 classes of the benchmark) and cityscapes_27 (label ids 7..33, as PiCIE and STEGO evaluate); other label
ids are ignored. The test split has no public labels, so "test" is val.
"""

from seg4diff.data.files import Folder, Pairs
from seg4diff.data.labelled import LabelledImages


class Cityscapes(LabelledImages):
    """Cityscapes, 19 or 27 classes; `root` holds leftImg8bit and gtFine."""

    title, variable = "Cityscapes", "CITYSCAPES_ROOT"
    advice = "Get the archives from cityscapes-dataset.com, unpack them into one folder"
    largest = 33

    def files(self, split: str) -> Pairs:
        """The cities of train or val."""
        folder = "train" if split == "train" else "val"
        return Pairs(
            images=Folder((self._root / "leftImg8bit" / folder,), "_leftImg8bit.png", "leftImg8bit_trainvaltest.zip"),
            masks=Folder((self._root / "gtFine" / folder,), "_gtFine_labelIds.png", "gtFine_trainvaltest.zip"),
        )
