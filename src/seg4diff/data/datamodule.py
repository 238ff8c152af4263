"""The DataModule that serves every data source."""

import lightning as L
from torch.utils.data import DataLoader

from seg4diff.data.geometry import GEOMETRIES, Geometry
from seg4diff.data.sample import Vocabulary, collate
from seg4diff.data.sampler import EndlessBatchSampler, UnrepeatedSampler
from seg4diff.data.source import SPLITS, DataSource, SampleDataset
from seg4diff.errors import UserError


class SegmentationDataModule(L.LightningDataModule):
    """Loaders over one data source.

    The training loader is one long pass of `trainer.max_steps` optimiser steps in an order that depends on the seed alone; a resumed
    run continues it at the step it had reached. Evaluation loaders yield every sample exactly once over all processes.

    Args:
        source: the data set.
        image_size: [height, width] of the canvas that images are brought to, None = as they are.
        batch_size: training images per process and step.
        eval_batch_size: images per process in validation and test.
        num_workers: loader processes.
        test_split: split that the test loader serves.
        seed: seed of the training order.
        geometry: how an image of another shape meets the canvas: "stretch" (the release), "crop" its centre (the paper) or "letterbox"
            (all of it in its own shape, with padding that neither losses nor metrics see).
    """

    def __init__(
        self,
        *,
        source: DataSource,
        image_size: list[int] | None,
        batch_size: int,
        eval_batch_size: int,
        num_workers: int,
        test_split: str,
        seed: int,
        geometry: Geometry = "stretch",
    ) -> None:
        super().__init__()
        if geometry not in GEOMETRIES:
            raise UserError(f"data.geometry must be one of {', '.join(GEOMETRIES)}, found '{geometry}'.")
        if test_split not in SPLITS:
            raise UserError(f"the split must be one of {', '.join(SPLITS)}, found '{test_split}'.")
        if image_size is not None and (len(image_size) != 2 or min(image_size) < 1):
            raise UserError(f"data.image_size must be [height,width] in pixels or null, found {list(image_size)}.")
        self.source = source
        self._image_size = tuple(image_size) if image_size else None
        self._batch_size, self._eval_batch_size, self._num_workers, self._seed = batch_size, eval_batch_size, num_workers, seed
        self._test_split, self._geometry = test_split, geometry

    @property
    def vocabulary(self) -> Vocabulary:
        return self.source.vocabulary

    def prepare_data(self) -> None:
        self.source.prepare()

    def train_dataloader(self) -> DataLoader:
        dataset = self._samples("train", resize_mask=True)
        trainer = self.trainer
        if trainer.max_steps < 1:
            raise UserError(f"trainer.max_steps must be at least 1, found {trainer.max_steps}.")
        sampler = EndlessBatchSampler(
            size=len(dataset),
            batch_size=self._batch_size,
            batches=trainer.max_steps * trainer.accumulate_grad_batches,
            start=trainer.global_step * trainer.accumulate_grad_batches,
            seed=self._seed,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )
        return DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, num_workers=self._num_workers)

    def eval_dataloader(self, split: str) -> DataLoader:
        """Loader over a split for evaluation: every sample once over all processes, masks at their own size."""
        return self._each_once(split, resize_mask=False)

    def _each_once(self, split: str, resize_mask: bool) -> DataLoader:
        dataset = self._samples(split, resize_mask)
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        sampler = UnrepeatedSampler(size=len(dataset), rank=rank, world_size=world_size)
        return DataLoader(dataset, batch_size=self._eval_batch_size, sampler=sampler, collate_fn=collate, num_workers=self._num_workers)

    def _samples(self, split: str, resize_mask: bool) -> SampleDataset:
        return self.source.split(split, self._image_size, resize_mask, self._geometry)

    def predict_dataloader(self) -> list[DataLoader]:
        """Every sample of every split once, as training and evaluation will see it."""
        return [self._each_once("train", resize_mask=True), self.val_dataloader(), self.test_dataloader()]

    def val_dataloader(self) -> DataLoader:
        return self.eval_dataloader("validation")

    def test_dataloader(self) -> DataLoader:
        return self.eval_dataloader(self._test_split)
