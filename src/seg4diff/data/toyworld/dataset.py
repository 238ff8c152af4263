"""The toy world as a Hugging Face data set with the columns image, mask, instances, caption and name."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets
from PIL import Image

from seg4diff.data.sample import Vocabulary
from seg4diff.data.source import SPLITS, DataSource
from seg4diff.data.table import TableRows
from seg4diff.data.toyworld.scenes import CLASS_NAMES, make_scene
from seg4diff.errors import UserError


def drawing_code() -> str:
    """Fingerprint of the code that draws: scenes kept from other code are not read again."""
    folder = Path(__file__).parent
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(folder.glob("*.py")))).hexdigest()[:16]


def _rows(seed: int, split: str, indices: list[int], side: int, height: int, code: str) -> Iterator[dict]:
    top = (side - height) // 2
    kept = slice(top, top + height)
    for index in indices:
        scene = make_scene(seed, split, index, side)
        yield {
            "image": Image.fromarray(scene.image[kept]),
            "mask": Image.fromarray(scene.mask[kept]),
            "instances": Image.fromarray(scene.instances[kept]),
            "caption": scene.caption,
            "name": f"{split}-{index:06d}",
        }


class ToyWorld(DataSource):
    """Captioned scenes with exact masks, drawn on first use and kept as Arrow files under `root`.

    Args:
        root: folder for the drawn scenes; they are a function of the other arguments and can be deleted at any time.
        seed: seed of the world; other seeds give other scenes.
        side: image height and width in pixels.
        height: rows that are kept, those in the middle, so that images are wide and things are cut off as in photographs; None = all.
        sizes: number of scenes of each split: {"train": ..., "validation": ..., "test": ...}.
    """

    def __init__(self, *, root: str, seed: int, side: int, sizes: dict[str, int], height: int | None = None) -> None:
        self.vocabulary = Vocabulary(CLASS_NAMES)
        if height is not None and not 0 < height <= side:
            raise UserError(f"`height` must be in 1..{side} (the side of the scenes), found {height}.")
        if min(sizes.values()) < 1:
            raise UserError(f"`sizes` must be at least 1 for every split, found {dict(sizes)}.")
        self.seed, self.side = seed, side
        self._root, self._sizes = Path(root), dict(sizes)
        self._height = side if height is None else height

    def table(self, split: str) -> datasets.Dataset:
        """The rows of one split; drawn once, then read from disk."""
        picture = datasets.Image()
        text = datasets.Value("string")
        return datasets.Dataset.from_generator(
            _rows,
            gen_kwargs={
                "seed": self.seed,
                "split": split,
                "indices": list(range(self._sizes[split])),
                "side": self.side,
                "height": self._height,
                "code": drawing_code(),
            },
            features=datasets.Features({"image": picture, "mask": picture, "instances": picture, "caption": text, "name": text}),
            cache_dir=str(self._root),
            split=split,
        )

    def prepare(self, splits: Sequence[str] = SPLITS) -> None:
        for split in splits:
            if split in self._sizes:
                self.table(split)

    def rows(self, split: str) -> TableRows:
        """The scenes of a split."""
        table = self.table(split)
        return TableRows(table.select_columns(["image", "mask", "caption"]), table["name"])
