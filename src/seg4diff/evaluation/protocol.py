"""The zero-shot segmentation protocol: which prompts an image gets, and the scores of every block on a split."""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from seg4diff.backbones.base import Backbone
from seg4diff.data.sample import Batch, Vocabulary, present_classes
from seg4diff.errors import UserError
from seg4diff.evaluation.metrics import SegmentationScore, by_name
from seg4diff.segmentation.frame import frames
from seg4diff.segmentation.presence import Calibration, peaks
from seg4diff.segmentation.prompts import Prompt, split_names
from seg4diff.segmentation.readout import Readout

PromptProtocol = Literal["oracle", "vocabulary"]
PROTOCOL_TEXT = {
    "oracle": "oracle prompts (the classes present in the ground truth, as in the paper)",
    "vocabulary": "full-vocabulary prompts (every class of the data set)",
}
Segmenter = Callable[[Backbone, Batch, Sequence[int]], dict[int, list[Tensor]]]
"""(model, batch, blocks) -> for each block the label maps of the images, at the size of the batch's masks."""


class PromptMaker:
    """Which prompts an image gets: one, or as many as its class names need to fit (see `split_names`).

    A background class is in none of them: its word describes nothing.

    Args:
        protocol: "oracle" names the classes present in the ground truth (paper, section 4.1), "vocabulary" names all.
        vocabulary: the class names.
        fits: whether the model takes a prompt whole.

    Attributes:
        everything: the prompts that name the whole vocabulary.
        background: id of the background class, or None.

    Raises:
        UserError: there is no such protocol, or a class name does not fit by itself; raised before any image is read.
    """

    def __init__(self, protocol: PromptProtocol, vocabulary: Vocabulary, fits: Callable[[str], bool]) -> None:
        if protocol not in PROTOCOL_TEXT:
            raise UserError(f"`protocol` must be one of {', '.join(PROTOCOL_TEXT)}, found '{protocol}'.")
        self._protocol, self._vocabulary, self._fits, self.background = protocol, vocabulary, fits, vocabulary.background
        self.everything = self._name(range(len(vocabulary)))

    def _name(self, classes: Sequence[int]) -> list[Prompt]:
        return split_names(self._vocabulary.names, self._vocabulary.without_background(classes), self._fits)

    def __call__(self, mask: Tensor) -> list[Prompt]:
        """The prompts of an image with this label map (H, W); under "oracle", an image without a named pixel has none."""
        return self.everything if self._protocol == "vocabulary" else self._name(present_classes(mask))


class PromptedSegmenter:
    """Segments the images of a batch by the names in their prompts; a `Segmenter`.

    Args:
        readout: how maps are read.
        make_prompts: which prompts an image with a given label map gets.

    Raises:
        UserError: the vocabulary has a background class and `readout` no level for it.
    """

    def __init__(self, readout: Readout, make_prompts: PromptMaker) -> None:
        if make_prompts.background is not None and readout.background is None:
            raise UserError(
                "this data set has a background class, which no prompt names: set `readout.background` to the level in [0, 1] that "
                "the map of a named class must reach, or take a data set without that class."
            )
        self._readout, self._make_prompts = readout, make_prompts

    def __call__(self, backbone: Backbone, batch: Batch, blocks: Sequence[int]) -> dict[int, list[Tensor]]:
        """Label maps of class ids; an image without prompts and without a background class is `IGNORE` throughout."""
        prompts = [self._make_prompts(mask) for mask in batch.masks]
        classes = [[k for prompt in own for k in prompt.classes] for own in prompts]
        maps = self._readout.class_maps(backbone, batch.images, prompts, batch.indices, blocks)
        return {
            block: [
                self._readout.segment(own, ids, frame, self._make_prompts.background, frame.picture(image))
                for own, ids, frame, image in zip(maps[block], classes, frames(batch), batch.images, strict=True)
            ]
            for block in blocks
        }


@torch.no_grad()
def calibrate(readout: Readout, backbone: Backbone, unlabelled: Iterable[Batch], prompts: Sequence[Prompt], block: int) -> Calibration:
    """The statistics of the maps of all classes over images, whose masks are not read.

    Args:
        readout: how maps are read.
        backbone: the model.
        unlabelled: the images.
        prompts: those that name the whole vocabulary, see `PromptMaker.everything`.
        block: block that is read.

    Raises:
        UserError: there are fewer than two images.
    """
    found = []
    for batch in unlabelled:
        batch = batch.to(backbone.device)
        maps = readout.class_maps(backbone, batch.images, [prompts] * len(batch), batch.indices, [block])[block]
        found += [peaks(own, frame).cpu() for own, frame in zip(maps, frames(batch), strict=True)]
    return Calibration.of_peaks(found, [k for prompt in prompts for k in prompt.classes])


class BlockScores(nn.Module):
    """Confusion matrices of several blocks, read in the same passes.

    Args:
        segment: how a batch is segmented.
        blocks: block indices.
        classes: number of classes.
    """

    def __init__(self, *, segment: Segmenter, blocks: Sequence[int], classes: int) -> None:
        super().__init__()
        self._segment = segment
        self.scores = by_name({str(block): SegmentationScore(classes) for block in blocks})

    def update(self, backbone: Backbone, batch: Batch) -> dict[int, list[Tensor]]:
        """Segment a batch with every block and count it; returns what the segmenter does."""
        predictions = self._segment(backbone, batch, [int(block) for block in self.scores])
        self.count(predictions, batch.masks)
        return predictions

    def count(self, predictions: dict[int, list[Tensor]], masks: Sequence[Tensor]) -> None:
        """Count label maps of each block, and the true ones."""
        for block, labels in predictions.items():
            for predicted, mask in zip(labels, masks, strict=True):
                self.scores[str(block)].update(predicted, mask)

    def compute(self) -> dict[int, dict[str, Tensor]]:
        """Scores of each block over everything counted, on all processes."""
        return {int(block): score.compute() for block, score in self.scores.items()}

    def reset(self) -> None:
        """Forget everything counted."""
        for score in self.scores.values():
            score.reset()
