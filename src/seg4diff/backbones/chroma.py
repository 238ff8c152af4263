"""Chroma: the blocks of Flux.1 without pooled text and guidance input, and with a bias on the text keys in place of padding."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ChromaPipeline, ChromaTransformer2DModel
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from seg4diff.backbones.base import TextCondition
from seg4diff.backbones.loading import Source
from seg4diff.backbones.runtime import Runtime
from seg4diff.backbones.text_first import PATCH, TextFirstBackbone


class ChromaBackbone(TextFirstBackbone):
    """Wraps a ChromaPipeline, whose text tokens are those of T5.

    The prompt and one token of padding count as seen. diffusers adds 1 to the scores of seen pairs of tokens and 0 to the others: the rest
    of the padding weighs less and is not hidden. This is read as it is computed.

    Args:
        pipeline: the loaded pipeline.
        text_length: T5 tokens, padding included (at most 512).
        runtime: options for speed and memory.
        source: where the pipeline came from; None = it is complete.
    """

    pipeline_class = ChromaPipeline
    transformer_class = ChromaTransformer2DModel
    encoders = ("vae", "text_encoder")
    unused = {"image_encoder": None, "feature_extractor": None}  # noqa: RUF012 - as in the base class

    def __init__(self, pipeline: ChromaPipeline, *, text_length: int, runtime: Runtime | None = None, source: Source | None = None) -> None:
        super().__init__(pipeline, text_length=text_length, runtime=runtime, source=source)
        self._mask: Tensor | None = None
        self.transformer.register_forward_pre_hook(self._note_mask, with_kwargs=True)
        for block in self.transformer.single_transformer_blocks:
            block.register_forward_pre_hook(self._give_mask, with_kwargs=True)

    def _note_mask(self, _: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self._mask = kwargs.get("attention_mask")

    def _give_mask(self, _: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Under gradient checkpointing diffusers leaves the mask of the single-stream blocks out."""
        return args, {"attention_mask": self._mask} | kwargs

    def _embed(self, pipeline: ChromaPipeline, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        options = {"do_classifier_free_guidance": False, "device": self.device, **self._text_options}
        embeddings = pipeline.encode_prompt(list(prompts), **options)[0]
        return embeddings, embeddings.new_zeros(len(prompts), 0)

    def _predict_velocity(self, noisy_latents: Tensor, sigma: Tensor, condition: TextCondition) -> Tensor:
        batch, _, height, width = noisy_latents.shape
        rows, columns = height // PATCH, width // PATCH
        text = condition.embeddings
        seen = condition.of_prompt(more=1).to(text.dtype)
        tokens = self.transformer(
            hidden_states=pixel_unshuffle(noisy_latents, PATCH).flatten(2).transpose(1, 2),
            encoder_hidden_states=text,
            timestep=sigma,
            img_ids=ChromaPipeline._prepare_latent_image_ids(batch, rows, columns, noisy_latents.device, noisy_latents.dtype),
            txt_ids=torch.zeros(text.shape[1], 3).to(noisy_latents),
            attention_mask=self._pipeline._prepare_attention_mask(batch, rows * columns, text.dtype, seen),
            return_dict=False,
        )[0]
        return pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (rows, columns)), PATCH)
