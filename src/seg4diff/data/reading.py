"""Read images and masks. They are decoded at once, so that the error for a missing or broken file names it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from seg4diff.data.decoding import opened, to_frames, to_labels, to_rgb
from seg4diff.data.files import first_few
from seg4diff.errors import UserError

ALL_OF_THEM = "`seg4diff check` with --decode all names every such file"


class UnreadableError(UserError):
    """An image or mask that is missing or cannot be decoded: a fault of one file, where other UserErrors are faults of the data set."""


@contextmanager
def reading(what: str, remedy: str) -> Iterator[None]:
    """Turn what goes wrong while a file is read into an UnreadableError; Pillow raises errors of any kind for damaged files.

    Args:
        what: the file, as a message calls it.
        remedy: what to do about it.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UnreadableError(f"{what} cannot be read ({_reason(error)}): {remedy}.") from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is no picture of a known format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def read_image(source: Path | bytes, name: str, remedy: str) -> Image.Image:
    """An image, see `to_rgb`.

    Args:
        source: the file, or what it holds.
        name: what errors call it.
        remedy: what to do if it cannot be read.

    Raises:
        UnreadableError: it is missing or broken.
    """
    with reading(f"the image {name}", remedy), opened(source) as picture:
        return to_rgb(picture)


def read_frames(source: Path, remedy: str) -> tuple[list[Image.Image], list[float | None]]:
    """The frames of an animation, and for how many milliseconds each is shown; None = the file does not say.

    Args:
        source: the file; one with a still picture has one frame.
        remedy: what to do if it cannot be read.

    Raises:
        UnreadableError: it is missing or broken.
    """
    with reading(f"the clip {source}", remedy), opened(source) as picture:
        return to_frames(picture)


def is_animated(source: Path) -> bool:
    """Whether a file is an animation: other formats hold several pictures, too, such as the pages of a TIFF. A broken file is none."""
    try:
        with reading(str(source), ""), opened(source) as picture:
            return picture.format in ("GIF", "WEBP", "PNG") and getattr(picture, "n_frames", 1) > 1
    except UnreadableError:
        return False


def read_labels(source: Path | bytes, name: str, remedy: str) -> np.ndarray:
    """The values of a label map, see `to_labels`.

    Args:
        source: the file, or what it holds.
        name: what errors call it.
        remedy: what to do if it cannot be read.

    Raises:
        UnreadableError: it is missing or broken.
        UserError: its values are no class ids.
    """
    with reading(f"the mask {name}", remedy), opened(source) as picture:
        return to_labels(picture, name)


def check_skipped(unreadable: Mapping[str, str], allowed: int) -> None:
    """Stop a run that meets more unreadable images than it may skip.

    Args:
        unreadable: what is wrong with each, by name.
        allowed: how many may be skipped.
    """
    if len(unreadable) <= allowed:
        return
    if len(unreadable) == 1:
        raise UnreadableError(f"{next(iter(unreadable.values()))} {ALL_OF_THEM}.")
    raise UnreadableError(
        f"{len(unreadable)} training images cannot be read, and `skip_unreadable` allows {allowed}: {first_few(list(unreadable))}; "
        f"fix them, leave them out of the data set, or allow more. {ALL_OF_THEM}, and what is wrong with it."
    )
