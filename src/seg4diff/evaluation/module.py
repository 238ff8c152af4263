"""Evaluate a model on a split, with and without its adapter, in one pass over the data."""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from seg4diff.backbones.base import Backbone
from seg4diff.backbones.lora import base_model, has_lora
from seg4diff.data.sample import Batch, Vocabulary
from seg4diff.errors import UserError
from seg4diff.evaluation.baselines import GuessBaselines, grid_upper_bound
from seg4diff.evaluation.bootstrap import ImageCounts, intervals
from seg4diff.evaluation.metrics import SegmentationScore, by_name, mean_iou, scores
from seg4diff.evaluation.progress import Progress
from seg4diff.evaluation.protocol import BlockScores, PromptedSegmenter, PromptMaker, PromptProtocol, Segmenter, calibrate
from seg4diff.evaluation.report import Estimate, Report, Score
from seg4diff.finite import require_finite
from seg4diff.flow import SigmaSampler, draw, interpolate, velocity
from seg4diff.segmentation.frame import Frame, frames
from seg4diff.segmentation.presence import Presence, Uncalibrated, Unknown
from seg4diff.segmentation.prompts import cut_to_fit
from seg4diff.segmentation.readers.base import Reader
from seg4diff.segmentation.readout import Readout
from seg4diff.segmentation.refine import Refiner, Unrefined

log = logging.getLogger(__name__)

VARIANTS = ("base", "lora")
"""What is evaluated: the base model, and the model with its LoRA."""


class SplitEvaluation(L.LightningModule, ABC):
    """Test loop over a split, whatever the way of segmenting.

    Once the loop is over, `report` holds the result, and `image_scores` the mIoU of every image by variant and number of the image:
    over the classes in that image, NaN where it has none; to choose pictures by, no score of the data set.

    Args:
        backbone: the model; where it carries a LoRA, it is evaluated without and with it.
        vocabulary: the classes of the data set.
        protocol: see `Report`.
        matching: see `Report`.
        expert_layer: block whose score is the headline.
        base_blocks: blocks to score on the base model, "all" or a list; the expert is always among them.
        resamples: number of bootstrap resamples behind the intervals of the headline.
        seed: seed of their draws.
        progress: what a loop that was stopped had counted; it goes on from there, and keeps its counts there from time to time.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        vocabulary: Vocabulary,
        protocol: str,
        matching: str | None,
        expert_layer: int,
        base_blocks: str | Sequence[int],
        resamples: int,
        seed: int,
        progress: Progress | None = None,
    ) -> None:
        super().__init__()
        if resamples < 1:
            raise UserError(f"`resamples` must be at least 1, found {resamples}.")
        everything = range(len(backbone.attention_sites()))
        if isinstance(base_blocks, str) and base_blocks != "all":
            raise UserError(f"`base_blocks` must be all or a list of block indices, found '{base_blocks}'.")
        blocks = {*(everything if base_blocks == "all" else base_blocks), expert_layer}
        backbone.select_sites(sorted(blocks))
        self.backbone, self.vocabulary, self.expert_layer = backbone, vocabulary, expert_layer
        self._protocol, self._matching, self._resamples, self._seed = protocol, matching, resamples, seed
        self._other_blocks = sorted(blocks - {expert_layer})
        self._progress = progress
        self.report: Report | None = None
        self.image_scores: dict[str, dict[int, float]] = {}

    @abstractmethod
    def make_segmenter(self, vocabulary: Vocabulary) -> Segmenter:
        """How a batch of this data set is segmented. Raises UserError for what cannot work."""

    @abstractmethod
    def make_baselines(self, vocabulary: Vocabulary) -> Metric:
        """What is scored without the model: `update` takes a label map, `compute` returns figures by name."""

    def setup(self, stage: str) -> None:
        with self.trainer.precision_plugin.forward_context():
            self.backbone.check_device(self.trainer.strategy.root_device)
        classes, self._segment = len(self.vocabulary), self.make_segmenter(self.vocabulary)
        variants = VARIANTS if has_lora(self.backbone) else VARIANTS[:1]
        self.image_counts = by_name({name: ImageCounts(classes) for name in variants})
        self.block_scores = BlockScores(segment=self._segment, blocks=self._other_blocks, classes=classes)
        self.baselines, self.upper_bound = self.make_baselines(self.vocabulary), SegmentationScore(classes)
        self.add_counts()
        if self._progress is not None:
            self._progress.restore(self._counts())

    def add_counts(self) -> None:
        """What a subclass counts besides; called once the variants are known."""

    def _counts(self) -> nn.Module:
        """Everything that is counted, without the model."""
        return nn.ModuleDict({name: child for name, child in self.named_children() if child is not self.backbone})

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, list[Tensor]]:
        """Count a batch; returns the expert's label maps of each variant."""
        predictions = self._each_variant(lambda variant: self.evaluate_variant(variant, batch))
        grid = self.backbone.token_grid(*batch.images.shape[-2:])
        for mask, frame, image in zip(batch.masks, frames(batch), batch.images, strict=True):
            self.baselines.update(mask)
            self.upper_bound.update(grid_upper_bound(mask.cpu(), grid, frame, self._refined(frame, image)), mask.cpu())
        if self._progress is not None:
            self._progress.add(len(batch), self._counts(), last=batch_idx + 1 == self.trainer.num_test_batches[0])
        return predictions

    def label_maps(self, batch: Batch) -> dict[str, list[Tensor]]:
        """The expert's label maps of each variant, without counting them."""
        return self._each_variant(lambda variant: self.segment(variant, batch, [self.expert_layer])[self.expert_layer])

    def segment(self, variant: str, batch: Batch, blocks: Sequence[int]) -> dict[int, list[Tensor]]:
        """The label maps of blocks of the model, which is this variant now; see `Segmenter`."""
        return self._segment(self.backbone, batch, blocks)

    @property
    def words_readout(self) -> Readout | None:
        """How maps of words are read; None = there are no words."""
        return None

    def _refined(self, frame: Frame, image: Tensor) -> Callable[[Tensor], Tensor] | None:
        refine = None if self.words_readout is None else self.words_readout.refine
        return None if refine is None or isinstance(refine, Unrefined) else lambda maps: refine(maps, frame.picture(image).cpu())

    def _each_variant(self, read: Callable[[str], list[Tensor]]) -> dict[str, list[Tensor]]:
        if not has_lora(self.backbone):
            return {"base": read("base")}
        adapted = read("lora")
        with base_model(self.backbone):
            return {"base": read("base"), "lora": adapted}

    def evaluate_variant(self, variant: str, batch: Batch) -> list[Tensor]:
        """Count a batch for the model as it is now; returns the expert's label maps."""
        others = self._other_blocks if variant == "base" else []
        predicted = self.segment(variant, batch, sorted([self.expert_layer, *others]))
        labels = predicted.pop(self.expert_layer)
        self.block_scores.count(predicted, batch.masks)
        for index, own, mask in zip(batch.indices, labels, batch.masks, strict=True):
            self.image_counts[variant].update(index, own, mask)
        return labels

    def on_test_epoch_end(self) -> None:
        self.report = self.make_report()

    def make_report(self) -> Report:
        """Everything that was counted, on all processes."""
        names, upper_bound = self.vocabulary.names, float(self.upper_bound.compute()["miou"])
        if math.isnan(upper_bound):
            raise UserError("no pixel of these images has a label, so nothing can be scored: choose another split or correct its masks.")
        counts: dict[str, Tensor] = {}
        for variant, own in self.image_counts.items():
            images, counts[variant] = own.compute()
            self.image_scores[variant] = dict(zip(images, mean_iou(counts[variant]).tolist(), strict=True))
        ends = intervals(counts, self._resamples, self._seed)
        found = {name: self._score(name, own.sum(dim=0), ends[name], names) for name, own in counts.items()}
        others = {block: float(score["miou"]) for block, score in self.block_scores.compute().items()}
        return Report(
            protocol=self._protocol,
            matching=self._matching,
            expert_layer=self.expert_layer,
            dtype=str(self.backbone.dtype).removeprefix("torch."),
            precision=self.trainer.precision,
            images=len(counts["base"]),
            base=found["base"],
            lora=found.get("lora"),
            gain=Estimate(found["lora"].miou - found["base"].miou, *ends["gain"]) if "lora" in found else None,
            miou_per_block=dict(sorted((others | {self.expert_layer: found["base"].miou}).items())),
            baseline={name: float(value) for name, value in self.baselines.compute().items()},
            upper_bound=upper_bound,
            reading=None if self.words_readout is None else ", ".join(self.words_readout.departures) or None,
        )

    def _score(self, variant: str, counts: Tensor, ends: tuple[float, float], names: Sequence[str]) -> Score:
        figures = scores(counts)
        iou = {name: float(value) for name, value in zip(names, figures.pop("iou"), strict=True) if not torch.isnan(value)}
        low, high = ends
        figures_of_all: dict[str, Any] = {name: float(value) for name, value in figures.items()}
        return Score(**figures_of_all, miou_low=low, miou_high=high, iou_per_class=iou, flow_loss=self.flow_loss(variant))

    def flow_loss(self, variant: str) -> float | None:
        """Flow loss of a variant; None where it is not measured."""
        return None


class EvaluationModule(SplitEvaluation):
    """Segmentation by the names in prompts, and the flow loss.

    Args:
        backbone: see `SplitEvaluation`.
        vocabulary: see `SplitEvaluation`.
        readout: how maps are read.
        reader: how class maps are read from a pass; None = that of the readout.
        presence: which classes of a prompt are in the image; None = that of the readout.
        refine: what becomes of the maps at the pixels of the mask; None = that of the readout.
        unlabelled: images for a presence that is to be calibrated.
        protocol: which prompts an image gets, "oracle" or "vocabulary".
        expert_layer: see `SplitEvaluation`.
        base_blocks: see `SplitEvaluation`; a reader that chooses its blocks itself, or a calibration, has one score.
        sigma: distribution of the noise level of the flow loss, which is that of the captions, cut to what the model takes (training
            may use another distribution and other prompts, so its own validation loss is another figure).
        resamples: see `SplitEvaluation`.
        seed: seed of the noise of the flow loss, and of the draws of the resamples.
        progress: see `SplitEvaluation`.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        vocabulary: Vocabulary,
        readout: Readout,
        protocol: PromptProtocol,
        expert_layer: int,
        base_blocks: str | Sequence[int],
        sigma: SigmaSampler,
        resamples: int,
        seed: int,
        progress: Progress | None = None,
        reader: Reader | None = None,
        presence: Presence | Uncalibrated | None = None,
        refine: Refiner | None = None,
        unlabelled: Iterable[Batch] = (),
    ) -> None:
        self._calibrated = isinstance(presence, Uncalibrated)
        known = readout.presence if presence is None or isinstance(presence, Uncalibrated) else presence
        if protocol == "oracle" and (self._calibrated or not isinstance(known, Unknown)):
            raise UserError("`presence` is for prompts with classes that may be absent: set `protocol=vocabulary`, or leave it out.")
        readout = readout.changed(reader=reader or readout.reader, presence=known, refine=refine or readout.refine)
        super().__init__(
            backbone=backbone,
            vocabulary=vocabulary,
            protocol=protocol,
            matching=None,
            expert_layer=expert_layer,
            base_blocks=base_blocks if readout.reader.per_block and not self._calibrated else [],
            resamples=resamples,
            seed=seed,
            progress=progress,
        )
        self._readouts, self._prompts_of, self._sigma = dict.fromkeys(VARIANTS, readout), protocol, sigma
        self._make_prompts, self._unlabelled = PromptMaker(protocol, vocabulary, backbone.fits), unlabelled

    @property
    def words_readout(self) -> Readout:
        return self._readouts["base"]

    def on_test_start(self) -> None:
        if self._calibrated:
            with self.trainer.precision_plugin.test_step_context():
                self._each_variant(self._calibrate)

    def _calibrate(self, variant: str) -> list[Tensor]:
        readout, prompts = self._readouts[variant], self._make_prompts.everything
        found = calibrate(readout, self.backbone, self._unlabelled, prompts, self.expert_layer)
        self._readouts[variant] = readout.changed(presence=found)
        return []

    def make_segmenter(self, vocabulary: Vocabulary) -> Segmenter:
        if self._prompts_of == "vocabulary" and len(self._make_prompts.everything) > 1 and self.trainer.is_global_zero:
            log.info("the %d class names take %d prompts", len(vocabulary), len(self._make_prompts.everything))
        return PromptedSegmenter(self._readouts["base"], self._make_prompts)

    def segment(self, variant: str, batch: Batch, blocks: Sequence[int]) -> dict[int, list[Tensor]]:
        return PromptedSegmenter(self._readouts[variant], self._make_prompts)(self.backbone, batch, blocks)

    def make_baselines(self, vocabulary: Vocabulary) -> Metric:
        return GuessBaselines(len(vocabulary), oracle=self._prompts_of == "oracle", background=vocabulary.background)

    def add_counts(self) -> None:
        self.flow = by_name({name: MeanMetric() for name in self.image_counts})

    def evaluate_variant(self, variant: str, batch: Batch) -> list[Tensor]:
        labels = super().evaluate_variant(variant, batch)
        latents = self.backbone.encode_image(batch.images)
        noise, sigma = draw(latents, batch.indices, self._seed, self._sigma)
        noisy = interpolate(latents, noise, sigma)
        captions = [cut_to_fit(caption, self.backbone.fits) for caption in batch.captions]
        predicted = self.backbone.predict_velocity(noisy, sigma, self.backbone.encode_text(captions))
        require_finite(predicted, "the velocities that the model predicts")
        errors = (predicted - velocity(latents, noise)).float().square().flatten(1).mean(dim=1)
        self.flow[variant].update(errors)
        return labels

    def flow_loss(self, variant: str) -> float:
        return float(self.flow[variant].compute())
