"""What blocks find without words: maps of the empty prompt's tokens, and the proposals they merge to (paper, figures 9 b and 30)."""

import torch

from seg4diff.analysis.scene import LabelledScene, Look
from seg4diff.analysis.scored import QUANTITIES, BlockCounts
from seg4diff.analysis.study import Findings, MaskPasses, Setting
from seg4diff.analysis.tallies import ImageValues
from seg4diff.evaluation.baselines import TileBaselines
from seg4diff.evaluation.matching import matched_labels
from seg4diff.segmentation.proposals import label_proposals

NAMES = {"single": "the whole image", "tiles": "3 x 3 tiles"}
"""Of `TileBaselines`, in words."""


class EmptyPrompt(MaskPasses):
    """Proposals of the empty prompt at every block, matched one to one with the classes of each image (paper, appendix A.4)."""

    title = "segmentation by the empty prompt"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.blocks = BlockCounts(setting, 1)
        self.proposals = ImageValues(setting.levels, setting.blocks, 1)
        self.baselines = TileBaselines(len(setting.vocabulary), shared=None)

    def measure(self, scene: LabelledScene) -> None:
        """Count the images of a scene."""
        condition = scene.backbone.encode_text([""] * len(scene.cases))
        window, setting = scene.backbone.text_window, self.setting

        def see(look: Look) -> None:
            case = look.case
            maps = setting.readout.token_maps(look.joint, look.block)[0, :window].unflatten(-1, case.grid)
            merged = setting.proposals.merge_maps(maps)
            assert case.frame is not None and case.mask is not None
            self.blocks.update(look, [matched_labels(label_proposals(merged, case.frame), case.mask, len(setting.vocabulary))])
            if look.level == look.block == 0:
                self.baselines.update(case.mask)
            self.proposals.update(look, torch.tensor([float(len(merged))]))
            if setting.album.wants(case.number):
                for name, own in (("maps", maps), ("proposals", merged)):
                    setting.album.add("empty_prompt", case.number, f"level{look.level}/block{look.block}/{name}", own)

        for level in range(setting.levels):
            scene.read_level(level, scene.blocks, see, condition)

    def result(self) -> Findings:
        """Quantities: miou, macc, pacc, the mean number of proposals; and "baseline", the mIoU of equal tiles, which has no block."""
        _, proposals = self.proposals.of_images()
        merged = {"proposals": "merged"}
        rows = self.rows(self.blocks.scores()[:, :, 0], QUANTITIES, merged)
        rows += self.rows(proposals.nanmean(dim=0), ("proposals",), merged)
        for name, value in self.baselines.compute().items():
            rows.append(
                {"sigma": None, "block": None, "head": None, "proposals": NAMES[name], "quantity": "baseline", "value": float(value)}
            )
        return Findings(rows, {"counts": self.blocks.images.compute()})
