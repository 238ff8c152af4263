"""Lumina-Image 2: one stack of single-stream blocks behind refiners; the image follows the last token of each prompt."""

from collections.abc import Sequence
from typing import Any

from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel
from torch import Tensor

from seg4diff.backbones.base import AttentionSite, TextCondition
from seg4diff.backbones.chat import templated_offsets
from seg4diff.backbones.layout import Layout
from seg4diff.backbones.loading import Source
from seg4diff.backbones.pipeline import PipelineBackbone
from seg4diff.backbones.runtime import Runtime
from seg4diff.errors import UserError


class Lumina2Backbone(PipelineBackbone):
    """Wraps a Lumina2Pipeline. Prompts follow its system prompt, whose tokens count as padding and take part in attention.

    Args:
        pipeline: the loaded pipeline.
        text_length: text tokens that a prompt may have, with those of the system prompt (less than the model has text positions).
        runtime: options for speed and memory.
        source: where the pipeline came from; None = it is complete.
    """

    pipeline_class = Lumina2Pipeline
    transformer_class = Lumina2Transformer2DModel
    encoders = ("vae", "text_encoder")
    text_first = True

    def __init__(
        self, pipeline: Lumina2Pipeline, *, text_length: int, runtime: Runtime | None = None, source: Source | None = None
    ) -> None:
        longest = pipeline.transformer.config.axes_lens[0] - 1  # the image has the position behind its prompt
        if not 1 <= text_length <= longest:
            raise UserError(f"`text_length` must be from 1 to {longest}, found {text_length}.")
        super().__init__(pipeline, text_length=text_length, runtime=runtime, source=source)

    def _templated(self, prompt: str) -> str:
        """The text that the language model reads, as the diffusers pipeline makes it."""
        return f"{self._pipeline.system_prompt} <Prompt Start> {prompt}"

    def _character_offsets(self, prompt: str) -> list[tuple[int, int]]:
        return templated_offsets(self._pipeline.tokenizer, self._templated, prompt)

    def _text_axis(self, longest: int) -> int:
        return longest

    def _embed(self, pipeline: Lumina2Pipeline, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        options = {"do_classifier_free_guidance": False, "device": self.device, **self._text_options}
        embeddings = pipeline.encode_prompt(list(prompts), **options)[0]
        return embeddings, embeddings.new_zeros(len(prompts), 0)

    def _predict_velocity(self, noisy_latents: Tensor, sigma: Tensor, condition: TextCondition) -> Tensor:
        return -self.transformer(
            hidden_states=noisy_latents,
            timestep=1 - sigma,
            encoder_hidden_states=condition.embeddings,
            encoder_attention_mask=condition.of_prompt(),
            return_dict=False,
        )[0]

    def layout(self, arguments: dict[str, Any]) -> Layout:
        longest = int(arguments["encoder_attention_mask"].sum(dim=1).max())
        return Layout(longest, self.text_first, ragged=True)

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        config = self.transformer.config
        return self._check_size(height, width, self._vae_scale * config.patch_size, min(config.axes_lens[1:]))

    def attention_sites(self) -> list[AttentionSite]:
        """The blocks of the joint stack; the refiners before it, `noise_refiner` and `context_refiner`, hold no joint attention."""
        return [AttentionSite(index, f"layers.{index}.attn", block.attn, block) for index, block in enumerate(self.transformer.layers)]
