"""How coarse the maps of words are: those of single heads against their mean (paper, figures 9 a, 26 and 27)."""

import math

import numpy as np
import torch
from scipy.ndimage import label
from torch import Tensor

from seg4diff.analysis.scene import Look
from seg4diff.analysis.scored import pool_classes
from seg4diff.analysis.study import Findings, Reader, Setting
from seg4diff.analysis.tallies import HeadMeans, ImageValues
from seg4diff.attention.maps import i2t_per_head

QUANTITIES = ("entropy", "components", "area")


class Granularity(Reader):
    """Shape of the I2T maps of the prompt's words, mean over the words.

    entropy: of the map over its sum p, - sum_i p_i log p_i / log N, in [0, 1]; 1 = the same everywhere.
    components: connected regions (4 neighbours) of image tokens where the map is at least half of its maximum.
    area: the share of image tokens in them.
    """

    title = "granularity of the maps"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.images = ImageValues(setting.levels, setting.blocks, 2 * len(QUANTITIES))
        self.heads = HeadMeans(setting.levels, setting.blocks, setting.heads, len(QUANTITIES))

    def see(self, look: Look) -> None:
        """Count a look."""
        if not look.case.tokens:
            return
        maps = pool_classes(i2t_per_head(look.joint, "joint")[0], look.case)
        if look.case.frame is not None:
            maps = look.case.frame.tokens(maps)
        heads = shape_of(maps).mean(dim=1)
        self.heads.update(look, heads)
        self.images.update(look, torch.cat([shape_of(maps.mean(dim=0)).mean(dim=0), heads.mean(dim=0)]))

    def result(self) -> Findings:
        """Quantities: see the class; "maps" tells whether they are of the mean over the heads or means of what single heads have."""
        numbers, values = self.images.of_images()
        rows = []
        for k, maps in enumerate(("head mean", "single heads")):
            rows += self.rows(values.nanmean(dim=0)[..., 3 * k : 3 * k + 3], QUANTITIES, {"maps": maps})
        rows += self.rows(self.heads.compute(), QUANTITIES, {"maps": "single heads"})
        return Findings(rows, {"images": torch.tensor(numbers), "values": values})


def shape_of(maps: Tensor) -> Tensor:
    """Entropy, components and area of maps (..., h, w), see `Granularity`: (..., 3) on the CPU."""
    flat = maps.float().flatten(-2).cpu()
    shares = flat / flat.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    entropy = torch.special.entr(shares).sum(dim=-1) / math.log(max(2, flat.shape[-1]))
    high = (flat >= flat.amax(dim=-1, keepdim=True) / 2).unflatten(-1, maps.shape[-2:])
    regions = [label(own)[1] for own in high.flatten(0, -3).numpy().astype(np.uint8)]
    components = torch.tensor(regions, dtype=torch.float32).view(entropy.shape)
    return torch.stack([entropy, components, high.float().mean(dim=(-2, -1))], dim=-1)
