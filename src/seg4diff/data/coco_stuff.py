"""COCO-Stuff and COCO-Object in the original layout of COCO-Stuff.

    root/{train,val}2017/*.jpg                        images (train2017.zip, val2017.zip)
    root/stuffthingmaps/{train,val}2017/*.png         masks (stuffthingmaps_trainval2017.zip)

A mask pixel is the category id minus one (0..181), 255 = unlabelled. Vocabularies: coco_stuff (171 classes), coco_stuff_27 (their groups),
coco_object (80 things; 81 classes with background, which is every labelled pixel that is no thing).
"""

from seg4diff.data.files import Folder, Pairs
from seg4diff.data.labelled import LabelledImages

FOLDERS = {"train": "train2017", "validation": "val2017", "test": "val2017"}


class CocoStuff(LabelledImages):
    """COCO-Stuff, its coarse groups, or its things alone.

    Args:
        root: folder with train2017, val2017 and stuffthingmaps.
        captions: JSON file {image stem: caption}, or None: the list of class names in the image is its caption.
        subset: number of training images, drawn by `seed`; None = all.
        seed: seed of the subset.
        vocabulary: coco_stuff, coco_stuff_27 or coco_object.
        background: whether labelled pixels without a class are class 0 "background" (True) or ignored (False).
        lists: see `PairedFiles`; the groups of 27 are often evaluated on the 2175 images that PiCIE lists.
    """

    title, variable = "COCO-Stuff", "COCO_ROOT"
    advice = "Get the archives from cocodataset.org and github.com/nightrome/cocostuff, unpack them into one folder"
    largest, first_id = 181, 1

    def __init__(
        self,
        *,
        root: str,
        captions: str | None,
        subset: int | None,
        seed: int,
        vocabulary: str = "coco_stuff",
        background: bool = False,
        lists: dict[str, str | None] | None = None,
    ) -> None:
        super().__init__(root=root, vocabulary=vocabulary, background=background, captions=captions, subset=subset, seed=seed, lists=lists)

    def files(self, split: str) -> Pairs:
        """Images of {train,val}2017 and their stuffthingmaps."""
        folder = FOLDERS[split]
        return Pairs(
            images=Folder((self._root / folder,), ".jpg", f"{folder}.zip"),
            masks=Folder((self._root / "stuffthingmaps" / folder,), ".png", "stuffthingmaps_trainval2017.zip"),
        )
