"""Data sets of images with label maps, whose values a vocabulary names: a lookup table while reading, no converted copies."""

from typing import ClassVar

import numpy as np

from seg4diff.data.files import Pairs
from seg4diff.data.paired import PairedFiles
from seg4diff.data.reading import read_image, read_labels
from seg4diff.data.sample import IGNORE, Vocabulary
from seg4diff.data.source import Row, Rows
from seg4diff.data.vocabularies import read_vocabulary
from seg4diff.errors import UserError


class Labelling:
    """What the mask values of a data set mean.

    Args:
        names: mask value -> class name. Several values may share a name; classes are numbered as their names first appear.
        largest: largest value that the data set defines.
        background: values without a name, up to `largest`, are class 0 "background" (True) or ignored (False).
    """

    def __init__(self, names: dict[int, str], largest: int, background: bool) -> None:
        classes = list(dict.fromkeys([*(["background"] if background else []), *names.values()]))
        self.vocabulary = Vocabulary(tuple(classes), background=0 if background else None)
        self._largest, self._table = largest, np.full(IGNORE + 1, IGNORE, dtype=np.uint8)
        self._table[: largest + 1] = 0 if background else IGNORE
        for value, name in names.items():
            self._table[value] = classes.index(name)

    def decode(self, values: np.ndarray, path: str, archive: str) -> np.ndarray:
        """Mask values (H, W) as class ids; `path` and `archive` are named in errors."""
        odd = np.unique(values[(values > self._largest) & (values != IGNORE)])
        if odd.size:
            raise UserError(
                f"mask {path} holds values above {self._largest}: {odd[:5].tolist()}. This data set defines 0..{self._largest} and "
                f"{IGNORE} (ignored): take the mask from {archive} again, or read a format of your own as an image folder."
            )
        return self._table.take(values)


class LabelledImages(PairedFiles):
    """Images with label maps, whose values a vocabulary file names.

    Args:
        root: see `PairedFiles`.
        vocabulary: file of data/vocabularies, without .txt.
        background: mask values that it does not name are class 0 "background" (True) or ignored (False). 255 is always ignored.
        captions: see `PairedFiles`; None: the list of class names in an image is its caption.
        subset: see `PairedFiles`.
        seed: see `PairedFiles`.
        lists: see `PairedFiles`.
    """

    largest: ClassVar[int]
    """Largest mask value."""
    first_id: ClassVar[int] = 0
    """Id, in the vocabulary file, of mask value 0."""

    def __init__(
        self,
        *,
        root: str,
        vocabulary: str,
        background: bool,
        captions: str | None,
        subset: int | None,
        seed: int,
        lists: dict[str, str | None] | None = None,
    ) -> None:
        super().__init__(root=root, captions=captions, subset=subset, seed=seed, lists=lists)
        names = {value - self.first_id: name for value, name in read_vocabulary(vocabulary).items()}
        self._labelling = Labelling(names, self.largest, background)
        self.vocabulary = self._labelling.vocabulary

    def rows(self, split: str) -> "LabelledRows":
        """The images of a split with their label maps."""
        keys = self.keys(split)
        return LabelledRows(self.pairs(split), keys, self._labelling, self.captions(split, keys))


class LabelledRows(Rows):
    """The rows of one split of `LabelledImages`."""

    def __init__(self, pairs: Pairs, keys: list[str], labelling: Labelling, captions: dict[str, str]) -> None:
        self._pairs, self._keys, self._labelling, self._captions = pairs, keys, labelling, captions

    def __len__(self) -> int:
        return len(self._keys)

    def name(self, index: int) -> str:
        return str(self._pairs.images.file(self._keys[index]))

    def __getitem__(self, index: int) -> Row:
        images, masks = self._pairs.images, self._pairs.masks
        path, mask_path = images.file(self._keys[index]), masks.file(self._keys[index])
        image = read_image(path, str(path), f"take it from {images.archive} again")
        mask = read_labels(mask_path, str(mask_path), f"take it from {masks.archive} again")
        return Row(
            image=image,
            mask=self._labelling.decode(mask, str(mask_path), masks.archive),
            caption=self._captions.get(path.stem),
            name=str(path),
            mask_name=str(mask_path),
        )
