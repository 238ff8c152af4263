"""SD3 and SD3.5: one adapter, two configurations (SD3.5 adds norms on queries and keys, and image-only attention beside the joint one)."""

from collections.abc import Sequence
from typing import Self

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor

from seg4diff.backbones.base import AttentionSite, TextCondition
from seg4diff.backbones.loading import Source, load_pretrained
from seg4diff.backbones.pipeline import PipelineBackbone
from seg4diff.backbones.runtime import Runtime
from seg4diff.backbones.scratch import new_sd3_pipeline
from seg4diff.errors import UserError

TIME_STEPS = 1000
"""SD3 counts noise levels from 0 to 1000."""
LONGEST_WINDOW = 1_000_000
"""A tokenizer whose files are lost reports a length beyond this."""


class SD3Backbone(PipelineBackbone):
    """Wraps a StableDiffusion3Pipeline without its T5 encoder.

    Args:
        pipeline: the loaded pipeline.
        t5_length: number of zero tokens that stand in for the absent T5 encoder; they take softmax mass, so the number matters
            (the release uses 77 for SD3).
        runtime: options for speed and memory.
        source: where the pipeline came from; None = it is complete.
    """

    pipeline_class = StableDiffusion3Pipeline
    transformer_class = SD3Transformer2DModel
    encoders = ("vae", "text_encoder", "text_encoder_2")
    text_first = False
    guides_in_one_pass = True
    unused = {"text_encoder_3": None, "tokenizer_3": None}  # noqa: RUF012 - as in the base class

    def __init__(
        self, pipeline: StableDiffusion3Pipeline, *, t5_length: int, runtime: Runtime | None = None, source: Source | None = None
    ) -> None:
        if t5_length < 0:
            raise UserError(f"`t5_length` must be at least 0, found {t5_length}.")
        super().__init__(pipeline, text_length=t5_length, runtime=runtime, source=source)
        if self.text_window > LONGEST_WINDOW:
            raise UserError(
                f"the tokenizer of {source.path if source else 'this model'} does not say how long a prompt may be: restore it."
            )

    @classmethod
    def from_scratch(cls, *, vae_path: str, t5_length: int, start: str | None = None, **architecture) -> Self:
        """An untrained model around a trained autoencoder.

        Args:
            vae_path: the autoencoder.
            t5_length: see the class.
            start: folder of a model of this architecture whose transformer and text encoders are taken; None: random weights.
            architecture: arguments of `new_sd3_pipeline`.

        Raises:
            UserError: a model is missing, or `start` has another architecture.
        """
        pipeline = new_sd3_pipeline(vae=load_pretrained(AutoencoderKL, vae_path, None), **architecture)
        if start is not None:
            trained = load_pretrained(StableDiffusion3Pipeline, start, None, text_encoder_3=None, tokenizer_3=None)
            for name in ("transformer", "text_encoder", "text_encoder_2"):
                try:
                    getattr(pipeline, name).load_state_dict(getattr(trained, name).state_dict())
                except RuntimeError as error:
                    raise UserError(f"the {name} of `start={start}` has another architecture: train that of its own on.") from error
        return cls(pipeline, t5_length=t5_length)

    @property
    def text_window(self) -> int:
        return self._pipeline.tokenizer.model_max_length

    def _character_offsets(self, prompt: str) -> list[tuple[int, int]]:
        return self._pipeline.tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]

    def _embed(self, pipeline: StableDiffusion3Pipeline, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        embeddings, _, pooled, _ = pipeline.encode_prompt(
            prompt=list(prompts),
            prompt_2=None,
            prompt_3=None,
            device=self.device,
            do_classifier_free_guidance=False,
            **self._text_options,
        )
        return embeddings, pooled

    def token_ids(self, prompts: Sequence[str]) -> Tensor:
        """(B, T) token ids of prompts that fit, on the CPU; T is the text window."""
        return self._pipeline.tokenizer(list(prompts), padding="max_length", return_tensors="pt").input_ids

    def embed_ids(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (B, T, D) and pooled text (B, P) of token ids (B, T), as `encode_text` of their prompts without T5 tokens."""
        outputs = [encoder(ids, output_hidden_states=True) for encoder in (self._pipeline.text_encoder, self._pipeline.text_encoder_2)]
        embeddings = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        return embeddings, torch.cat([output.text_embeds for output in outputs], dim=-1)

    def _predict_velocity(self, noisy_latents: Tensor, sigma: Tensor, condition: TextCondition) -> Tensor:
        return self.transformer(
            hidden_states=noisy_latents,
            timestep=sigma * TIME_STEPS,
            encoder_hidden_states=condition.embeddings,
            pooled_projections=condition.pooled,
            return_dict=False,
        )[0]

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        config = self.transformer.config
        return self._check_size(height, width, self._vae_scale * config.patch_size, config.pos_embed_max_size)

    def attention_sites(self) -> list[AttentionSite]:
        return [
            AttentionSite(index, f"transformer_blocks.{index}.attn", block.attn, block)
            for index, block in enumerate(self.transformer.transformer_blocks)
        ]
