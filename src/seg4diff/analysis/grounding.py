"""How well the maps of a block segment the words of the prompt (paper, figures 8, 15, 16 and 17, table 5)."""

from typing import Any

from torch import Tensor

from seg4diff.analysis.scene import Case, Look
from seg4diff.analysis.scored import QUANTITIES, BlockCounts, label_map, normalised, pool_classes
from seg4diff.analysis.study import Findings, Reader, Row, Setting
from seg4diff.attention.joint import Joint
from seg4diff.attention.maps import Scores, i2t_per_head, t2i_per_head
from seg4diff.evaluation.baselines import GuessBaselines
from seg4diff.segmentation.readout import Normalisation

NORMALISATIONS: tuple[Normalisation, ...] = ("none", "minmax")
Way = tuple[str, Scores, Normalisation]
"""Direction (i2t, t2i), scores (see `seg4diff.attention.maps.i2t`) and normalisation of class maps."""


class Grounding(Reader):
    """Class maps of a block as a segmentation: argmax over the classes of the prompt, scored by the masks.

    The model's own readout comes first, read from the mean over the heads and from each head. Beside it are the four normalisations of
    table 5, and T2I maps: where the tokens of a word look, instead of which image tokens look at them. A family whose text looks at
    nothing has no T2I maps.
    """

    title = "segmentation by I2T and T2I maps"
    needs_masks = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        own: Way = ("i2t", setting.readout.scores, setting.readout.normalisation)
        every: list[Way] = [("i2t", scores, kind) for scores in ("logits", "joint") for kind in NORMALISATIONS]
        own_first = sorted(NORMALISATIONS, key=lambda kind: kind != own[2])  # the first line of each direction is read as the model is
        every += [("t2i", "joint", kind) for kind in own_first if setting.text_attends]
        self.ways = list(dict.fromkeys([own, *every]))
        self._readouts = {kind: normalised(setting.readout, kind) for kind in NORMALISATIONS}
        self.blocks, self.heads = BlockCounts(setting, len(self.ways)), BlockCounts(setting, setting.heads)
        self.baselines = GuessBaselines(len(setting.vocabulary), oracle=True, background=setting.vocabulary.background)

    def see(self, look: Look) -> None:
        """Count a look."""
        case, setting, chosen = look.case, self.setting, self.setting.readout.heads
        heads = {kind: class_maps(look.joint, *kind, case) for kind in dict.fromkeys(way[:2] for way in self.ways)}
        means = {kind: (own if chosen is None else own[chosen]).mean(dim=0) for kind, own in heads.items()}
        self.blocks.update(look, [label_map(means[way[:2]], case, self._readouts[way[2]], setting) for way in self.ways])
        self.heads.update(look, [label_map(own, case, setting.readout, setting) for own in heads[self.ways[0][:2]]])
        if look.level == look.block == 0 and case.mask is not None:
            self.baselines.update(case.mask)
        if setting.album.wants(case.number):
            for direction, scores in means:
                name = f"level{look.level}/block{look.block}/{direction}"
                if scores == "joint":
                    setting.album.add("segmentation", case.number, name, means[direction, scores])

    def result(self) -> Findings:
        """Quantities: miou, macc, pacc; and "baseline", the mIoU of guesses that do not look at the image, which has no block."""
        found, heads = self.blocks.scores(), self.heads.scores()
        rows = [row for k, way in enumerate(self.ways) for row in self.rows(found[:, :, k], QUANTITIES, _columns(way))]
        rows += self.rows(heads, QUANTITIES, _columns(self.ways[0]))
        rows += [_baseline(name, float(value)) for name, value in self.baselines.compute().items()]
        return Findings(rows, {"counts": self.blocks.images.compute()})


def class_maps(joint: Joint, direction: str, scores: Scores, case: Case) -> Tensor:
    """Class maps of every head, (heads, C, h, w)."""
    maps = i2t_per_head(joint, scores) if direction == "i2t" else t2i_per_head(joint)
    return pool_classes(maps[0], case)


def _columns(way: Way) -> dict[str, Any]:
    return dict(zip(("direction", "scores", "normalisation"), way, strict=True))


def _baseline(name: str, value: float) -> Row:
    columns = {"direction": name, "scores": None, "normalisation": None}
    return {"sigma": None, "block": None, "head": None, **columns, "quantity": "baseline", "value": value}
