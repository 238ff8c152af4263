"""Pictures of what a model segments, in the output folder and in every logger that takes pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from PIL import Image
from torch import Tensor

from seg4diff.data.geometry import size_of
from seg4diff.data.sample import Batch, Vocabulary, collate, tensor_to_image
from seg4diff.disk import save_picture
from seg4diff.evaluation.report import title
from seg4diff.loggers import log_picture
from seg4diff.pictures import overlay, sheet

LONGEST = 384
"""Longest side in pixels of an overlay; those of whole photographs would make pages of tens of megabytes."""


def keep_picture(trainer: L.Trainer, name: str, picture: Image.Image, folder: Path) -> None:
    """Write a picture as `folder/name-step.png` and send it to the loggers that take pictures."""
    save_picture(picture, folder / f"{name}-{trainer.global_step:06d}.png")
    log_picture(trainer.loggers, name, picture, trainer.global_step)


class Overlays(L.Callback):
    """Keep the first images of every validation or test, with true and predicted masks laid over them.

    Args:
        count: number of images.
        output_dir: folder for the pictures.
    """

    def __init__(self, *, count: int, output_dir: str) -> None:
        self._count, self._folder = count, Path(output_dir)
        self._rows: list[list[Image.Image]] = []
        self._titles: list[str] = []

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._keep(pl_module.vocabulary, batch, {"predicted": outputs})

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._keep(pl_module.vocabulary, batch, {title(variant): labels for variant, labels in outputs.items()})

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write(trainer, "overlays")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write(trainer, "overlays-test")

    def _keep(self, vocabulary: Vocabulary, batch: Batch, predictions: dict) -> None:
        self._titles = ["image", "truth", *predictions]
        for k in range(min(len(batch), self._count - len(self._rows))):
            self._rows.append(picture_row(batch, k, vocabulary.names, [labels[k] for labels in predictions.values()]))

    def _write(self, trainer: L.Trainer, name: str) -> None:
        if trainer.is_global_zero and self._rows and not trainer.sanity_checking:
            keep_picture(trainer, name, sheet(self._rows, (), self._titles), self._folder)
        self._rows = []


class BestMedianWorst(L.Callback):
    """After a test, a page of the images with the best, median and worst segmentation, by mIoU; of the LoRA, where there is one.

    Args:
        count: images of each of the three kinds.
        output_dir: folder for the page.
    """

    def __init__(self, *, count: int, output_dir: str) -> None:
        self._count, self._folder = count, Path(output_dir)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        scores = pl_module.image_scores.get("lora", pl_module.image_scores["base"])
        dataset, rows, titles = trainer.test_dataloaders.dataset, [], []
        for kind, index in choose_extremes(scores, self._count):
            batch = collate([dataset[index]]).to(pl_module.device)
            with trainer.precision_plugin.test_step_context():
                predicted = pl_module.label_maps(batch)
            rows.append(picture_row(batch, 0, pl_module.vocabulary.names, [labels[0] for labels in predicted.values()]))
            titles.append(f"{kind} {100 * scores[index]:.0f}")
        if rows:
            page = sheet(rows, titles, ["image", "truth", *map(title, predicted)])
            keep_picture(trainer, "best-median-worst", page, self._folder)


def choose_extremes(scores: dict[int, float], count: int) -> list[tuple[str, int]]:
    """("best" | "median" | "worst", image) of the images with the highest, middle and lowest scores; none twice, none without a score."""
    ranked = sorted((image for image, score in scores.items() if score == score), key=lambda image: (-scores[image], image))
    count = min(count, len(ranked) // 3)
    first = (len(ranked) - count) // 2
    kinds = {"best": ranked[:count], "median": ranked[first : first + count], "worst": ranked[len(ranked) - count :]}
    return [(kind, image) for kind, images in kinds.items() for image in images]


def picture_row(batch: Batch, k: int, names: Sequence[str], labels: Sequence[Tensor]) -> list[Image.Image]:
    """Image k of a batch without its padding, and its true and predicted label maps laid over it, at most `LONGEST` pixels long."""
    window = batch.windows[k]
    image = tensor_to_image(window.cut(batch.images[k]))
    row = [image.resize(size_of(batch.masks[k])[::-1]), *(overlay(image, own, names) for own in [batch.masks[k], *labels])]
    for picture in row:
        picture.thumbnail((LONGEST, LONGEST))
    return row
