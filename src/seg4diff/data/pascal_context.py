"""PASCAL Context, 59 classes, on the images of VOC 2010.

    root/JPEGImages/*.jpg                                 images (VOCtrainval_03-May-2010.tar)
    root/SegmentationClassContext/*.png                   masks: 0 = background, 1..59 in the alphabetical order of the names
    root/ImageSets/SegmentationContext/{train,val}.txt    one image per line

Masks and lists are made from trainval_merged.json (codalabuser.blob.core.windows.net/public/trainval_merged.json) by mmsegmentation's
tools/dataset_converters/pascal_context.py, which writes them where they are read here. PC59 ignores the background, PC60 scores it.
"""

from seg4diff.data.files import Folder, Pairs
from seg4diff.data.labelled import LabelledImages

TOOL = "trainval_merged.json with mmsegmentation's tools/dataset_converters/pascal_context.py"


class PascalContext(LabelledImages):
    """PASCAL Context, 59 classes or 60 with background; `root` is VOCdevkit/VOC2010."""

    title, variable = "PASCAL Context", "PASCAL_CONTEXT_ROOT"
    advice = "Get the images from host.robots.ox.ac.uk/pascal/VOC/voc2010, unpack them to VOCdevkit/VOC2010, make the masks there"
    largest = 59

    def files(self, split: str) -> Pairs:
        """The lists of ImageSets/SegmentationContext."""
        return Pairs(
            images=Folder((self._root / "JPEGImages",), ".jpg", "VOCtrainval_03-May-2010.tar"),
            masks=Folder((self._root / "SegmentationClassContext",), ".png", TOOL),
            listed=self._root / "ImageSets" / "SegmentationContext" / ("train.txt" if split == "train" else "val.txt"),
            list_archive=TOOL,
        )
