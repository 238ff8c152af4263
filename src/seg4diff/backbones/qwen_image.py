"""Qwen-Image: double-stream blocks, text before image, the tokens of a fixed chat template among the text."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import QwenImagePipeline, QwenImageTransformer2DModel
from torch import Tensor
from torch.nn.functional import pad, pixel_shuffle, pixel_unshuffle

from seg4diff.backbones.base import AttentionSite, TextCondition
from seg4diff.backbones.chat import templated_offsets
from seg4diff.backbones.loading import Source
from seg4diff.backbones.pipeline import PipelineBackbone
from seg4diff.backbones.runtime import Runtime
from seg4diff.errors import UserError

PATCH = 2
"""Latents per side of an image token."""
LONGEST_TEXT = 1024


class QwenImageBackbone(PipelineBackbone):
    """Wraps a QwenImagePipeline. A prompt has as many tokens as it needs; in a batch, those of shorter prompts are masked at the end.

    Guidance is the pipeline's `true_cfg_scale` against a prompt of one space, as its authors use it.

    Args:
        pipeline: the loaded pipeline.
        text_length: text tokens that a prompt may have, with those of the template that the model sees (at most 1024).
        runtime: options for speed and memory.
        source: where the pipeline came from; None = it is complete.
    """

    pipeline_class = QwenImagePipeline
    transformer_class = QwenImageTransformer2DModel
    encoders = ("vae", "text_encoder")
    text_first = True
    listed = frozenset({"img_shapes"})

    def __init__(
        self, pipeline: QwenImagePipeline, *, text_length: int, runtime: Runtime | None = None, source: Source | None = None
    ) -> None:
        if not 1 <= text_length <= LONGEST_TEXT:
            raise UserError(f"`text_length` must be from 1 to {LONGEST_TEXT}, found {text_length}.")
        super().__init__(pipeline, text_length=text_length, runtime=runtime, source=source)

    def _character_offsets(self, prompt: str) -> list[tuple[int, int]]:
        pairs = templated_offsets(self._pipeline.tokenizer, self._pipeline.prompt_template_encode.format, prompt)
        return pairs[self._pipeline.prompt_template_encode_start_idx :]

    def _text_axis(self, longest: int) -> int:
        return longest

    def _embed(self, pipeline: QwenImagePipeline, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        found, _ = pipeline.encode_prompt(list(prompts), device=self.device, **self._text_options)
        embeddings = pad(found, (0, 0, 0, self.text_length - found.shape[1]))
        return embeddings, embeddings.new_zeros(len(prompts), 0)

    def _encode_image(self, images: Tensor) -> Tensor:
        with self._encoding("vae") as pipeline:
            frames = images.to(self.device, pipeline.vae.dtype).unsqueeze(2)
            latents = pipeline.vae.encode(frames).latent_dist.mode().squeeze(2)
        mean, std = self._statistics(latents)
        return (latents - mean) / std

    @torch.no_grad()
    def decode_image(self, latents: Tensor) -> Tensor:
        mean, std = self._statistics(latents)
        with self._encoding("vae") as pipeline:
            frames = (latents * std + mean).to(self.device, pipeline.vae.dtype).unsqueeze(2)
            return pipeline.vae.decode(frames).sample.squeeze(2).clamp(-1, 1)

    def _statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel of the autoencoder's latents."""
        mean, std = (torch.tensor(self._vae_config[name]).to(latents).view(1, -1, 1, 1) for name in ("latents_mean", "latents_std"))
        return mean, std

    @property
    def _vae_scale(self) -> int:
        return 2 ** len(self._vae_config["temperal_downsample"])

    def _predict_velocity(self, noisy_latents: Tensor, sigma: Tensor, condition: TextCondition) -> Tensor:
        batch, _, height, width = noisy_latents.shape
        rows, columns = height // PATCH, width // PATCH
        text = condition.embeddings
        tokens = self.transformer(
            hidden_states=pixel_unshuffle(noisy_latents, PATCH).flatten(2).transpose(1, 2),
            encoder_hidden_states=text,
            encoder_hidden_states_mask=None if min(map(len, condition.offsets)) == text.shape[1] else condition.of_prompt(),
            timestep=sigma,
            img_shapes=[[(1, rows, columns)]] * batch,
            return_dict=False,
        )[0]
        return pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (rows, columns)), PATCH)

    def _guidance_options(self, guidance: float, count: int) -> dict[str, Any]:
        return {"true_cfg_scale": guidance} | ({"negative_prompt": [" "] * count} if guidance > 1 else {})

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        return self._check_size(height, width, self._vae_scale * PATCH, None)

    def attention_sites(self) -> list[AttentionSite]:
        return [
            AttentionSite(index, f"transformer_blocks.{index}.attn", block.attn, block)
            for index, block in enumerate(self.transformer.transformer_blocks)
        ]
