"""What a test loop has counted so far, on disk, so that a stopped evaluation goes on instead of starting again."""

import time
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
    """

    def __init__(self, folder: Path, rank: int, world_size: int) -> None:
        self._file = folder / f"{rank}-of-{world_size}.pt"
        self._images, self._written = 0, time.monotonic()

    def restore(self, counts: nn.Module) -> int:
        """Fill metrics with what was counted before; returns the number of images that this process has counted.

        Raises:
            UserError: the file is damaged.
        """
        for metric in counts.modules():
            if isinstance(metric, Metric):
                metric.persistent(True)
        if self._file.is_file():
            try:
                state = torch.load(self._file, map_location="cpu", weights_only=True)
                counts.load_state_dict(state["counts"])
                self._images = state["images"]
            except Exception as error:
                raise UserError(f"{self._file} is damaged: delete it, and the images that it had counted are counted again.") from error
        return self._images

    def add(self, images: int, counts: nn.Module, last: bool) -> None:
        """Note that so many more images are counted; write if it is time, but not after the last ones: something must be left to run."""
        self._images += images
        if not last and time.monotonic() - self._written >= SECONDS:
            with whole_file(self._file) as partial, partial.open("wb") as file:
                save_tensors({"counts": counts.state_dict(), "images": self._images}, file)
            self._written = time.monotonic()
