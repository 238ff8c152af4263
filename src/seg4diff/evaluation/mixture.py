"""Fit the weights of `seg4diff.segmentation.readers.mixture` on a split with labels: greedy choice of heads (Caruana et al. 2004)."""

from typing import NamedTuple

import lightning as L
import torch
from torch import Tensor

from seg4diff.backbones.base import Backbone
from seg4diff.data.sample import Batch, Vocabulary, present_classes
from seg4diff.errors import UserError, at_least
from seg4diff.evaluation.metrics import mean_iou
from seg4diff.evaluation.protocol import PromptMaker, PromptProtocol
from seg4diff.segmentation.frame import frames
from seg4diff.segmentation.readers.base import ClassMaps, Pass
from seg4diff.segmentation.readers.mixture import head_maps
from seg4diff.segmentation.readout import Readout


class Example(NamedTuple):
    """An image: the maps of every head (heads of all blocks, classes, tokens), the ids of the classes, the true class of each token."""

    maps: Tensor
    classes: Tensor
    truth: Tensor


class MixtureFit(L.LightningModule):
    """Test loop that keeps the maps of every head of every block; once it is over, `weights` and `score` hold the choice and its mIoU.

    The score is taken on the token grid, where a token has the class that covers most of it.

    Args:
        backbone: the model.
        vocabulary: the classes of the data set.
        readout: how maps are read.
        protocol: see `PromptMaker`.
        most: heads that are chosen; one may be chosen again, which raises its weight.
    """

    def __init__(self, *, backbone: Backbone, vocabulary: Vocabulary, readout: Readout, protocol: PromptProtocol, most: int) -> None:
        super().__init__()
        at_least(1, most=most)
        self.backbone, self._classes, self._most = backbone, len(vocabulary), most
        self._readout, self._prompts = readout.changed(reader=EveryHead()), PromptMaker(protocol, vocabulary, backbone.fits)
        self._examples: list[Example] = []
        self.weights: dict[str, list[float]] = {}
        self.score = 0.0

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the maps of a batch."""
        grid, prompts = self.backbone.token_grid(*batch.images.shape[-2:]), [self._prompts(mask) for mask in batch.masks]
        maps = self._readout.class_maps(self.backbone, batch.images, prompts, batch.indices, range(len(self.backbone.attention_sites())))
        for k, (mask, frame) in enumerate(zip(batch.masks, frames(batch), strict=True)):
            there = present_classes(mask)
            if not there:
                continue
            covered = frame.average(torch.stack([mask == own for own in there]).float(), grid)
            truth = torch.where(covered.sum(dim=0) > 0, torch.tensor(there, device=mask.device)[covered.argmax(dim=0)], -1)
            classes = torch.tensor([own for prompt in prompts[k] for own in prompt.classes])
            heads = torch.cat([own[k].unflatten(0, (len(classes), -1)).transpose(0, 1) for own in maps.values()])
            self._examples.append(Example(heads.flatten(2).cpu(), classes, truth.flatten().cpu()))

    def on_test_epoch_end(self) -> None:
        if not self._examples:
            raise UserError("no image of this split has a label, so no weights can be fitted: choose another split.")
        heads = self.backbone.heads
        chosen, self.score = choose(self._examples, self._classes, self._most)
        for number in chosen:
            own = self.weights.setdefault(str(number // heads), [0.0] * heads)
            own[number % heads] += round(1 / len(chosen), 4)
        self.weights = dict(sorted(self.weights.items(), key=lambda item: int(item[0])))


class EveryHead:
    """A reader whose maps of a block are those of each of its heads: (classes x heads, h, w)."""

    per_block = True
    settings = ("scores",)

    def read(self, run: Pass, blocks: list[int]) -> ClassMaps:
        """See `Reader`."""
        record = run.capture(blocks)
        for block in blocks:
            heads = [head_maps(run, record, block, head) for head in range(run.backbone.heads)]
            yield block, [torch.stack(own, dim=1).flatten(0, 1) for own in zip(*heads, strict=True)]


def choose(examples: list[Example], classes: int, most: int) -> tuple[list[int], float]:
    """Heads, one after the other, each the one whose addition gives the highest mIoU; and the mIoU of the best number of them."""
    sums = [torch.zeros_like(example.maps[0]) for example in examples]
    chosen, scored = list[int](), list[float]()
    for _ in range(most):
        trials = torch.stack(
            [
                _score([(s + e.maps[head]) for s, e in zip(sums, examples, strict=True)], examples, classes)
                for head in range(len(examples[0].maps))
            ]
        )
        best = int(trials.argmax())
        chosen.append(best)
        scored.append(float(trials[best]))
        sums = [s + e.maps[best] for s, e in zip(sums, examples, strict=True)]
    count = max(range(most), key=lambda k: scored[k]) + 1
    return chosen[:count], scored[count - 1]


def _score(maps: list[Tensor], examples: list[Example], classes: int) -> Tensor:
    counts = torch.zeros(3, classes, dtype=torch.int64)
    for own, example in zip(maps, examples, strict=True):
        counted = example.truth >= 0
        found, truth = example.classes[own.argmax(dim=0)][counted], example.truth[counted]
        for row, values in enumerate((truth[found == truth], found, truth)):
            counts[row] += torch.bincount(values, minlength=classes)
    return mean_iou(counts)
