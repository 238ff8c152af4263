"""Flux.1: double-stream blocks, then single-stream blocks in which text and image share their projections."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from seg4diff.backbones.base import AttentionSite, JointQK, TextCondition
from seg4diff.backbones.loading import Source
from seg4diff.backbones.pipeline import PipelineBackbone
from seg4diff.backbones.rotary import watch_text_first
from seg4diff.backbones.runtime import Runtime

PATCH = 2
"""Latents per side of an image token."""


class FluxBackbone(PipelineBackbone):
    """Wraps a FluxPipeline. Its text tokens are those of T5; CLIP gives only the pooled text, cut at 77 tokens by the host.

    Args:
        pipeline: the loaded pipeline.
        text_length: T5 tokens, padding included (at most 512 for Flux.1-dev, 256 for -schnell).
        guidance: value for the guidance embedding of a guidance-distilled model; unused where the model has none.
        runtime: how the model sits on the machine.
        source: where the pipeline came from; None = it is complete.
    """

    pipeline_class = FluxPipeline
    transformer_class = FluxTransformer2DModel
    encoders = ("vae", "text_encoder", "text_encoder_2")

    def __init__(
        self, pipeline: FluxPipeline, *, text_length: int, guidance: float, runtime: Runtime | None = None, source: Source | None = None
    ) -> None:
        super().__init__(pipeline, text_length=text_length, runtime=runtime, source=source)
        self._guidance, self._text_tokens = guidance, 0

    @property
    def text_window(self) -> int:
        return self.text_length

    def _character_offsets(self, prompt: str) -> list[tuple[int, int]]:
        return self._pipeline.tokenizer_2(prompt, return_offsets_mapping=True)["offset_mapping"]

    def _embed(self, pipeline: FluxPipeline, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        embeddings, pooled, _ = pipeline.encode_prompt(list(prompts), device=self.device, **self._text_options)
        return embeddings, pooled

    def predict_velocity(self, noisy_latents: Tensor, sigma: Tensor, condition: TextCondition) -> Tensor:
        batch, _, height, width = noisy_latents.shape
        rows, columns = height // PATCH, width // PATCH
        self._text_tokens = condition.embeddings.shape[1]
        guided = self.transformer.config.guidance_embeds
        tokens = self.transformer(
            hidden_states=pixel_unshuffle(noisy_latents, PATCH).flatten(2).transpose(1, 2),
            encoder_hidden_states=condition.embeddings,
            pooled_projections=condition.pooled,
            timestep=sigma,
            img_ids=FluxPipeline._prepare_latent_image_ids(batch, rows, columns, noisy_latents.device, noisy_latents.dtype),
            txt_ids=torch.zeros(self._text_tokens, 3).to(noisy_latents),
            guidance=torch.full_like(sigma, self._guidance) if guided else None,
            return_dict=False,
        )[0]
        return pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (rows, columns)), PATCH)

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        return self._check_size(height, width, self._vae_scale * PATCH, None)

    def attention_sites(self) -> list[AttentionSite]:
        return stacked_sites(self.transformer)

    def watch(self, site: AttentionSite, keep: Callable[[Callable[[], JointQK]], None]) -> AbstractContextManager[None]:
        return watch_text_first(site, lambda: self._text_tokens, keep)


def stacked_sites(transformer: torch.nn.Module) -> list[AttentionSite]:
    """Double-stream blocks first, single-stream blocks after them, numbered through."""
    stacks = ("transformer_blocks", "single_transformer_blocks")
    blocks = [(f"{stack}.{k}.attn", block) for stack in stacks for k, block in enumerate(getattr(transformer, stack))]
    return [AttentionSite(index, name, block.attn, block) for index, (name, block) in enumerate(blocks)]
