"""Flux.2 [klein]: shared modulation, a language model as text encoder, single-stream blocks with one projection for everything."""

from collections.abc import Sequence

import torch
from diffusers import Flux2KleinPipeline, Flux2Transformer2DModel
from torch import Tensor

from seg4diff.backbones.base import TextCondition
from seg4diff.backbones.chat import templated_offsets
from seg4diff.backbones.loading import Source
from seg4diff.backbones.runtime import Runtime
from seg4diff.backbones.text_first import TextFirstBackbone
from seg4diff.errors import UserError


class Flux2Backbone(TextFirstBackbone):
    """Wraps a Flux2KleinPipeline. Prompts stand inside the chat template of the language model, whose tokens count as padding.

    Args:
        pipeline: the loaded pipeline.
        text_length: text tokens, template and padding included (at most 512).
        text_layers: hidden layers of the language model whose states make up an embedding.
        runtime: options for speed and memory.
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
        options = {"text_encoder_out_layers": tuple(text_layers)}
        super().__init__(pipeline, text_length=text_length, text_options=options, runtime=runtime, source=source)
        if pipeline.tokenizer.padding_side != "right":
            raise UserError("Flux.2 needs a tokenizer that pads on the right: words would be looked for at the wrong places.")

    def _templated(self, prompt: str) -> str:
        """The text that the language model reads, as the diffusers pipeline makes it."""
        message = [{"role": "user", "content": prompt}]
        return self._pipeline.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True, enable_thinking=False)

    def _character_offsets(self, prompt: str) -> list[tuple[int, int]]:
        return templated_offsets(self._pipeline.tokenizer, self._templated, prompt)

    def _encode_image(self, images: Tensor) -> Tensor:
        with self._encoding("vae") as pipeline:
            return pipeline._encode_vae_image(images.to(self.device, pipeline.vae.dtype), generator=None)

    @torch.no_grad()
    def decode_image(self, latents: Tensor) -> Tensor:
        with self._encoding("vae") as pipeline:
            norm = pipeline.vae.bn
            std = (norm.running_var + pipeline.vae.config.batch_norm_eps).sqrt()
            unscaled = latents * std.to(latents).view(1, -1, 1, 1) + norm.running_mean.to(latents).view(1, -1, 1, 1)
            patches = pipeline._unpatchify_latents(unscaled.to(pipeline.vae.dtype))
            return pipeline.vae.decode(patches).sample.clamp(-1, 1)

    def _embed(self, pipeline: Flux2KleinPipeline, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        embeddings, _ = pipeline.encode_prompt(list(prompts), device=self.device, **self._text_options)
        return embeddings, embeddings.new_zeros(len(prompts), 0)

    def _predict_velocity(self, noisy_latents: Tensor, sigma: Tensor, condition: TextCondition) -> Tensor:
        tokens = self.transformer(
            hidden_states=noisy_latents.flatten(2).transpose(1, 2),
            encoder_hidden_states=condition.embeddings,
            timestep=sigma,
            img_ids=Flux2KleinPipeline._prepare_latent_ids(noisy_latents).to(noisy_latents.device),
            txt_ids=Flux2KleinPipeline._prepare_text_ids(condition.embeddings).to(noisy_latents.device),
            return_dict=False,
        )[0]
        return tokens.transpose(1, 2).unflatten(2, noisy_latents.shape[-2:])
