"""Flux.2 [klein]: shared modulation, a language model as text encoder, single-stream blocks with one projection for everything."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from diffusers import Flux2KleinPipeline, Flux2Transformer2DModel
from torch import Tensor

from seg4diff.backbones.base import AttentionSite, JointQK, TextCondition
from seg4diff.backbones.flux import stacked_sites
from seg4diff.backbones.loading import Source
from seg4diff.backbones.pipeline import PipelineBackbone
from seg4diff.backbones.rotary import watch_text_first
from seg4diff.backbones.runtime import Runtime

PATCH = 2
"""Autoencoder pixels per side of an image token; here the latents themselves are already patches."""
PLACE = "<<the prompt>>"


class Flux2Backbone(PipelineBackbone):
    """Wraps a Flux2KleinPipeline. Prompts stand inside the chat template of the language model, whose tokens count as padding.

    Args:
        pipeline: the loaded pipeline.
        text_length: text tokens, template and padding included (at most 512).
        text_layers: hidden layers of the language model whose states make up an embedding.
        runtime: how the model sits on the machine.
        source: where the pipeline came from; None = it is complete.
    """

    pipeline_class = Flux2KleinPipeline
    transformer_class = Flux2Transformer2DModel
    encoders = ("vae", "text_encoder")

    def __init__(
        self,
        pipeline: Flux2KleinPipeline,
        *,
        text_length: int,
        text_layers: Sequence[int] = (9, 18, 27),
        runtime: Runtime | None = None,
        source: Source | None = None,
    ) -> None:
        super().__init__(pipeline, text_length=text_length, runtime=runtime, source=source)
        self._text_layers, self._text_tokens = tuple(text_layers), 0
        self._before = self._templated(PLACE).index(PLACE)

    def _templated(self, prompt: str) -> str:
        """The text that the language model reads, as the host's pipeline makes it."""
        message = [{"role": "user", "content": prompt}]
        return self._pipeline.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True, enable_thinking=False)

    @property
    def _text_options(self) -> dict[str, Any]:
        return super()._text_options | {"text_encoder_out_layers": self._text_layers}

    @property
    def text_window(self) -> int:
        return self.text_length

    def _character_offsets(self, prompt: str) -> list[tuple[int, int]]:
        pairs = self._pipeline.tokenizer(self._templated(prompt), return_offsets_mapping=True)["offset_mapping"]
        clipped = [(max(start - self._before, 0), min(end - self._before, len(prompt))) for start, end in pairs]
        return [(start, end) if start < end else (0, 0) for start, end in clipped]

    def _encode_image(self, images: Tensor) -> Tensor:
        with self._encoding("vae") as pipeline:
            return pipeline._encode_vae_image(images.to(self.device, pipeline.vae.dtype), generator=None)

    def _embed(self, pipeline: Flux2KleinPipeline, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        embeddings, _ = pipeline.encode_prompt(list(prompts), device=self.device, **self._text_options)
        return embeddings, embeddings.new_zeros(len(prompts), 0)

    def predict_velocity(self, noisy_latents: Tensor, sigma: Tensor, condition: TextCondition) -> Tensor:
        self._text_tokens = condition.embeddings.shape[1]
        tokens = self.transformer(
            hidden_states=noisy_latents.flatten(2).transpose(1, 2),
            encoder_hidden_states=condition.embeddings,
            timestep=sigma,
            img_ids=Flux2KleinPipeline._prepare_latent_ids(noisy_latents).to(noisy_latents.device),
            txt_ids=Flux2KleinPipeline._prepare_text_ids(condition.embeddings).to(noisy_latents.device),
            return_dict=False,
        )[0]
        return tokens.transpose(1, 2).unflatten(2, noisy_latents.shape[-2:])

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        return self._check_size(height, width, self._vae_scale * PATCH, None)

    def attention_sites(self) -> list[AttentionSite]:
        return stacked_sites(self.transformer)

    def watch(self, site: AttentionSite, keep: Callable[[Callable[[], JointQK]], None]) -> AbstractContextManager[None]:
        return watch_text_first(site, lambda: self._text_tokens, keep)
