"""Evaluate segmentation without words: proposals of the empty prompt, matched with the classes of each image (paper, appendix A.4)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seg4diff.backbones.base import Backbone
from seg4diff.data.sample import Batch, Vocabulary
from seg4diff.errors import UserError
from seg4diff.evaluation.matching import MATCHING_TEXT, Matching, matched_labels
from seg4diff.evaluation.metrics import SegmentationScore, by_name
from seg4diff.evaluation.module import SplitEvaluation
from seg4diff.evaluation.progress import Progress
from seg4diff.evaluation.protocol import Segmenter
from seg4diff.segmentation.frame import frames
from seg4diff.segmentation.unsupervised import ProposalReadout, label_proposals

BLIND = {"single": 1, "tiles": 3}
"""Partitions that look at no image: name -> equal parts along each side."""


class UnsupervisedModule(SplitEvaluation):
    """Segmentation by merged maps of the empty prompt; a background class is a class like the others.

    Args:
        backbone: see `SplitEvaluation`.
        vocabulary: see `SplitEvaluation`.
        proposals: how proposals are read.
        matching: "one_to_one": a class is one proposal (paper, DiffSeg); "many_to_one": background is all that is left over (DiffCut, for
            data sets with such a class).
        expert_layer: see `SplitEvaluation`.
        base_blocks: see `SplitEvaluation`.
        resamples: see `SplitEvaluation`.
        seed: seed of the draws of the resamples.
        progress: see `SplitEvaluation`.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        vocabulary: Vocabulary,
        proposals: ProposalReadout,
        matching: Matching,
        expert_layer: int,
        base_blocks: str | Sequence[int],
        resamples: int,
        seed: int,
        progress: Progress | None = None,
    ) -> None:
        if matching not in MATCHING_TEXT:
            raise UserError(f"evaluation.matching must be one of {', '.join(MATCHING_TEXT)}, found '{matching}'.")
        super().__init__(
            backbone=backbone,
            vocabulary=vocabulary,
            protocol=matching,
            expert_layer=expert_layer,
            base_blocks=base_blocks,
            resamples=resamples,
            seed=seed,
            progress=progress,
        )
        self._proposals = proposals

    def make_segmenter(self, vocabulary: Vocabulary) -> Segmenter:
        return ProposalSegmenter(self._proposals, len(vocabulary), self._shared(vocabulary))

    def make_floors(self, vocabulary: Vocabulary) -> nn.Module:
        return BlindFloors(len(vocabulary), self._shared(vocabulary))

    def _shared(self, vocabulary: Vocabulary) -> int | None:
        if self._protocol == "one_to_one":
            return None
        if vocabulary.background is None:
            raise UserError(
                "evaluation.matching=many_to_one makes background of all proposals that are left over, and this data set has no background "
                "class: use one_to_one."
            )
        return vocabulary.background


class ProposalSegmenter:
    """Segments the images of a batch by matched proposals; a `Segmenter`.

    Args:
        proposals: how proposals are read.
        classes: number of classes.
        shared: see `matched_labels`.
    """

    def __init__(self, proposals: ProposalReadout, classes: int, shared: int | None) -> None:
        self._proposals, self._classes, self._shared = proposals, classes, shared

    def __call__(self, backbone: Backbone, batch: Batch, blocks: Sequence[int]) -> dict[int, list[Tensor]]:
        """Label maps of class ids, `IGNORE` where a proposal has no class."""
        found = self._proposals.proposals(backbone, batch.images, batch.indices, blocks)
        return {
            block: [
                matched_labels(label_proposals(own, frame), mask, self._classes, self._shared)
                for own, frame, mask in zip(per_image, frames(batch), batch.masks, strict=True)
            ]
            for block, per_image in found.items()
        }


class BlindFloors(nn.Module):
    """What proposals that look at no image score under the same matching.

    Args:
        classes: number of classes.
        shared: see `matched_labels`.
    """

    def __init__(self, classes: int, shared: int | None) -> None:
        super().__init__()
        self._classes, self._shared = classes, shared
        self.scores = by_name({name: SegmentationScore(classes) for name in BLIND})

    def update(self, mask: Tensor) -> None:
        """Count one label map (H, W)."""
        for name, parts in BLIND.items():
            labels = matched_labels(tiles(mask.shape, parts).to(mask.device), mask, self._classes, self._shared)
            self.scores[name].update(labels, mask)

    def compute(self) -> dict[str, Tensor]:
        """MIoU in [0, 1] of one proposal that is the whole image ("single"), and of nine equal ones ("tiles")."""
        return {name: score.compute()["miou"] for name, score in self.scores.items()}


def tiles(size: Sequence[int], parts: int) -> Tensor:
    """Proposal numbers of `parts` x `parts` equal rectangles, (H, W)."""
    rows, columns = (torch.arange(length) * parts // length for length in size)
    return rows[:, None] * parts + columns
