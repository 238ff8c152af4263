"""`seg4diff segment`: a picture or a folder of them; docs/segment.md says what is written."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from seg4diff.backbones.loading import quiet_hosts
from seg4diff.calibration import calibrate
from seg4diff.commands.clips import Clip
from seg4diff.commands.drawing import claim_settings, file_hash, identify
from seg4diff.commands.outputs import check_output_dir, results_folder
from seg4diff.data.files import walk
from seg4diff.data.geometry import GEOMETRIES, Geometry
from seg4diff.data.reading import UnreadableError, is_animated, read_labels
from seg4diff.data.sample import IGNORE
from seg4diff.data.vocabularies import read_classes
from seg4diff.disk import write_json, write_text
from seg4diff.errors import MissingFileError, UserError, at_least, renamed
from seg4diff.inputs import Picture, check_words
from seg4diff.loading import load
from seg4diff.results import Segmentation
from seg4diff.segmentation.instances import coco

log = logging.getLogger(__name__)

SETTINGS = "segmentation.json"
"""File that says what the labels of a folder depend on."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
VIDEOS = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm")


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
    reader: str = "expert",
    presence: str = "none",
    refine: str = "none",
    sam_weights: str | None = None,
    instances: bool = False,
    at_once: int = 1,
    clip: bool = False,
    load_options: dict[str, Any] | None = None,
) -> Path:
    """Segment a picture, a clip, or all pictures of a folder but those that cannot be read; labels that are there already are kept.

    Args:
        path: the picture, the clip or the folder.
        words: what to look for; None: regions without words.
        words_file: a text file with one word per line, instead.
        recursive: whether the folders in the folder are searched too.
        out: folder of the results; None: outputs/segment/<time>.
        geometry: see `Model.segment`.
        background: see `Model.segment`.
        threshold: see `Model.segment`.
        reader: see `Model.segment`.
        presence: see `Model.segment`.
        refine: see `Model.segment`.
        sam_weights: folder or hub id of the model for `refine="sam"`.
        instances: whether instances/<picture>.json holds the connected parts of each word.
        at_once: pictures that are read as one batch.
        clip: whether the pictures of the folder are the frames of one clip. An animated file is one for a video model.
        load_options: arguments of `seg4diff.load`.

    Returns:
        The folder of the results, in the layout that `data=folder` reads.

    Raises:
        UserError: there is no picture, no picture can be read, the words are no words, or the folder holds results of other settings.
    """
    if sam_weights is not None and refine != "sam":
        raise UserError(f"`sam_weights` are for `refine=sam`, found '{refine}': leave one of them out.")
    at_least(1, at_once=at_once)
    asked, placing = _asked(words, words_file), _placing(geometry)
    pictures = find_pictures(path, recursive)
    resumed = out is not None and (out / SETTINGS).exists()
    if out is not None and not resumed:
        check_output_dir(out, None)
    quiet_hosts()
    model = load(**load_options or {})
    clip = clip or (model.backbone.frames_at_once > 1 and path.is_file() and is_animated(path))
    if clip and (recursive or at_once != 1):
        raise UserError("the frames of a clip are read together: leave --recursive and --at-once out.")
    moving = Clip.read(path, pictures) if clip else None
    settings = {"pictures": str(path.resolve()), "recursive": recursive, "words": asked, "geometry": geometry, "background": background}
    settings |= {
        "reader": reader,
        "presence": presence if not Path(presence).is_file() else file_hash(Path(presence)),
        "refine": refine,
        "sam_weights": sam_weights,
        "instances": instances,
        "at_once": at_once,
        "threshold": threshold,
        "image_size": model.image_size,
        "block": model.block,
        **identify(model),
    } | ({} if moving is None else {"clip": moving.content})

    with renamed({"weights": "`sam_weights`"}.get):
        refiner = refine if refine != "sam" else model.preset.part("refine", refine, weights=sam_weights)

    options: dict[str, Any] = {"geometry": placing, "background": background, "threshold": threshold, "reader": reader}
    options |= {"presence": presence, "refine": refiner, "clip": clip}

    def read(pictures: Sequence[Picture]) -> list[Segmentation]:
        found = model.segment(pictures, asked, **options)
        assert isinstance(found, list), "a list of pictures has a list of results"
        return found

    shown: Mapping[str, Picture] = pictures if moving is None else moving.frames
    missing = [stem for stem in shown if out is None or not _labels(out, stem).exists()]
    unreadable: dict[str, UnreadableError] = {}
    results = _segmented(read, shown, missing, at_once if moving is None else model.backbone.frames_at_once, unreadable)
    first = [] if resumed else list(islice(results, 1))  # finds what is wrong before anything is written
    if not first and len(unreadable) == len(shown):
        raise next(iter(unreadable.values()))
    with results_folder(out, "segment", "labels" if resumed else None) as folder:
        claim_settings(folder / SETTINGS, settings, "")
        files = pictures if moving is None else moving.write_frames(folder)
        for stem, found in chain(first, results):
            if instances:
                write_json(folder / "instances" / f"{stem}.json", coco(found.labels, found.names, files[stem].name))
            found.save(folder, stem)
        if moving is not None:
            moving.write_overlay(folder)
        _write_lists({stem: file for stem, file in files.items() if stem not in unreadable}, asked, folder)
        for reason in unreadable.values():
            log.warning("left out: %s", reason)
        what = "pictures" if moving is None else "frames"
        log.info("segmented %d of %d %s, see %s", len(files) - len(unreadable), len(files), what, folder / "overlays")
    return folder


def calibrate_files(
    path: Path,
    words: Sequence[str] | None,
    *,
    words_file: Path | None = None,
    recursive: bool = False,
    out: Path,
    geometry: str = "letterbox",
    reader: str = "expert",
    load_options: dict[str, Any] | None = None,
) -> None:
    """Write a calibration of words over a folder of pictures; arguments as in `segment_files`, `out` is the file.

    Raises:
        UserError: there are fewer than two pictures, one cannot be read, the words are no words, or the file exists.
    """
    asked, placing = _asked(words, words_file), _placing(geometry)
    if asked is None:
        raise UserError("a calibration is of words: give them, or a file with one word per line (--words).")
    if out.exists():
        raise UserError(f"there is a file {out} already: choose another place with --out, or delete it.")
    pictures = list(find_pictures(path, recursive).values())
    quiet_hosts()
    found = calibrate(load(**load_options or {}), track(pictures, "calibrating"), asked, reader=reader, geometry=placing)
    found.save(out)
    log.info("calibrated %d words on %d pictures: segment them with --presence %s", len(asked), len(pictures), out)


def _asked(words: Sequence[str] | None, words_file: Path | None) -> Sequence[str] | None:
    """The words, given or in a file; None where there are none."""
    if words_file is not None:
        if words:
            raise UserError("give words or a file of words, not both.")
        words = read_classes(words_file, "words_file")
    return None if words is None else check_words(words)


def _placing(geometry: str) -> Geometry:
    placing = next((own for own in GEOMETRIES if own == geometry), None)
    if placing is None:
        raise UserError(f"--geometry must be one of {', '.join(GEOMETRIES)}, found '{geometry}'.")
    return placing


def _segmented(
    read: Callable[[Sequence[Picture]], list[Segmentation]],
    pictures: Mapping[str, Picture],
    missing: Sequence[str],
    at_once: int,
    unreadable: dict[str, UnreadableError],
) -> Iterator[tuple[str, Segmentation]]:
    """Names and results of the missing pictures, one by one; `unreadable` takes the errors of those that cannot be read.

    A batch is read whole even if only one of its pictures is missing: in another batch its maps might be rounded otherwise.
    """
    stems, wanted = list(pictures), set(missing)
    batches = [stems[first : first + at_once] for first in range(0, len(stems), at_once)]
    for batch in track([own for own in batches if wanted.intersection(own)], "segmenting"):
        for stem, found in _read_batch(read, {stem: pictures[stem] for stem in batch}, unreadable):
            if stem in wanted:
                yield stem, found


def _read_batch(
    read: Callable[[Sequence[Picture]], list[Segmentation]], pictures: Mapping[str, Picture], unreadable: dict[str, UnreadableError]
) -> list[tuple[str, Segmentation]]:
    """Names and results of a batch; if one of its pictures cannot be read, each is read by itself."""
    try:
        return list(zip(pictures, read(list(pictures.values())), strict=True))
    except UnreadableError as error:
        if len(pictures) > 1:
            return [found for stem, file in pictures.items() for found in _read_batch(read, {stem: file}, unreadable)]
        (stem,) = pictures
        unreadable[stem] = error
        return []


def _write_lists(pictures: Mapping[str, Path], words: Sequence[str] | None, folder: Path) -> None:
    """Write what a data set needs beside the label maps of these pictures."""
    names = words if words is not None else [str(k) for k in range(max(_regions(_labels(folder, stem)) for stem in pictures))]
    rows = [{"file_name": str(file.resolve()), "mask_file_name": f"labels/{stem}.png"} for stem, file in pictures.items()]
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in names))
    write_text(folder / "metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def _labels(folder: Path, stem: str) -> Path:
    return folder / "labels" / f"{stem}.png"


def _regions(file: Path) -> int:
    """The number of regions in a label map."""
    labels = read_labels(file, str(file), "delete it and run the same command again")
    return 1 + max((int(k) for k in np.unique(labels) if k != IGNORE), default=-1)


def find_pictures(path: Path, recursive: bool = False) -> dict[str, Path]:
    """The picture itself, or those of a folder, sorted, by the names of their results; other files are named in one line.

    Args:
        path: a picture or a folder.
        recursive: whether the folders in it are searched too; results then lie in folders of the same names.

    Raises:
        UserError: there is no picture, the file is a video, or two pictures would have results of one name.
    """
    if path.suffix.lower() in VIDEOS and not path.is_dir():
        raise UserError(
            f"{path} is a video, and clips are read from an animated GIF or WebP, or from a folder of frames with --clip: convert it, for "
            f"example by `ffmpeg -i {path.name} -vf fps=8 frames/%04d.png` into a new folder frames."
        )
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
