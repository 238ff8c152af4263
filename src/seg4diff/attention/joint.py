"""What enters the joint attention of a block, image and text apart."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from seg4diff.errors import UserError


@dataclass(frozen=True)
class Joint:
    """Queries, keys and values of one joint-attention block, as its attention call receives them: after norms and rotary embedding.

    All are views of the model's own tensors: gradients flow through them, and they take no memory of their own.

    Attributes:
        image_query, image_key, image_value: (B, heads, N, d).
        text_query, text_key, text_value: (B, heads, T, d).
        scale: factor on the scores, 1 / sqrt(d).
    """

    image_query: Tensor
    text_query: Tensor
    image_key: Tensor
    text_key: Tensor
    image_value: Tensor
    text_value: Tensor
    scale: float

    @classmethod
    def split(cls, query: Tensor, key: Tensor, value: Tensor, scale: float, text: int, text_first: bool) -> "Joint":
        """Take the joint tensors (B, heads, N + T, d) apart.

        Args:
            query: what the attention call receives.
            key: the same.
            value: the same.
            scale: factor on the scores.
            text: number of text tokens T.
            text_first: whether text stands before the image.
        """
        image_part, text_part = token_ranges(query.shape[2], text, text_first)
        parts: dict[str, Tensor] = {}
        for name, whole in (("query", query), ("key", key), ("value", value)):
            parts |= {f"image_{name}": whole[:, :, image_part], f"text_{name}": whole[:, :, text_part]}
        return cls(**parts, scale=scale)

    def join(self, text_first: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Undo `split`: query, key, value (B, heads, N + T, d) in the model's own order."""
        return (
            join_tokens(self.image_query, self.text_query, text_first),
            join_tokens(self.image_key, self.text_key, text_first),
            join_tokens(self.image_value, self.text_value, text_first),
        )

    def of_rows(self, rows: slice) -> "Joint":
        """The same block for these rows of the batch alone."""
        return replace(self, **{part.name: getattr(self, part.name)[rows] for part in fields(self) if part.name != "scale"})

    def of_heads(self, heads: Sequence[int]) -> "Joint":
        """The same block with these heads alone, in this order.

        Raises:
            UserError: the block has no such head.
        """
        count = self.image_query.shape[1]
        if odd := [head for head in heads if not 0 <= head < count]:
            raise UserError(f"there is no attention head {odd[0]}: the heads of this block are 0 to {count - 1}.")
        return replace(self, **{part.name: getattr(self, part.name)[:, list(heads)] for part in fields(self) if part.name != "scale"})


def token_ranges(tokens: int, text: int, text_first: bool) -> tuple[slice, slice]:
    """Where image and text stand among all tokens of a joint sequence."""
    return (slice(text, None), slice(0, text)) if text_first else (slice(0, tokens - text), slice(tokens - text, None))


def join_tokens(image: Tensor, text: Tensor, text_first: bool) -> Tensor:
    """Image and text tokens (..., N, d) and (..., T, d) as one sequence in the model's own order."""
    return torch.cat([text, image] if text_first else [image, text], dim=-2)
