"""The attention budget: how much of it falls into each quadrant (paper, section 3.3, figure 2)."""

import torch

from seg4diff.analysis.scene import Look
from seg4diff.analysis.study import Findings, Reader, Setting
from seg4diff.analysis.tallies import HeadMeans, ImageValues
from seg4diff.attention.maps import quadrant_mass

QUADRANTS = ("i2i", "i2t", "t2i", "t2t")
"""Queries first: i2t is the attention of image queries on text keys."""


class Budget(Reader):
    """Mass of the four quadrants, each a mean over its queries, and the mass that uniform attention would give them.

    A family that lacks a quadrant, as one whose text never looks at the image, has no value for it: NaN, and not 0.
    """

    title = "attention budget"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        values = 2 * len(QUADRANTS)
        self.images = ImageValues(setting.levels, setting.blocks, values)
        self.heads = HeadMeans(setting.levels, setting.blocks, setting.heads, len(QUADRANTS))

    def see(self, look: Look) -> None:
        """Count a look."""
        mass = quadrant_mass(look.joint)
        heads = torch.stack([mass[name][0] for name in QUADRANTS], dim=1)
        image, present = look.joint.image_key.shape[2], look.joint.text_present
        text = look.joint.text_key.shape[2] if present is None else int(present.sum())  # a masked token is no key
        found = heads.mean(dim=0).float()
        uniform = found.new_tensor([keys / (image + text) for keys in (image, text, image, text)])
        self.heads.update(look, heads)
        self.images.update(look, torch.cat([found, uniform.where(found.isfinite(), torch.nan)]))

    def result(self) -> Findings:
        """Quantities: mass, uniform, and their ratio "relative": attention per key, in units of the mean over all keys."""
        numbers, values = self.images.of_images()
        mass, uniform = values.nanmean(dim=0).chunk(2, dim=-1)
        rows = []
        for k, quadrant in enumerate(QUADRANTS):
            own = torch.stack([mass[..., k], uniform[..., k], mass[..., k] / uniform[..., k]], dim=-1)
            rows += self.rows(own, ("mass", "uniform", "relative"), {"quadrant": quadrant})
        for k, quadrant in enumerate(QUADRANTS):
            rows += self.rows(self.heads.compute()[..., k : k + 1], ("mass",), {"quadrant": quadrant})
        return Findings(rows, {"images": torch.tensor(numbers), "mass": values[..., : len(QUADRANTS)]})
