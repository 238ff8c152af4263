"""The order of image and text in a joint sequence."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a joint sequence stand.

    Some families put tokens before the text that are neither image nor text, such as learned registers or padding of the image. They
    belong to the text axis here, at its end, so that position k of the axis is text token k.

    Attributes:
        text: text tokens.
        text_first: whether text stands before the image.
        extra: tokens before the text that are neither.
    """

    text: int
    text_first: bool
    extra: int = 0

    def split(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(..., N + T, d) -> image (..., N, d) and text (..., T, d), with the extra tokens as its last; views where there are none."""
        axis = self.text + self.extra
        image = tokens[..., axis:, :] if self.text_first else tokens[..., : tokens.shape[-2] - axis, :]
        text = tokens[..., :axis, :] if self.text_first else tokens[..., tokens.shape[-2] - axis :, :]
        return image, text if not self.extra else _turned(text, self.extra)

    def join(self, image: Tensor, text: Tensor) -> Tensor:
        """Undo `split`."""
        text = text if not self.extra else _turned(text, self.text)
        return torch.cat([text, image] if self.text_first else [image, text], dim=-2)


def _turned(tokens: Tensor, count: int) -> Tensor:
    """The first tokens (..., count, d) moved behind the others."""
    return torch.cat([tokens[..., count:, :], tokens[..., :count, :]], dim=-2)
