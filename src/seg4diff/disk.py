"""Atomic writes: a file is written under another name and renamed, so that no reader finds it half-written."""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from seg4diff.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image


@contextmanager
def whole_file(path: Path, writer: str = "") -> Iterator[Path]:
    """Yield a temporary path; the file is renamed to `path` when the block ends, and removed when the block fails.

    Args:
        path: the file; its folder is made.
        writer: tells several processes apart that may write the same file at the same moment.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{writer}partial")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # a write that fails does not say which file it was
    finally:
        partial.unlink(missing_ok=True)


def follow_umask(folder: Path) -> None:
    """Give the files of a folder the permissions of new ones: safetensors writes its files for their owner alone."""
    umask = os.umask(0)
    os.umask(umask)
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o666 & ~umask)


def save_tensors(content: dict[str, Any], file: BinaryIO) -> None:
    """torch.save, with the system's own error where the file cannot be written: torch hides it behind one about positions in a file."""
    import torch  # heavy, and loaded already where tensors are written

    try:
        torch.save(content, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def write_text(path: Path, text: str, writer: str = "") -> None:
    """Write a text file in one step; see `whole_file`."""
    with whole_file(path, writer) as partial:
        partial.write_text(text, encoding="utf-8", newline="")


def save_picture(picture: "Image", path: Path, writer: str = "") -> None:
    """Write a PNG file in one step; see `whole_file`."""
    with whole_file(path, writer) as partial:
        picture.save(partial, format="PNG")


def write_json(path: Path, content: dict[str, Any], writer: str = "") -> None:
    """Write a JSON file in one step; see `whole_file`."""
    write_text(path, to_json(content) + "\n", writer)


def to_json(content: Any) -> str:
    """The content as JSON, which has no NaN and no infinities: they become null."""

    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: finite(own) for key, own in value.items()}
        if isinstance(value, list | tuple):
            return [finite(own) for own in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(finite(content), indent=2, allow_nan=False)


def read_json(path: Path, remedy: str = "delete it and run the same command again") -> dict[str, Any]:
    """Read what `write_json` wrote.

    Args:
        path: the file.
        remedy: what to do when it is damaged.

    Raises:
        UserError: the file is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path} is no JSON object: it is damaged, {remedy}.")
    return content
