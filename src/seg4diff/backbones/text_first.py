"""What Flux and Flux.2 share: text tokens before image tokens, two stacks of blocks, latents packed in patches of two by two."""

from typing import Any

from diffusers import DiffusionPipeline

from seg4diff.backbones.base import AttentionSite
from seg4diff.backbones.pipeline import PipelineBackbone
from seg4diff.errors import UserError

LONGEST_TEXT = 512
"""Text tokens that the pipelines take at most."""
PATCH = 2
"""Pixels of the autoencoder's latents per side of an image token."""


class TextFirstBackbone(PipelineBackbone):
    """A stack of double-stream blocks, then one of single-stream blocks, in which text and image share their projections."""

    text_first = True
    unbatched = frozenset({"img_ids", "txt_ids"})

    def __init__(self, pipeline: DiffusionPipeline, *, text_length: int, **options: Any) -> None:
        if not 1 <= text_length <= LONGEST_TEXT:
            raise UserError(f"`text_length` must be from 1 to {LONGEST_TEXT}, found {text_length}.")
        super().__init__(pipeline, text_length=text_length, **options)

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        return self._check_size(height, width, self._vae_scale * PATCH, None)

    def attention_sites(self) -> list[AttentionSite]:
        stacks = ("transformer_blocks", "single_transformer_blocks")
        blocks = [(f"{stack}.{k}.attn", block) for stack in stacks for k, block in enumerate(getattr(self.transformer, stack))]
        return [AttentionSite(index, name, block.attn, block) for index, (name, block) in enumerate(blocks)]
