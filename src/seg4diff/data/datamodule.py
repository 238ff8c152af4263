"""The DataModule that serves every data source."""

import logging
import os
from typing import Any

import lightning as L
from torch import distributed
from torch.utils.data import DataLoader, Subset

from seg4diff.data.geometry import GEOMETRIES, Geometry, Size, Window
from seg4diff.data.reading import check_skipped
from seg4diff.data.sample import RESAMPLES, Batch, Resample, Vocabulary, collate
from seg4diff.data.sampler import EndlessBatchSampler, UnrepeatedSampler
from seg4diff.data.source import SPLITS, DataSource, SampleDataset
from seg4diff.errors import UserError

log = logging.getLogger(__name__)

MOST_WORKERS = 4
"""Loader processes that a process starts by itself, at most: each holds batches in memory."""


class SegmentationDataModule(L.LightningDataModule):
    """Loaders over one data source.

    The training loader is one long pass of `trainer.max_steps` optimiser steps in an order that depends on the seed alone; a resumed
    run continues it at the step it had reached. Evaluation loaders yield every sample exactly once over all processes.

    Args:
        source: the data set.
        image_size: [height, width] of the canvas that images are brought to, None = as they are.
        batch_size: training images per process and step.
        eval_batch_size: images per process in validation and test.
        num_workers: loader processes of each process that trains; None = one less than its share of the cores, at most 4.
        test_split: split that the test loader serves.
        seed: seed of the training order.
        geometry: how an image of another shape meets the canvas: "stretch" (the release), "crop" its centre (the paper) or "letterbox"
            (all of it in its own shape, with padding that neither losses nor metrics see).
        skip_unreadable: number of training images that may be missing or broken. Each is named and replaced by another, the same one in
            every process and in a resumed run; one more, and the run stops. Evaluation skips none.
        resample: how an image is resized, "bicubic" or as the release does it, "bilinear", see `seg4diff.data.sample.RESAMPLES`.
        test_images: number of images that the test loader serves, evenly spaced over the split; None = all.
    """

    def __init__(
        self,
        *,
        source: DataSource,
        image_size: tuple[int, int] | None,
        batch_size: int,
        eval_batch_size: int,
        num_workers: int | None,
        test_split: str,
        seed: int,
        geometry: Geometry = "stretch",
        skip_unreadable: int = 0,
        resample: Resample = "bicubic",
        test_images: int | None = None,
    ) -> None:
        super().__init__()
        if geometry not in GEOMETRIES:
            raise UserError(f"`geometry` must be one of {', '.join(GEOMETRIES)}, found '{geometry}'.")
        if resample not in RESAMPLES:
            raise UserError(f"`resample` must be one of {', '.join(RESAMPLES)}, found '{resample}'.")
        if test_split not in SPLITS:
            raise UserError(f"`test_split` must be one of {', '.join(SPLITS)}, found '{test_split}'.")
        if image_size is not None and (len(image_size) != 2 or min(image_size) < 1):
            raise UserError(f"`image_size` must be [height, width] in pixels, found {list(image_size)}.")
        numbers = {"batch_size": (batch_size, 1), "eval_batch_size": (eval_batch_size, 1), "num_workers": (num_workers or 0, 0)}
        for name, (value, least) in (
            numbers | {"skip_unreadable": (skip_unreadable, 0), "test_images": (1 if test_images is None else test_images, 1)}
        ).items():
            if value < least:
                raise UserError(f"`{name}` must be at least {least}, found {value}.")
        self.source = source
        self._image_size = (image_size[0], image_size[1]) if image_size else None
        self._batch_size, self._eval_batch_size, self._workers, self._seed = batch_size, eval_batch_size, num_workers, seed
        self._test_split, self._geometry, self._resample = test_split, geometry, resample
        self._tested, self._test_images = 0, test_images
        self._images: int | None = None  # of the training split, which the order depends on
        self._skip_unreadable, self._unreadable = skip_unreadable, dict[str, str]()

    @property
    def num_workers(self) -> int:
        """Loader processes: data does not depend on their number."""
        if self._workers is not None:
            return self._workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(0, min(MOST_WORKERS, cores // (self.trainer.num_devices if self.trainer else 1) - 1))

    @property
    def vocabulary(self) -> Vocabulary:
        return self.source.vocabulary

    def shown(self, size: Size) -> Window:
        """The part of an image of this (height, width) that models see."""
        return GEOMETRIES[self._geometry](size, self._image_size or size)[0]

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Count what was skipped here and not where it is read: loader processes know nothing of each other, nor of the run before."""
        for name, reason in batch.unreadable.items():
            if name not in self._unreadable:
                log.warning("%s Another image takes its place.", reason)
        self._unreadable |= batch.unreadable
        check_skipped(self._unreadable, self._skip_unreadable)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """What was skipped and how many images there are, for the checkpoint.

        Every process takes part in writing one, so each learns here what the others skipped.
        """
        if distributed.is_available() and distributed.is_initialized():
            everywhere: list = [None] * distributed.get_world_size()
            distributed.all_gather_object(everywhere, self._unreadable)
            self._unreadable = {name: reason for skipped in everywhere for name, reason in skipped.items()}
        return {"unreadable": self._unreadable, "images": self._images}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._unreadable, self._images = dict(state_dict["unreadable"]), state_dict.get("images")

    def train_dataloader(self) -> DataLoader:
        dataset = self._samples("train", resize_mask=True)
        return DataLoader(dataset, batch_sampler=self.endless(len(dataset)), collate_fn=collate, num_workers=self.num_workers)

    def endless(self, size: int) -> EndlessBatchSampler:
        """The batches of this process in a run over `size` training samples, from where the run stands."""
        trainer = self.trainer
        for name in ("max_steps", "accumulate_grad_batches"):
            if getattr(trainer, name) < 1:
                raise UserError(f"`{name}` must be at least 1, found {getattr(trainer, name)}.")
        if self._images not in (None, size):
            raise UserError(
                f"the run was trained on {self._images} images and the data set has {size} now, which makes another order of them: "
                "bring back those images, or start a new run."
            )
        self._images = size
        batches = trainer.max_steps * trainer.accumulate_grad_batches
        limit = trainer.limit_train_batches
        if (limit if isinstance(limit, int) else int(limit * batches)) % trainer.accumulate_grad_batches:
            raise UserError(
                f"`limit_train_batches={limit}` would end within a step: make it a multiple of "
                f"`accumulate_grad_batches={trainer.accumulate_grad_batches}`."
            )
        return EndlessBatchSampler(
            size=size,
            batch_size=self._batch_size,
            batches=batches,
            start=lambda: trainer.global_step * trainer.accumulate_grad_batches,
            seed=self._seed,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )

    def eval_dataloader(self, split: str) -> DataLoader:
        """Loader over a split for evaluation: every sample once over all processes, masks at their own size."""
        return self._each_once(split, resize_mask=False)

    def _each_once(self, split: str, resize_mask: bool, start: int = 0, chosen: list[int] | None = None) -> DataLoader:
        samples = self._samples(split, resize_mask)
        dataset = Subset(samples, range(len(samples)) if chosen is None else chosen)
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        sampler = UnrepeatedSampler(size=len(dataset), rank=rank, world_size=world_size, start=start)
        return DataLoader(dataset, batch_size=self._eval_batch_size, sampler=sampler, collate_fn=collate, num_workers=self.num_workers)

    def _samples(self, split: str, resize_mask: bool) -> SampleDataset:
        """Only training skips what cannot be read: a benchmark that leaves images out in silence is wrong."""
        skip = self._skip_unreadable if resize_mask else 0
        return self.source.split(split, self._image_size, resize_mask, self._geometry, skip, self._resample)

    def test_from(self, image: int) -> None:
        """Let the test loader of this process leave out its first images, which it has tested before."""
        self._tested = image

    def tested(self) -> list[int]:
        """Numbers of the images that the test loaders of all processes serve."""
        return evenly(len(self._samples(self._test_split, resize_mask=False)), self._test_images)

    def unlabelled(self, count: int) -> DataLoader:
        """At most `count` training images, evenly spaced over the split, the same ones in every process; not for their labels."""
        samples = self._samples("train", resize_mask=False)
        chosen = evenly(len(samples), count)
        return DataLoader(Subset(samples, chosen), batch_size=self._eval_batch_size, collate_fn=collate, num_workers=self.num_workers)

    def predict_dataloader(self) -> list[DataLoader]:
        """Every sample of every split once, as training and evaluation will see it."""
        return [self._each_once("train", resize_mask=True), self.val_dataloader(), self.test_dataloader()]

    def val_dataloader(self) -> DataLoader:
        return self.eval_dataloader("validation")

    def test_dataloader(self) -> DataLoader:
        return self._each_once(self._test_split, resize_mask=False, start=self._tested, chosen=self.tested())


def evenly(size: int, count: int | None) -> list[int]:
    """At most `count` of `size` numbers, evenly spaced; None = all."""
    count = size if count is None else min(count, size)
    return [size * k // count for k in range(count)]
