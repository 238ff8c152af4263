"""The order of image and text in a joint sequence."""

from dataclasses import dataclass, replace

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
        text_attends: whether text tokens have queries; False = queries and outputs are those of the image alone.
        ragged: whether, in each row of a batch, the image follows the last token of its own prompt, and padding ends the row.
        order: (B, N + T) for a ragged batch whose prompts differ in length: which token of its row stands at each place of the order
            text, padding, image. None = that is the order.
    """

    text: int
    text_first: bool
    extra: int = 0
    text_attends: bool = True
    ragged: bool = False
    order: Tensor | None = None

    @property
    def queries(self) -> "Layout":
        """The layout of queries and of what attention returns for them."""
        return self if self.text_attends else replace(self, text=0, extra=0)

    def of_block(self, mask: Tensor | None) -> "Layout":
        """The layout inside a block that gets this mask of the keys, (B, ..., N + T) bool; it tells how long each row of a batch is."""
        if not self.ragged or mask is None:
            return self
        place, padding = torch.arange(mask.shape[-1], device=mask.device), (~mask).flatten(1).sum(dim=1, keepdim=True)
        behind = torch.where(place < self.text, place + mask.shape[-1] - self.text, place - padding)
        return replace(self, order=torch.where(place < self.text - padding, place, behind))

    def split(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(..., N + T, d) -> image (..., N, d) and text (..., T, d), with the extra tokens as its last; views where nothing moves."""
        if self.order is not None:
            tokens = _picked(tokens, self.order)
        axis = self.text + self.extra
        image = tokens[..., axis:, :] if self.text_first else tokens[..., : tokens.shape[-2] - axis, :]
        text = tokens[..., :axis, :] if self.text_first else tokens[..., tokens.shape[-2] - axis :, :]
        return image, text if not self.extra else _turned(text, self.extra)

    def join(self, image: Tensor, text: Tensor) -> Tensor:
        """Undo `split`."""
        text = text if not self.extra else _turned(text, self.text)
        tokens = torch.cat([text, image] if self.text_first else [image, text], dim=-2)
        return tokens if self.order is None else _picked(tokens, self.order.argsort(dim=1))


def _picked(tokens: Tensor, order: Tensor) -> Tensor:
    """The tokens (B, ..., S, d) of each row of a batch in its order (B, S)."""
    return tokens.gather(-2, order.view(len(order), *[1] * (tokens.ndim - 3), -1, 1).expand_as(tokens))


def _turned(tokens: Tensor, count: int) -> Tensor:
    """The first tokens (..., count, d) moved behind the others."""
    return torch.cat([tokens[..., count:, :], tokens[..., :count, :]], dim=-2)
