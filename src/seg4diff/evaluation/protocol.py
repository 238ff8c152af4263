"""The zero-shot segmentation protocol: which prompts an image gets, and the scores of every block on a split."""

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor, nn

from seg4diff.backbones.base import Backbone
from seg4diff.data.sample import Batch, Vocabulary, present_classes
from seg4diff.errors import UserError
from seg4diff.evaluation.metrics import SegmentationScore
from seg4diff.segmentation.prompts import Prompt, split_names
from seg4diff.segmentation.readout import Readout, segment

PromptProtocol = Literal["oracle", "vocabulary"]
PROTOCOL_TEXT = {
    "oracle": "oracle prompts (the classes present in the ground truth, as in the paper)",
    "vocabulary": "full-vocabulary prompts (every class of the data set)",
}


class PromptMaker:
    """Which prompts an image gets: one, or as many as its class names need to fit (see `split_names`).

    Args:
        protocol: "oracle" names the classes present in the ground truth (paper, section 4.1), "vocabulary" names all.
        vocabulary: the class names.
        fits: whether the model takes a prompt whole.

    Attributes:
        everything: the prompts that name the whole vocabulary.

    Raises:
        UserError: there is no such protocol, or a class name does not fit by itself; said before any image is seen.
    """

    def __init__(self, protocol: PromptProtocol, vocabulary: Vocabulary, fits: Callable[[str], bool]) -> None:
        if protocol not in PROTOCOL_TEXT:
            raise UserError(f"prompt protocol must be one of {list(PROTOCOL_TEXT)}, found '{protocol}'.")
        self._protocol, self._names, self._fits = protocol, vocabulary.names, fits
        self.everything = split_names(vocabulary.names, range(len(vocabulary)), fits)

    def __call__(self, mask: Tensor) -> list[Prompt]:
        """The prompts of an image with this label map (H, W); under "oracle", an image without a labelled pixel has none."""
        return self.everything if self._protocol == "vocabulary" else split_names(self._names, present_classes(mask), self._fits)


class BlockScores(nn.Module):
    """Confusion matrices of several blocks, read in the same passes.

    Args:
        readout: how maps are read.
        make_prompts: which prompts an image with a given label map gets.
        blocks: block indices.
        classes: number of classes.
    """

    def __init__(self, *, readout: Readout, make_prompts: Callable[[Tensor], list[Prompt]], blocks: Sequence[int], classes: int) -> None:
        super().__init__()
        self.readout, self.make_prompts = readout, make_prompts
        self.scores = nn.ModuleDict({str(block): SegmentationScore(classes) for block in blocks})

    def update(self, backbone: Backbone, batch: Batch, image_ids: Sequence[int]) -> dict[int, list[Tensor]]:
        """Segment a batch with every block and count it.

        Args:
            backbone: the model.
            batch: images and label maps; an image without a labelled pixel is left out.
            image_ids: numbers that seed the noise.

        Returns:
            For each block the predicted label maps, at the size of the batch's masks.
        """
        prompts = [self.make_prompts(mask) for mask in batch.masks]
        classes = [[k for prompt in own for k in prompt.classes] for own in prompts]
        maps = self.readout.class_maps(backbone, batch.images, prompts, image_ids, [int(block) for block in self.scores])
        predictions = {
            block: [
                segment(image_maps, ids, mask.shape) if ids else mask
                for image_maps, ids, mask in zip(block_maps, classes, batch.masks, strict=True)
            ]
            for block, block_maps in maps.items()
        }
        for block, labels in predictions.items():
            for predicted, mask in zip(labels, batch.masks, strict=True):
                self.scores[str(block)].update(predicted, mask)
        return predictions

    def compute(self) -> dict[int, dict[str, Tensor]]:
        """Scores of each block over everything counted, on all processes."""
        return {int(block): score.compute() for block, score in self.scores.items()}

    def reset(self) -> None:
        """Forget everything counted."""
        for score in self.scores.values():
            score.reset()
