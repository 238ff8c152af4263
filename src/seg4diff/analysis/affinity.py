"""Which block's image-to-image attention groups what belongs together: it is applied to the maps of the expert block."""

import torch
from torch import Tensor

from seg4diff.analysis.scene import LabelledScene, Look
from seg4diff.analysis.scored import QUANTITIES, BlockCounts, label_map, pool_classes
from seg4diff.analysis.study import Findings, MaskPasses, Setting
from seg4diff.attention.maps import affinity


class Affinity(MaskPasses):
    """Segmentation by the expert's class maps after the I2I attention of each block was applied to them (see `attention.maps.affinity`).

    The expert's maps of an image and a noise level come from a first pass, which stops there: they are needed at earlier blocks too.
    """

    title = "refinement by image-to-image attention"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.blocks = BlockCounts(setting, 2)  # refined, and as they were

    def measure(self, scene: LabelledScene) -> None:
        """Count the images of a scene."""
        setting, maps = self.setting, dict[int, Tensor]()

        def keep(look: Look) -> None:
            maps[look.case.number] = pool_classes(setting.readout.token_maps(look.joint, look.block)[0], look.case)

        def see(look: Look) -> None:
            case, before = look.case, maps[look.case.number]
            after = affinity(look.joint, before.flatten(1)[None])[0].unflatten(-1, case.grid)
            self.blocks.update(look, [label_map(own, case, setting.readout, setting) for own in (after, before)])

        for level in range(setting.levels):
            scene.read_level(level, [setting.expert_layer], keep)
            scene.read_level(level, scene.blocks, see)

    def result(self) -> Findings:
        """Quantities: miou, macc, pacc after the refinement, and "gain" of the mIoU over the expert's maps as they were."""
        found = self.blocks.scores()
        gain = found[:, :, 0, :1] - found[:, :, 1, :1]
        rows = self.rows(torch.cat([found[:, :, 0], gain], dim=-1), (*QUANTITIES, "gain"), {"refines": self.setting.expert_layer})
        return Findings(rows, {"counts": self.blocks.images.compute()})
