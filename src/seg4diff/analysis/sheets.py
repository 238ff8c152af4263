"""Pictures of an analysis that are looked at as they are."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from seg4diff.analysis.album import read_album
from seg4diff.analysis.features import PARTS
from seg4diff.pictures import sheet


def feature_sheets(album: Path, sigmas: Sequence[float]) -> Iterator[tuple[str, Image.Image]]:
    """Principal components of queries, keys and values as colours, a row for each block: (name, sheet) for each image and noise level."""
    for number, pictures in read_album(album, "features").items():
        for level, sigma in enumerate(sigmas):
            blocks = _blocks(pictures, level)
            rows = [[Image.fromarray(pictures[f"level{level}/block{block}/{part}"].numpy()) for part in PARTS] for block in blocks]
            yield f"features-{number}-sigma{sigma:g}", sheet(rows, [f"block {block}" for block in blocks], PARTS)


def _blocks(pictures: Iterable[str], level: int) -> list[int]:
    prefix = f"level{level}/block"
    return sorted({int(name.removeprefix(prefix).split("/")[0]) for name in pictures if name.startswith(prefix)})
