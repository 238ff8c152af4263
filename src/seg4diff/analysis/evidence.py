"""One number per block of each study: what the finder ranks blocks by, and what it compares the studies with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor

from seg4diff.analysis.study import Findings

Filter = dict[str, Any]


@dataclass(frozen=True)
class Measure:
    """What one study says about every block in one number; the larger, the more a block is as the paper describes the expert.

    Attributes:
        title: in words.
        study: name of the study.
        quantity: see its `result`.
        sign: -1 where less is more.
        where: other columns of the lines that are meant.
        images: name of the evidence of single images, and the column of its last axis that holds this; None = there is none.
    """

    title: str
    study: str
    quantity: str
    sign: int = 1
    where: Filter = field(default_factory=dict)
    images: tuple[str, int] | None = None

    def of_blocks(self, findings: Mapping[str, Findings], sigma: float, blocks: int) -> list[float]:
        """The number of each block; NaN where it has none. The first line of a block counts: that of the model's own readout."""
        found = dict.fromkeys(range(blocks), float("nan"))
        wanted = {"head": None, "quantity": self.quantity} | self.where
        for row in reversed(findings[self.study].rows if self.study in findings else []):
            if row["sigma"] in (sigma, None) and row["block"] is not None and all(row[key] == value for key, value in wanted.items()):
                found[row["block"]] = self.sign * row["value"]
        return list(found.values())

    def of_images(self, findings: Mapping[str, Findings], level: int) -> Tensor | None:
        """The number of each image and block (N, B) without images that have none; None where the study or the quantity is missing."""
        if self.images is None or self.study not in findings or self.images[0] not in findings[self.study].evidence:
            return None
        values = findings[self.study].evidence[self.images[0]]  # (N, L, B, Q); images that are generated have one level
        values = self.sign * values[:, min(level, values.shape[1] - 1), :, self.images[1]]
        values = values[~values.isnan().any(dim=1)]
        return values if len(values) else None


BLUR: Filter = {"perturbation": "blur"}
MEASURES = {
    "grounding": Measure("mIoU of I2T maps", "segmentation", "miou", where={"direction": "i2t"}),
    "t2i": Measure("mIoU of T2I maps", "segmentation", "miou", where={"direction": "t2i"}),
    "attention": Measure("I2T attention per key", "budget", "relative", where={"quadrant": "i2t"}, images=("mass", 1)),
    "values": Measure("norm of the prompt's values", "norms", "norm", where={"tokens": "prompt"}, images=("norm", 2)),
    "focus": Measure("negative entropy of the maps", "granularity", "entropy", -1, where={"maps": "head mean"}, images=("values", 0)),
    "content": Measure("queries explained by the masks", "features", "masks", where={"features": "query", "by_chance": False}),
    "no words": Measure("mIoU of the empty prompt", "empty_prompt", "miou"),
    "affinity": Measure("gain by its affinity", "affinity", "gain"),
    "blur": Measure("effect of the blur on the velocity", "causal", "velocity", where=BLUR | {"task": "segmenting"}),
    "blur drawn": Measure("effect of the blur on generated images", "causal", "latents", where=BLUR, images=("generating", 0)),
    "removal drawn": Measure("effect of the removal on generated images", "causal", "latents", where={"perturbation": "remove"}),
}
"""All of them, in the order in which they are shown. Those with values of single images are what blocks are ranked by without masks."""


def rank_correlations(values: Mapping[str, list[float]]) -> dict[str, Any]:
    """Spearman's rank correlation over the blocks of each pair of measures.

    Args:
        values: by name of the measure, the number of each block; one that lacks a block is left out.

    Returns:
        names: of the measures; spearman: a row for each, None where a measure has one value for all blocks.
    """
    whole = {name: own for name, own in values.items() if not torch.tensor(own).isnan().any()}
    varied = {name: own for name, own in whole.items() if len(set(own)) > 1}
    pairs = {(a, b): float(spearmanr(varied[a], varied[b]).statistic) for a in varied for b in varied}
    return {"names": list(whole), "spearman": [[pairs.get((a, b)) for b in whole] for a in whole]}
