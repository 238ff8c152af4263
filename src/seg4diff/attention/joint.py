"""What enters the joint attention of a block, image and text apart."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from seg4diff.backbones.layout import Layout
from seg4diff.errors import UserError

Stream = Literal["image", "text"]
TENSORS = tuple(f"{stream}_{name}" for name in ("query", "key", "value") for stream in ("image", "text"))


@dataclass(frozen=True)
class Joint:
    """Queries, keys and values of one joint-attention block, as its attention call receives them: after norms and rotary embedding.

    All are views of the model's own tensors: gradients flow through them, and they take no memory of their own.

    Attributes:
        image_query, image_key, image_value: (B, heads, N, d).
        text_query, text_key, text_value: (B, heads, T, d).
        scale: factor on the scores, 1 / sqrt(d).
        bias: what the model adds to the scores, (B, 1 or heads, 1 or N + T, N + T), image before text on both axes; -inf where a query does
            not see a key, such as padding of the prompt. None = nothing.
    """

    image_query: Tensor
    text_query: Tensor
    image_key: Tensor
    text_key: Tensor
    image_value: Tensor
    text_value: Tensor
    scale: float
    bias: Tensor | None = None

    @classmethod
    def split(cls, query: Tensor, key: Tensor, value: Tensor, scale: float, layout: Layout, mask: Tensor | None = None) -> "Joint":
        """Take the joint tensors (B, heads, N + T, d) apart.

        Args:
            query: what the attention call receives.
            key: the same.
            value: the same.
            scale: factor on the scores.
            layout: where image and text stand.
            mask: the mask that the attention call receives: bool, True where a key is seen, or added to the scores.
        """
        parts: dict[str, Tensor] = {}
        for name, whole in (("query", query), ("key", key), ("value", value)):
            parts[f"image_{name}"], parts[f"text_{name}"] = layout.split(whole)
        return cls(**parts, scale=scale, bias=None if mask is None else _bias(mask, layout))

    def join(self, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
        """Undo `split`: query, key, value (B, heads, N + T, d) in the model's own order."""
        return (
            layout.join(self.image_query, self.text_query),
            layout.join(self.image_key, self.text_key),
            layout.join(self.image_value, self.text_value),
        )

    def bias_between(self, queries: Stream, keys: Stream) -> Tensor | None:
        """The part of `bias` for these queries and keys: (B, 1 or heads, 1 or queries, keys)."""
        if self.bias is None:
            return None
        image = self.image_key.shape[2]
        parts = {"image": slice(0, image), "text": slice(image, None)}
        rows = self.bias if self.bias.shape[2] == 1 else self.bias[:, :, parts[queries]]
        return rows[..., parts[keys]]

    @property
    def text_present(self) -> Tensor | None:
        """(B, T) bool: text tokens that some query sees; None = all of them."""
        seen = self.bias_between("image", "text")
        return None if seen is None else (seen > -torch.inf).any(dim=(1, 2))

    def of_rows(self, rows: slice) -> "Joint":
        """The same block for these rows of the batch alone."""
        bias = self.bias if self.bias is None or len(self.bias) == 1 else self.bias[rows]
        return replace(self, **{name: getattr(self, name)[rows] for name in TENSORS}, bias=bias)

    def of_heads(self, heads: Sequence[int]) -> "Joint":
        """The same block with these heads alone, in this order.

        Raises:
            UserError: the block has no such head.
        """
        count = self.image_query.shape[1]
        if odd := [head for head in heads if not 0 <= head < count]:
            raise UserError(f"there is no attention head {odd[0]}: the heads of this block are 0 to {count - 1}.")
        bias = self.bias if self.bias is None or self.bias.shape[1] == 1 else self.bias[:, list(heads)]
        return replace(self, **{name: getattr(self, name)[:, list(heads)] for name in TENSORS}, bias=bias)


def _bias(mask: Tensor, layout: Layout) -> Tensor:
    """A mask (..., 1 or N + T, N + T) in the model's own order as `Joint.bias`."""
    bias = torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else mask
    bias = bias[(None,) * (4 - bias.ndim)]
    bias = torch.cat(layout.split(bias.transpose(-1, -2)), dim=-2).transpose(-1, -2)
    return bias if bias.shape[2] == 1 else torch.cat(layout.split(bias), dim=-2)
