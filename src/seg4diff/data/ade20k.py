"""ADE20K with the 150 classes of the scene parsing challenge, as it is unpacked.

    root/images/{training,validation}/*.jpg               images (ADEChallengeData2016.zip)
    root/annotations/{training,validation}/*.png          masks: 1..150, 0 = another class (the same archive)

Pixels of another class are ignored.
"""

from seg4diff.data.files import Folder, Pairs
from seg4diff.data.labelled import LabelledImages

ARCHIVE = "ADEChallengeData2016.zip"


class Ade20k(LabelledImages):
    """ADE20K-150; `root` is ADEChallengeData2016."""

    title, variable = "ADE20K", "ADE20K_ROOT"
    advice = f"Get {ARCHIVE} from sceneparsing.csail.mit.edu, unpack it"
    largest = 150

    def files(self, split: str) -> Pairs:
        """The folders training and validation."""
        folder = "training" if split == "train" else "validation"
        return Pairs(
            images=Folder((self._root / "images" / folder,), ".jpg", ARCHIVE),
            masks=Folder((self._root / "annotations" / folder,), ".png", ARCHIVE),
        )
