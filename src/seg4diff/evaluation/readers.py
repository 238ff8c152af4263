"""Every reader with every refinement under every protocol, on the same images, noise and prompts."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import lightning as L
import torch
from PIL import Image
from torch import Tensor
from torchmetrics.classification import BinaryAveragePrecision

from seg4diff.backbones.base import Backbone
from seg4diff.backbones.lora import base_model, has_lora
from seg4diff.data.sample import Batch, Vocabulary, present_classes
from seg4diff.errors import UserError
from seg4diff.evaluation.baselines import grid_upper_bound
from seg4diff.evaluation.bootstrap import ImageCounts, percentile_interval, resampled_miou
from seg4diff.evaluation.callbacks import picture_row
from seg4diff.evaluation.components import ComponentScore, Part, true_parts
from seg4diff.evaluation.metrics import mean_iou, scores
from seg4diff.evaluation.protocol import PromptMaker, calibrate
from seg4diff.pictures import sheet
from seg4diff.segmentation.frame import Frame, frames
from seg4diff.segmentation.presence import Uncalibrated
from seg4diff.segmentation.readers.base import ClassMaps, Pass, Reader
from seg4diff.segmentation.readout import Readout
from seg4diff.segmentation.refine import Refiner

FIRST = "expert"
"""The reader that the others are compared with."""
PROTOCOLS = ("oracle", "vocabulary", "calibrated")
"""Prompts that name the present classes; all classes; all classes, weighed by their presence."""
SHOWN = 4
"""Images on the page of pictures."""


class Cell(NamedTuple):
    """What is compared."""

    variant: str
    protocol: str
    reader: str
    refine: str


class Timed:
    """A reader that keeps the seconds and the bytes of its last passes: the model and the reading, without the encoders."""

    def __init__(self, reader: Reader) -> None:
        self.reader, self.per_block, self.settings = reader, reader.per_block, reader.settings
        self.seconds, self.peak = 0.0, 0.0

    def read(self, run: Pass, blocks: Sequence[int]) -> ClassMaps:
        """See `Reader`."""
        device = run.latents.device
        before, start = _allocated(device), time.perf_counter()
        found = list(self.reader.read(run, blocks))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            self.peak = max(self.peak, torch.cuda.max_memory_allocated(device) - before)
        self.seconds += time.perf_counter() - start
        yield from found


def _allocated(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


class ReadersModule(L.LightningModule):
    """Test loop over a split that reads each image with every reader.

    Once the loop is over, `rows` holds a row for each `Cell`, `page` the pictures side by side.

    Args:
        backbone: the model; where it carries a LoRA, it is evaluated without and with it.
        vocabulary: the classes of the data set.
        readout: how maps are read; its reader, presence and refinement are replaced.
        readers: by name; "expert" is among them.
        refinements: by name; the first is what the others are compared with.
        protocols: some of `PROTOCOLS`.
        presence: how many images the protocol "calibrated" takes.
        expert_layer: block that is read.
        resamples: number of bootstrap resamples behind the intervals.
        seed: seed of their draws.
        unlabelled: images for the calibration.

    Raises:
        UserError: there is no such protocol, or no expert among the readers.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        vocabulary: Vocabulary,
        readout: Readout,
        readers: Mapping[str, Any],
        refinements: Mapping[str, Any],
        protocols: Sequence[str],
        presence: Uncalibrated,
        expert_layer: int,
        resamples: int,
        seed: int,
        unlabelled: Iterable[Batch] = (),
    ) -> None:
        super().__init__()
        if odd := [name for name in protocols if name not in PROTOCOLS]:
            raise UserError(f"`protocols` must be some of {', '.join(PROTOCOLS)}, found '{odd[0]}'.")
        if FIRST not in readers or not refinements or not protocols:
            raise UserError(f"`readers` must hold {FIRST}, and `refinements` and `protocols` at least one name.")
        backbone.select_sites([expert_layer])
        self.backbone, self.vocabulary, self._readout, self._block = backbone, vocabulary, readout, expert_layer
        self._readers = {name: Timed(reader) for name, reader in readers.items()}
        self._refinements: dict[str, Refiner] = dict(refinements)
        self._protocols = list(protocols)
        self._resamples, self._seed, self._unlabelled = resamples, seed, unlabelled
        self._prompts = {name: PromptMaker("oracle" if name == "oracle" else "vocabulary", vocabulary, backbone.fits) for name in protocols}
        self._variants = ("base", "lora") if has_lora(backbone) else ("base",)
        classes = len(vocabulary)
        cells = [Cell(*names) for names in product(self._variants, protocols, readers, refinements)]
        self._counts = {cell: ImageCounts(classes) for cell in cells}
        self._parts = {cell: ComponentScore() for cell in cells}
        self._bounds = {name: ImageCounts(classes) for name in refinements}
        self._seconds = dict.fromkeys(product(self._variants, readers), 0.0)
        self._presence = {key: BinaryAveragePrecision() for key in self._seconds}
        self._calibrations: dict[tuple[str, str], Readout] = {}
        self.refused: dict[str, str] = {}
        made = {name: self._try(name, partial(readout.changed, reader=own)) for name, own in self._readers.items()}
        self._readouts: dict[str, Readout] = {name: own for name, own in made.items() if own is not None}
        self._pictures: list[list[Image.Image]] = []
        self.rows: list[dict[str, Any]] = []
        self.page: Image.Image | None = None

    def _models(self) -> Iterator[str]:
        """The variants, one after the other, while the model is each of them."""
        for variant in self._variants:
            with base_model(self.backbone) if variant == "base" and len(self._variants) > 1 else nullcontext():
                yield variant

    def on_test_start(self) -> None:
        if "calibrated" not in self._protocols:
            return
        prompts = self._prompts["calibrated"].everything
        with self.trainer.precision_plugin.test_step_context():
            for variant in self._models():
                for name in self._usable():
                    readout = self._readouts[name]
                    found = self._try(name, partial(calibrate, readout, self.backbone, self._unlabelled, prompts, self._block))
                    if found is not None:
                        self._calibrations[variant, name] = readout.changed(presence=found)

    def _usable(self) -> list[str]:
        return [name for name in self._readers if name not in self.refused]

    def _try(self, name: str, read: Callable[[], Any]) -> Any:
        """What a reader gives; None for one that cannot read this model, whose reason is kept. Without the first there is nothing."""
        try:
            return read()
        except UserError as error:
            if name == FIRST:
                raise
            self.refused[name] = str(error)
            return None

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Read a batch in every way, and count it."""
        places, rows, parts = frames(batch), list[list[Tensor]]([[] for _ in range(len(batch))]), [true_parts(mask) for mask in batch.masks]
        guides = [frame.picture(image) for frame, image in zip(places, batch.images, strict=True)]
        for variant in self._models():
            for protocol, name in product(self._protocols, self._usable()):
                readout = self._calibrations.get((variant, name)) if protocol == "calibrated" else None
                readout = readout or self._readouts[name]
                maps = self._try(name, partial(self._maps, readout, batch, Cell(variant, protocol, name, ""), batch_idx))
                if maps is None:
                    continue
                if protocol == "calibrated":
                    self._keep_presence((variant, name), readout, maps, batch, places)
                for refine, refiner in self._refinements.items():
                    labels = self._labels(readout.changed(refine=refiner), maps, batch, protocol, places, guides)
                    self._count(Cell(variant, protocol, name, refine), labels, batch, parts)
                    if protocol == self._protocols[0] and variant == self._variants[-1] and len(self._pictures) < SHOWN:
                        for row, own in zip(rows, labels, strict=True):
                            row.append(own)
        self._count_bounds(batch, places, guides)
        for k, row in enumerate(rows[: SHOWN - len(self._pictures)]):
            self._pictures.append(picture_row(batch, k, self.vocabulary.names, row))

    def _maps(self, readout: Readout, batch: Batch, cell: Cell, batch_idx: int) -> list[Tensor]:
        """The class maps of a batch; the time of the first protocol is kept."""
        prompts = [self._prompts[cell.protocol](mask) for mask in batch.masks]
        reader = self._readers[cell.reader]
        reader.seconds = 0.0
        maps = readout.class_maps(self.backbone, batch.images, prompts, batch.indices, [self._block])[self._block]
        if cell.protocol == self._protocols[0] and (batch_idx or self.trainer.num_test_batches[0] == 1):  # the first batch warms up
            self._seconds[cell.variant, cell.reader] += reader.seconds
        return maps

    def _labels(
        self, readout: Readout, maps: list[Tensor], batch: Batch, protocol: str, places: Sequence[Frame], guides: Sequence[Tensor]
    ) -> list[Tensor]:
        found = []
        for own, mask, frame, guide in zip(maps, batch.masks, places, guides, strict=True):
            classes = [k for prompt in self._prompts[protocol](mask) for k in prompt.classes]
            found.append(readout.segment(own, classes, frame, self.vocabulary.background, guide))
        return found

    def _count(self, cell: Cell, labels: list[Tensor], batch: Batch, parts: Sequence[Sequence[Part]]) -> None:
        for index, own, mask, of_mask in zip(batch.indices, labels, batch.masks, parts, strict=True):
            self._counts[cell].update(index, own, mask)
            self._parts[cell].update(own, of_mask)

    def _count_bounds(self, batch: Batch, places: Sequence[Frame], guides: Sequence[Tensor]) -> None:
        grid = self.backbone.token_grid(*batch.images.shape[-2:])
        for refine, refiner in self._refinements.items():
            for index, mask, frame, guide in zip(batch.indices, batch.masks, places, guides, strict=True):
                refined = partial(_refined, refiner, guide)
                best = grid_upper_bound(mask, grid, frame, refined)
                self._bounds[refine].update(index, best, mask)

    def _keep_presence(self, key: tuple[str, str], readout: Readout, maps: list[Tensor], batch: Batch, places: Sequence[Frame]) -> None:
        classes = [k for prompt in self._prompts["calibrated"].everything for k in prompt.classes]
        for own, mask, frame in zip(maps, batch.masks, places, strict=True):
            there = set(present_classes(mask))
            self._presence[key].update(readout.presence(own, classes, frame).cpu(), torch.tensor([int(k in there) for k in classes]))

    def on_test_epoch_end(self) -> None:
        counts = {cell: own.compute()[1] for cell, own in self._counts.items() if cell.reader not in self.refused}
        draws = {cell: resampled_miou(own, self._resamples, self._seed) for cell, own in counts.items()}
        bounds = {name: float(mean_iou(own.compute()[1].sum(dim=0))) for name, own in self._bounds.items()}
        plain = next(iter(self._refinements))
        for cell, own in counts.items():
            total = own.sum(dim=0)
            first = cell._replace(reader=FIRST, refine=plain)
            iou = scores(total)["iou"][total[2].cpu() > 0]
            row: dict[str, Any] = {**cell._asdict(), "miou": float(mean_iou(total)), "upper_bound": bounds[cell.refine]}
            row["miou_low"], row["miou_high"] = percentile_interval(draws[cell])
            row["gain"] = row["miou"] - float(mean_iou(counts[first].sum(dim=0)))
            row["gain_low"], row["gain_high"] = percentile_interval(draws[cell] - draws[first])
            row |= {"silent": float((iou == 0).double().mean()), **self._parts[cell].compute()}
            row["time"] = self._seconds[cell.variant, cell.reader] / max(self._seconds[cell.variant, FIRST], 1e-9)
            row["memory"] = self._readers[cell.reader].peak / self._readers[FIRST].peak if self._readers[FIRST].peak else math.nan
            calibrated = cell.protocol == "calibrated"
            row["presence"] = float(self._presence[cell.variant, cell.reader].compute()) if calibrated else math.nan
            self.rows.append(row)
        self.page = sheet(self._pictures, (), ["image", "truth", *self._titles()]) if self._pictures else None

    def _titles(self) -> list[str]:
        return [f"{reader}, {refine}" if refine != "none" else reader for reader, refine in product(self._usable(), self._refinements)]


def _refined(refiner: Refiner, guide: Tensor, maps: Tensor) -> Tensor:
    return refiner(maps, guide)
