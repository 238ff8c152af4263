"""What a test loop has counted so far, on disk, so that a stopped evaluation goes on instead of starting again."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torchmetrics import Metric

from seg4diff.disk import save_tensors, whole_file
from seg4diff.errors import UserError

SECONDS = 30.0
"""Time between two writings, at least."""


class Progress:
    """Counts of one process. Another number of processes starts again.

    Args:
        folder: where the file lies.
        rank: this process.
        world_size: number of processes.

    Attributes:
        images: the number of images that this process has counted.

    Raises:
        UserError: the file is damaged.
    """

    def __init__(self, folder: Path, rank: int, world_size: int) -> None:
        self._file = folder / f"{rank}-of-{world_size}.pt"
        self._written = time.monotonic()
        self.images, self._earlier = 0, None
        if self._file.is_file():
            with self._readable():
                state = torch.load(self._file, map_location="cpu", weights_only=True)
                self.images, self._earlier = state["images"], state["counts"]

    def restore(self, counts: nn.Module) -> None:
        """Fill metrics with what was counted before.

        Raises:
            UserError: the file holds other counts.
        """
        for metric in counts.modules():
            if isinstance(metric, Metric):
                metric.persistent(True)
        if self._earlier is not None:
            with self._readable():
                counts.load_state_dict(self._earlier)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise UserError(f"{self._file} is damaged: delete it, and the images that it had counted are counted again.") from error

    def add(self, images: int, counts: nn.Module, last: bool) -> None:
        """Note that so many more images are counted; write if it is time, but not after the last ones: something must be left to run."""
        self.images += images
        if not last and time.monotonic() - self._written >= SECONDS:
            with whole_file(self._file) as partial, partial.open("wb") as file:
                save_tensors({"counts": counts.state_dict(), "images": self.images}, file)
            self._written = time.monotonic()
