"""A read-only stream of tokens beside the text: each block runs a second time with them in the place of the text."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from seg4diff.attention.seam import Passes, Reached, Visit, edit, follow_passes
from seg4diff.backbones.base import AttentionSite, Backbone, TextCondition
from seg4diff.backbones.hooks import see_arguments
from seg4diff.errors import UserError

NO_STREAM = (
    "this family has tokens beside image and text, or text in no stream of its own, so there is none of concepts: choose another `reader`."
)


def concept_outputs(
    backbone: Backbone, blocks: Sequence[int], concepts: Tensor, lengths: Tensor, run: Callable[[], object]
) -> list[tuple[int, Tensor, Tensor]]:
    """Outputs of the attention for image tokens and for concepts, in one pass that stops at the last of these blocks.

    In each block concepts go through the text branch. Their queries see the concepts and the image tokens that enter the block; nothing
    of the model sees them. So image and text keep their bits, and any kind of block serves, in the memory of one block more.

    Args:
        backbone: the model.
        blocks: block indices.
        concepts: (B, C, width) as text enters the first block, C no more than the text tokens of the pass.
        lengths: (B,) number of concepts of each image; what lies beyond is not seen.
        run: calls the model.

    Returns:
        (block, (B, heads, N, d) of the image, (B, heads, C, d) of the concepts) for each block.

    Raises:
        UserError: the family has tokens that are neither image nor text, or its text does not attend.
    """
    stream = _ConceptStream(backbone, set(blocks), concepts, lengths)
    sites = backbone.select_sites(range(max(blocks) + 1))
    with suppress(Reached), ExitStack() as stack:
        passes = follow_passes(stack, backbone)
        stack.enter_context(edit(backbone, [site.index for site in sites], attention=stream.attend))
        for site in sites:
            stack.enter_context(see_arguments(site.block, partial(stream.advance, site, passes)))
        run()
    return stream.found


class _ConceptStream:
    """The concepts on their way through the blocks."""

    def __init__(self, backbone: Backbone, wanted: set[int], concepts: Tensor, lengths: Tensor) -> None:
        self._name, self._wanted, self._tokens, self._beside = backbone.tokens, wanted, concepts, False
        self._text_returned = backbone.text_returned
        self._seen = torch.arange(concepts.shape[1], device=concepts.device) < lengths[:, None]
        self._output: Tensor | None = None
        self.found: list[tuple[int, Tensor, Tensor]] = []

    def advance(self, site: AttentionSite, passes: Passes, arguments: dict[str, Any]) -> None:
        """Run a block with the concepts as its text, before it runs with the text."""
        count, layout = self._tokens.shape[1], passes.layout
        if layout.extra or not layout.text_attends:
            raise UserError(NO_STREAM)
        padded = pad(self._tokens, (0, 0, 0, layout.text - count))
        self._beside = True
        try:
            with suppress(Reached):
                if arguments.get("encoder_hidden_states") is not None:
                    text = site.block.forward(**arguments | {"encoder_hidden_states": padded})[self._text_returned]
                else:
                    image, _ = layout.split(arguments[self._name])
                    text = layout.split(site.block.forward(**arguments | {self._name: layout.join(image, padded)}))[1]
                self._tokens = text[:, :count]
        finally:
            self._beside = False

    def attend(self, visit: Visit) -> tuple[Tensor, Tensor]:
        """The attention of a block; see `AttentionEdit`."""
        if self._beside:
            return self._attend_beside(visit)
        if visit.block in self._wanted:
            assert self._output is not None, "the concepts go first"
            self.found.append((visit.block, visit.output[0], self._output))
            if visit.block == max(self._wanted):
                raise Reached
        return visit.output

    def _attend_beside(self, visit: Visit) -> tuple[Tensor, Tensor]:
        joint, count = visit.joint, self._tokens.shape[1]
        key = torch.cat([joint.text_key[:, :, :count], joint.image_key], dim=2)
        value = torch.cat([joint.text_value[:, :, :count], joint.image_value], dim=2)
        seen = torch.cat([self._seen, self._seen.new_ones(len(key), joint.image_key.shape[2])], dim=1)[:, None, None]
        query = joint.text_query[:, :, :count]
        self._output = scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=joint.scale)
        if visit.block == max(self._wanted):
            raise Reached
        empty = torch.zeros_like(joint.text_query[:, :, count:])
        return torch.zeros_like(joint.image_query), torch.cat([self._output, empty], dim=2)


def entering_text(backbone: Backbone, latents: Tensor, sigma: Tensor, condition: TextCondition) -> Tensor:
    """The text tokens (B, T, width) that enter the first block of a pass, which ends there; arguments as in `predict_velocity`."""
    entered: list[Tensor] = []
    (site,) = backbone.select_sites([0])

    def see(arguments: dict[str, Any]) -> None:
        if "encoder_hidden_states" not in arguments:
            raise UserError(NO_STREAM)
        entered.append(arguments["encoder_hidden_states"])
        raise Reached

    with suppress(Reached), see_arguments(site.block, see):
        backbone.predict_velocity(latents, sigma, condition)
    return entered[0]
