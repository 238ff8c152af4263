"""The zero-shot segmentation protocol: which prompt an image gets, and the scores of every block on a split."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from seg4diff.backbones.base import Backbone
from seg4diff.data.sample import Batch, Vocabulary, present_classes
from seg4diff.errors import UserError
from seg4diff.evaluation.metrics import SegmentationScore
from seg4diff.segmentation.prompts import Prompt, list_names
from seg4diff.segmentation.readout import Readout, segment

PromptProtocol = Literal["oracle", "vocabulary"]
PROTOCOL_TEXT = {
    "oracle": "oracle prompts (the classes present in the ground truth, as in the paper)",
    "vocabulary": "full-vocabulary prompts (every class of the data set)",
}


def make_prompts(protocol: PromptProtocol, masks: Sequence[Tensor], vocabulary: Vocabulary) -> list[Prompt]:
    """One prompt per label map.

    Args:
        protocol: "oracle" names the classes present in the ground truth (paper, section 4.1), "vocabulary" names all.
        masks: label maps (H, W).
        vocabulary: the class names.
    """
    if protocol not in PROTOCOL_TEXT:
        raise UserError(f"prompt protocol must be one of {list(PROTOCOL_TEXT)}, found '{protocol}'.")
    everything = list(range(len(vocabulary)))
    return [list_names(vocabulary.names, present_classes(mask) if protocol == "oracle" else everything) for mask in masks]


def check_vocabulary(protocol: PromptProtocol, backbone: Backbone, vocabulary: Vocabulary) -> None:
    """Refuse a full-vocabulary protocol whose one prompt is too long for the model, before anything is computed."""
    if protocol == "vocabulary":
        prompt = list_names(vocabulary.names, range(len(vocabulary)))
        try:
            backbone.encode_text([prompt.text])
        except UserError as error:
            raise UserError(f"protocol=vocabulary puts all {len(vocabulary)} class names into one prompt, but {error}") from error


class BlockScores(nn.Module):
    """Confusion matrices of several blocks, read in one pass.

    Args:
        readout: how maps are read.
        protocol: which prompt an image gets.
        blocks: block indices.
        vocabulary: the class names.
    """

    def __init__(self, *, readout: Readout, protocol: PromptProtocol, blocks: Sequence[int], vocabulary: Vocabulary) -> None:
        super().__init__()
        self.readout, self.protocol, self.vocabulary = readout, protocol, vocabulary
        self.scores = nn.ModuleDict({str(block): SegmentationScore(len(vocabulary)) for block in blocks})

    def update(self, backbone: Backbone, batch: Batch, image_ids: Sequence[int]) -> dict[int, list[Tensor]]:
        """Segment a batch with every block and count it.

        Args:
            backbone: the model.
            batch: images and label maps; an image without a labelled pixel is left out.
            image_ids: numbers that seed the noise.

        Returns:
            For each block the predicted label maps, at the size of the batch's masks.
        """
        prompts = make_prompts(self.protocol, batch.masks, self.vocabulary)
        maps = self.readout.class_maps(backbone, batch.images, prompts, image_ids, [int(block) for block in self.scores])
        predictions = {
            block: [
                segment(image_maps, prompt.classes, mask.shape) if prompt.classes else mask
                for image_maps, prompt, mask in zip(block_maps, prompts, batch.masks, strict=True)
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
