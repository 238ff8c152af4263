"""Flux.1: double-stream blocks, then single-stream blocks in which text and image share their projections."""

from collections.abc import Sequence

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from seg4diff.backbones.base import TextCondition
from seg4diff.backbones.loading import Source
from seg4diff.backbones.runtime import Runtime
from seg4diff.backbones.text_first import PATCH, TextFirstBackbone


class FluxBackbone(TextFirstBackbone):
    """Wraps a FluxPipeline. Its text tokens are those of T5; CLIP gives only the pooled text, cut at 77 tokens by diffusers.

    Args:
        pipeline: the loaded pipeline.
        text_length: T5 tokens, padding included (at most 512 for Flux.1-dev, 256 for -schnell).
        guidance: value for the guidance embedding of a guidance-distilled model; unused where the model has none.
        runtime: options for speed and memory.
        source: where the pipeline came from; None = it is complete.
    """

    pipeline_class = FluxPipeline
    transformer_class = FluxTransformer2DModel
    encoders = ("vae", "text_encoder", "text_encoder_2")

    def __init__(
        self, pipeline: FluxPipeline, *, text_length: int, guidance: float, runtime: Runtime | None = None, source: Source | None = None
    ) -> None:
        super().__init__(pipeline, text_length=text_length, runtime=runtime, source=source)
        self._guidance = guidance

    def _character_offsets(self, prompt: str) -> list[tuple[int, int]]:
        return self._pipeline.tokenizer_2(prompt, return_offsets_mapping=True)["offset_mapping"]

    def _embed(self, pipeline: FluxPipeline, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        embeddings, pooled, _ = pipeline.encode_prompt(list(prompts), device=self.device, **self._text_options)
        return embeddings, pooled

    def _predict_velocity(self, noisy_latents: Tensor, sigma: Tensor, condition: TextCondition) -> Tensor:
        batch, _, height, width = noisy_latents.shape
        rows, columns = height // PATCH, width // PATCH
        guided = self.transformer.config.guidance_embeds
        tokens = self.transformer(
            hidden_states=pixel_unshuffle(noisy_latents, PATCH).flatten(2).transpose(1, 2),
            encoder_hidden_states=condition.embeddings,
            pooled_projections=condition.pooled,
            timestep=sigma,
            img_ids=FluxPipeline._prepare_latent_image_ids(batch, rows, columns, noisy_latents.device, noisy_latents.dtype),
            txt_ids=torch.zeros(condition.embeddings.shape[1], 3).to(noisy_latents),
            guidance=torch.full_like(sigma, self._guidance) if guided else None,
            return_dict=False,
        )[0]
        return pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (rows, columns)), PATCH)
