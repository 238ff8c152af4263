"""Z-Image and Z-Image-Turbo: one stack of single-stream blocks behind refiners that see only the image or only the text."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ZImagePipeline, ZImageTransformer2DModel
from torch import Tensor
from torch.nn.functional import pad

from seg4diff.backbones.base import AttentionSite, TextCondition
from seg4diff.backbones.chat import templated_offsets
from seg4diff.backbones.layout import Layout
from seg4diff.backbones.loading import Source
from seg4diff.backbones.pipeline import PipelineBackbone
from seg4diff.backbones.runtime import Runtime
from seg4diff.errors import UserError

PATCH = 2
"""Latents per side of an image token."""
MULTIPLE = 32
"""Image and text are each padded to a multiple of this with learned tokens, which take part in attention."""
LONGEST_TEXT = 512


class ZImageBackbone(PipelineBackbone):
    """Wraps a ZImagePipeline. A prompt has as many tokens as it needs; in a batch, those of shorter prompts are masked at the end.

    Args:
        pipeline: the loaded pipeline.
        text_length: text tokens that a prompt may have, template included (at most 512).
        runtime: options for speed and memory.
        source: where the pipeline came from; None = it is complete.
    """

    pipeline_class = ZImagePipeline
    transformer_class = ZImageTransformer2DModel
    encoders = ("vae", "text_encoder")
    text_first = False
    guides_in_one_pass = True
    prompted_first = True
    tokens = "x"
    listed = frozenset({"x", "cap_feats"})

    def __init__(self, pipeline: ZImagePipeline, *, text_length: int, runtime: Runtime | None = None, source: Source | None = None) -> None:
        if not 1 <= text_length <= LONGEST_TEXT:
            raise UserError(f"`text_length` must be from 1 to {LONGEST_TEXT}, found {text_length}.")
        super().__init__(pipeline, text_length=text_length, runtime=runtime, source=source)

    @property
    def heads(self) -> int:
        return self.transformer.config.n_heads

    def _templated(self, prompt: str) -> str:
        """The text that the language model reads, as the diffusers pipeline makes it."""
        message = [{"role": "user", "content": prompt}]
        return self._pipeline.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True, enable_thinking=True)

    def _character_offsets(self, prompt: str) -> list[tuple[int, int]]:
        return templated_offsets(self._pipeline.tokenizer, self._templated, prompt)

    def _text_axis(self, longest: int) -> int:
        return longest + -longest % MULTIPLE

    def _embed(self, pipeline: ZImagePipeline, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        found, _ = pipeline.encode_prompt(list(prompts), device=self.device, do_classifier_free_guidance=False, **self._text_options)
        length = self._text_axis(self.text_length)
        embeddings = torch.stack([pad(own, (0, 0, 0, length - len(own))) for own in found])
        return embeddings, embeddings.new_zeros(len(prompts), 0)

    def _predict_velocity(self, noisy_latents: Tensor, sigma: Tensor, condition: TextCondition) -> Tensor:
        prompts = [row[: len(pairs)] for row, pairs in zip(condition.embeddings, condition.offsets, strict=True)]
        images = list(noisy_latents.unsqueeze(2).unbind())  # one frame each
        predicted = self.transformer(images, 1 - sigma, prompts, return_dict=False)[0]
        return -torch.stack(predicted).squeeze(2)

    def layout(self, arguments: dict[str, Any]) -> Layout:
        rows, columns = (side // PATCH for side in arguments["x"][0].shape[-2:])
        longest = max(map(len, arguments["cap_feats"]))
        return Layout(self._text_axis(longest), self.text_first, extra=-rows * columns % MULTIPLE)

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        return self._check_size(height, width, self._vae_scale * PATCH, min(self.transformer.config.axes_lens[1:]))

    def attention_sites(self) -> list[AttentionSite]:
        """The blocks of the joint stack; the refiners before it, `noise_refiner` and `context_refiner`, hold no joint attention."""
        return [
            AttentionSite(index, f"layers.{index}.attention", block.attention, block) for index, block in enumerate(self.transformer.layers)
        ]
