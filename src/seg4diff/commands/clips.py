"""Clips of `seg4diff segment`: an animated file or a folder of frames in, an animated overlay out; docs/video.md."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from PIL import Image

from seg4diff.data.reading import read_frames, read_image
from seg4diff.disk import save_picture, whole_file

MILLISECONDS = 125.0
"""How long a frame is shown where the clip does not say: that of CogVideoX's own clips."""


@dataclass(frozen=True)
class Clip:
    """A clip that was read.

    Attributes:
        name: what to call it.
        frames: its frames in order, by the names of their results.
        milliseconds: how long each frame is shown; empty: all of them equally long.
        files: the files of the frames by the same names; none where they come from one animated file.
    """

    name: str
    frames: Mapping[str, Image.Image]
    milliseconds: Sequence[float] = ()
    files: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, pictures: Mapping[str, Path]) -> "Clip":
        """An animated file, or the pictures of a folder in the order of their names, in which 10 follows 9.

        Args:
            path: the file or the folder.
            pictures: those of the folder by their names.

        Raises:
            UnreadableError: a frame cannot be read.
        """
        if path.is_file():
            frames, shown = read_frames(path, "give another one")
            times = [own or MILLISECONDS for own in shown]
            return cls(path.stem, {f"{path.stem}/{k:04d}": frame for k, frame in enumerate(frames)}, times)
        name = path.resolve().name
        files = {f"{name}/{stem}": pictures[stem] for stem in sorted(pictures, key=_by_number)}
        return cls(name, {stem: read_image(file, str(file), "a clip needs all of its frames") for stem, file in files.items()}, files=files)

    @property
    def content(self) -> str:
        """Differs for clips of other frames, or of the same in another order."""
        known = sha256()
        for stem, frame in self.frames.items():
            known.update(f"{stem} {frame.size} ".encode() + frame.tobytes())
        return known.hexdigest()

    def write_frames(self, folder: Path) -> Mapping[str, Path]:
        """The files of the frames; those of an animated file are written to frames/<clip>."""
        if self.files:
            return self.files
        files = {stem: folder / "frames" / f"{stem}.png" for stem in self.frames}
        for stem, file in files.items():
            if not file.exists():
                save_picture(self.frames[stem], file)
        return files

    def write_overlay(self, folder: Path) -> None:
        """Write overlays/<clip>.gif from the overlays of its frames."""
        files = [folder / "overlays" / f"{stem}.png" for stem in self.frames]
        overlays = [read_image(file, str(file), "delete the label map of this frame and run the same command again") for file in files]
        times = list(self.milliseconds) or [MILLISECONDS] * len(overlays)
        with whole_file(folder / "overlays" / f"{self.name}.gif") as partial:
            overlays[0].save(partial, "GIF", save_all=True, append_images=overlays[1:], duration=times, loop=0)


def _by_number(name: str) -> list[tuple[int, str]]:
    """Sorts names by the numbers in them."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]
