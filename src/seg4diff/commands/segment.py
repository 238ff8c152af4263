"""`seg4diff segment`: a picture or a folder of them; docs/segment.md says what is written."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from rich.progress import track

from seg4diff.backbones.loading import quiet_hosts
from seg4diff.commands.outputs import check_output_dir, results_folder
from seg4diff.data.files import walk
from seg4diff.data.geometry import GEOMETRIES
from seg4diff.data.reading import UnreadableError
from seg4diff.data.vocabularies import read_classes
from seg4diff.disk import write_json, write_text
from seg4diff.errors import MissingFileError, UserError
from seg4diff.inputs import check_words
from seg4diff.loading import load
from seg4diff.provenance import provenance
from seg4diff.results import Segmentation

log = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def segment_files(
    path: Path,
    words: Sequence[str] | None,
    *,
    words_file: Path | None = None,
    recursive: bool = False,
    out: Path | None = None,
    geometry: str = "letterbox",
    background: float | None = None,
    threshold: float | None = None,
    load_options: dict[str, Any] | None = None,
) -> Path:
    """Segment a picture, or all pictures of a folder but those that cannot be read.

    Args:
        path: the picture or the folder.
        words: what to look for; None: regions without words.
        words_file: a text file with one word per line, instead.
        recursive: whether the folders in the folder are searched too.
        out: folder of the results; None: outputs/segment/<time>.
        geometry: see `Model.segment`.
        background: see `Model.segment`.
        threshold: see `Model.segment`.
        load_options: arguments of `seg4diff.load`.

    Returns:
        The folder of the results, in the layout that `data=folder` reads.

    Raises:
        UserError: there is no picture, no picture can be read, the words are no words, or the folder holds results.
    """
    if words_file is not None:
        if words:
            raise UserError("give words or a file of words, not both.")
        words = read_classes(words_file, "words_file")
    asked = None if words is None else check_words(words)
    placing = next((own for own in GEOMETRIES if own == geometry), None)
    if placing is None:
        raise UserError(f"--geometry must be one of {', '.join(GEOMETRIES)}, found '{geometry}'.")
    pictures = find_pictures(path, recursive)
    if out is not None:
        check_output_dir(out, None)
    quiet_hosts()
    model = load(**load_options or {})

    def read(file: Path) -> Segmentation:
        found = model.segment(file, asked, geometry=placing, background=background, threshold=threshold)
        assert isinstance(found, Segmentation), "one picture has one result"
        return found

    unreadable: list[UnreadableError] = []
    results = _segmented(read, pictures, unreadable)
    first = next(results, None)  # finds what is wrong before anything is written
    if first is None:
        raise unreadable[0]
    with results_folder(out, "segment") as folder:
        write_json(folder / "provenance.json", provenance() | {"block": model.block, "image_size": list(model.image_size)})
        count = _write(chain([first], results), pictures, asked or (), folder)
        for reason in unreadable:
            log.warning("left out: %s", reason)
        log.info("segmented %d of %d pictures, see %s", count, len(pictures), folder / "overlays")
    return folder


def _segmented(
    read: Callable[[Path], Segmentation], pictures: Mapping[str, Path], unreadable: list[UnreadableError]
) -> Iterator[tuple[str, Segmentation]]:
    """Names of results and results, one by one; `unreadable` takes the errors of pictures that cannot be read."""
    for stem, file in track(pictures.items(), "segmenting"):
        try:
            yield stem, read(file)
        except UnreadableError as error:
            unreadable.append(error)


def _write(results: Iterable[tuple[str, Segmentation]], pictures: Mapping[str, Path], names: Sequence[str], folder: Path) -> int:
    """Write results as they come, then what a data set needs beside them; returns their number."""
    rows = []
    for stem, found in results:
        found.save(folder, stem)
        names = max(names, found.names, key=len)
        rows.append(json.dumps({"file_name": str(pictures[stem].resolve()), "mask_file_name": f"labels/{stem}.png"}) + "\n")
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in names))
    write_text(folder / "metadata.jsonl", "".join(rows))
    return len(rows)


def find_pictures(path: Path, recursive: bool = False) -> dict[str, Path]:
    """The picture itself, or those of a folder, sorted, by the names of their results; other files are named in one line.

    Args:
        path: a picture or a folder.
        recursive: whether the folders in it are searched too; results then lie in folders of the same names.

    Raises:
        UserError: there is no picture, or two pictures would have results of one name.
    """
    if path.is_file():
        return {path.stem: path}
    if not path.is_dir():
        raise MissingFileError(f"there is no picture and no folder {path}.")
    listed = ((Path(folder), names) for folder, names in walk(path) if recursive or Path(folder) == path)
    files = sorted(folder / name for folder, names in listed for name in names if not name.startswith("."))
    pictures = [file for file in files if file.suffix.lower() in SUFFIXES]
    kinds = Counter(file.suffix.lower() or "no suffix" for file in files if file not in set(pictures))
    others = ", ".join(f"{count} of {kind}" for kind, count in kinds.items())
    if not pictures:
        below = "" if recursive else ", and the folders in it are not searched (--recursive does)"
        raise MissingFileError(f"the folder {path} holds no picture ({', '.join(SUFFIXES)}){below}: it holds {others or 'no file'}.")
    if others:
        log.info("files of %s that are skipped: %s; read are %s", path, others, ", ".join(SUFFIXES))
    found: dict[str, Path] = {}
    for file in pictures:
        stem = file.relative_to(path).with_suffix("").as_posix()
        if stem in found:
            raise UserError(f"{found[stem]} and {file.name} would have results of the same name: rename one of them.")
        found[stem] = file
    return found
