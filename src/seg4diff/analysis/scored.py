"""Segmentation of every block, scored by the masks: counts of the whole data set and of each image."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seg4diff.analysis.scene import Case, Look
from seg4diff.analysis.study import Setting
from seg4diff.analysis.tallies import ClassCounts, ImageClassCounts
from seg4diff.evaluation.metrics import confusion_of, counts_of, scores
from seg4diff.segmentation.readout import Normalisation, Readout

QUANTITIES = ("miou", "macc", "pacc")
"""See `seg4diff.evaluation.metrics.scores`."""


class BlockCounts(nn.Module):
    """Counts of label maps at every noise level and block.

    Args:
        setting: see `Setting`.
        ways: number of label maps of each look.
    """

    def __init__(self, setting: Setting, ways: int) -> None:
        super().__init__()
        self._classes = len(setting.vocabulary)
        self.total = ClassCounts(setting.levels, setting.blocks, ways, self._classes)
        self.images = ImageClassCounts(self._classes)

    def update(self, look: Look, labels: Sequence[Tensor]) -> None:
        """Count the label maps (H, W) of a look; of the first, also image by image."""
        assert look.case.mask is not None
        counts = [counts_of(confusion_of(own, look.case.mask, self._classes)) for own in labels]
        self.total.update(look, counts)
        self.images.update(look, counts[0])

    def scores(self) -> Tensor:
        """(L, B, ways, Q) in [0, 1], see `QUANTITIES`."""
        counts = self.total.compute()
        found = [[float(scores(own)[name]) for name in QUANTITIES] for own in counts.flatten(0, 2)]
        return torch.tensor(found, dtype=torch.float64).unflatten(0, counts.shape[:3])


def pool_classes(maps: Tensor, case: Case) -> Tensor:
    """Mean over the tokens of each class of the prompt: (..., T, N) -> (..., C, h, w)."""
    if not case.tokens:
        return maps.new_zeros(*maps.shape[:-2], 0, *case.grid)
    return torch.stack([maps[..., own, :].mean(dim=-2) for own in case.tokens], dim=-2).unflatten(-1, case.grid)


def normalised(readout: Readout, normalisation: Normalisation) -> Readout:
    """The same readout with another normalisation of class maps."""
    return readout.changed(normalisation=normalisation)


def label_map(maps: Tensor, case: Case, readout: Readout, setting: Setting) -> Tensor:
    """Class maps (C, h, w) of an image as the label map (H, W) that its mask is compared with."""
    assert case.frame is not None
    return readout.segment(maps, case.prompt.classes, case.frame, setting.vocabulary.background)
