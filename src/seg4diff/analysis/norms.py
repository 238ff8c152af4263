"""Norms of the values (paper, section 3.3, figures 4 and 28)."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from seg4diff.analysis.scene import Look
from seg4diff.analysis.study import Findings, Reader, Setting
from seg4diff.analysis.tallies import HeadMeans, ImageValues

PARTS = ("image", "text", "prompt")
"""Tokens: of the image, of the text without masked ones, and those of the text that belong to characters of the prompt."""


class Norms(Reader):
    """Mean L2 norm of the values of each part's tokens: 1/N sum_i |v_i|, over all heads together and for each head."""

    title = "norms of the values"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.images = ImageValues(setting.levels, setting.blocks, len(PARTS))
        self.heads = HeadMeans(setting.levels, setting.blocks, setting.heads, len(PARTS))

    def see(self, look: Look) -> None:
        """Count a look."""
        joint, padding = look.joint, look.case.padding.to(look.joint.text_value.device)
        prompt = pad(~padding, (0, joint.text_value.shape[2] - len(padding)))  # the model's own tokens may follow the text
        text = torch.ones_like(prompt) if joint.text_present is None else joint.text_present[0]
        parts = (joint.image_value, joint.text_value[:, :, text], joint.text_value[:, :, prompt])
        norms = [value[0].float().norm(dim=-1) for value in parts]  # (heads, tokens) each
        self.heads.update(look, torch.stack([own.mean(dim=1) for own in norms], dim=1))
        self.images.update(look, torch.stack([_all_heads(own).mean() for own in norms]))

    def result(self) -> Findings:
        """Quantity: norm."""
        numbers, values = self.images.of_images()
        rows = []
        for k, part in enumerate(PARTS):
            rows += self.rows(values.nanmean(dim=0)[..., k : k + 1], ("norm",), {"tokens": part})
        for k, part in enumerate(PARTS):
            rows += self.rows(self.heads.compute()[..., k : k + 1], ("norm",), {"tokens": part})
        return Findings(rows, {"images": torch.tensor(numbers), "norm": values})


def _all_heads(norms: Tensor) -> Tensor:
    """Norms (heads, tokens) of the parts of a vector -> those of the whole vector (tokens,)."""
    return norms.square().sum(dim=0).sqrt()
