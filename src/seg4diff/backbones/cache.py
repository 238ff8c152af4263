"""Text embeddings and latents on disk, so that each prompt and each image is encoded once."""

import hashlib
import json
import logging
import os
import socket
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from seg4diff.disk import whole_file

log = logging.getLogger(__name__)

Entry = dict[str, Tensor]


class EncodingCache:
    """One safetensors file per prompt or image, named by the hash of its content and of the encoders' stamp.

    An entry is therefore never stale: another caption, other pixels or other files of the encoders (their names, sizes and times, or the
    commit of a hub model) give another name. Entries are
    written beside their place and renamed, and carry a checksum; one that cannot be read is computed again. Models and processes may
    share a folder.

    Args:
        folder: of all caches; every model has a subfolder of its own, in which model.json says whose it is.
        model: whose encodings these are, e.g. path, revision, dtype and text length.
        stamp: changes with the files of the encoders.
    """

    def __init__(self, folder: Path, model: dict[str, str], stamp: str) -> None:
        description = (json.dumps(model, indent=2) + "\n").encode()
        self._folder, self._stamp = folder / hashlib.sha256(description).hexdigest()[:12], stamp
        _write(self._folder / "model.json", description)

    def fetch(self, kind: str, contents: Sequence[bytes], encode: Callable[[list[int]], list[Entry]]) -> list[Entry]:
        """Entries of these contents, in order; missing ones are encoded and stored.

        Args:
            kind: name of the subfolder, "text" or "image".
            contents: what was encoded: the bytes of each prompt or image.
            encode: takes the positions in `contents` that are missing and returns their entries.
        """
        names = [hashlib.sha256(self._stamp.encode() + content).hexdigest() for content in contents]
        entries = {name: entry for name in dict.fromkeys(names) if (entry := self._read(kind, name)) is not None}
        missing = {name: names.index(name) for name in names if name not in entries}
        if missing:
            for name, entry in zip(missing, encode(list(missing.values())), strict=True):
                entries[name] = {key: value.detach().cpu().contiguous() for key, value in entry.items()}
                _write(self._path(kind, name), save(entries[name], _metadata(entries[name])))
        return [entries[name] for name in names]

    def count(self, kind: str) -> int:
        """Entries of a kind, "text" or "image", that this model has."""
        return sum(1 for _ in (self._folder / kind).glob("*/*.safetensors"))

    def _path(self, kind: str, name: str) -> Path:
        return self._folder / kind / name[:2] / f"{name}.safetensors"

    def _read(self, kind: str, name: str) -> Entry | None:
        path = self._path(kind, name)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                entry = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
                if file.metadata() == _metadata(entry):
                    return entry
                reason = "its checksum is wrong"
        except SafetensorError as error:
            reason = str(error)
        log.warning("the cache file %s cannot be used (%s): it is made again.", path, reason)
        return None


class EncodingMemory:
    """As `EncodingCache`, in the memory of this process and on its device: the encodings that were used last.

    Args:
        most: number of images, and of prompts, that are kept.
    """

    def __init__(self, most: int) -> None:
        self._most, self._kept = most, dict[str, OrderedDict[bytes, Entry]]()

    def fetch(self, kind: str, contents: Sequence[bytes], encode: Callable[[list[int]], list[Entry]]) -> list[Entry]:
        """See `EncodingCache.fetch`."""
        kept = self._kept.setdefault(kind, OrderedDict())
        keys = [hashlib.sha256(content).digest() for content in contents]  # pictures are large
        missing = {key: k for k, key in enumerate(keys) if key not in kept}
        if missing:
            kept.update(zip(missing, encode(list(missing.values())), strict=True))
        for key in keys:
            kept.move_to_end(key)
        entries = [kept[key] for key in keys]
        while len(kept) > self._most:
            kept.popitem(last=False)
        return entries

    def count(self, kind: str) -> int:
        """Entries of a kind, "text" or "image"."""
        return len(self._kept.get(kind, ()))


def image_bytes(image: Tensor) -> bytes:
    """What identifies an image (3, H, W): its size and its pixels."""
    return repr(tuple(image.shape)).encode() + image.detach().cpu().contiguous().numpy().tobytes()


def _metadata(entry: Entry) -> dict[str, str]:
    checksum = 0
    for key in sorted(entry):
        checksum = zlib.crc32(entry[key].contiguous().view(torch.uint8).numpy().data, checksum)
    return {"crc32": f"{checksum:08x}"}


def _write(path: Path, content: bytes) -> None:
    """Write in one step; other processes, here or on other machines, may be writing the same entry."""
    with whole_file(path, f"{socket.gethostname()}-{os.getpid()}-") as partial:
        partial.write_bytes(content)
