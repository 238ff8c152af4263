"""AuraFlow: double-stream blocks, then single-stream blocks; eight learned register tokens stand before the text."""

from collections.abc import Sequence
from typing import Any

from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel
from torch import Tensor

from seg4diff.backbones.base import AttentionSite, TextCondition
from seg4diff.backbones.layout import Layout
from seg4diff.backbones.loading import Source
from seg4diff.backbones.pipeline import PipelineBackbone
from seg4diff.backbones.runtime import Runtime
from seg4diff.errors import UserError

LONGEST_TEXT = 256


class AuraFlowBackbone(PipelineBackbone):
    """Wraps an AuraFlowPipeline. Padding of a prompt is embedded as zeros and takes part in attention.

    Args:
        pipeline: the loaded pipeline.
        text_length: text tokens, padding included (at most 256).
        runtime: options for speed and memory.
        source: where the pipeline came from; None = it is complete.
    """

    pipeline_class = AuraFlowPipeline
    transformer_class = AuraFlowTransformer2DModel
    encoders = ("vae", "text_encoder")
    text_first = True
    guides_in_one_pass = True

    def __init__(
        self, pipeline: AuraFlowPipeline, *, text_length: int, runtime: Runtime | None = None, source: Source | None = None
    ) -> None:
        if not 1 <= text_length <= LONGEST_TEXT:
            raise UserError(f"`text_length` must be from 1 to {LONGEST_TEXT}, found {text_length}.")
        super().__init__(pipeline, text_length=text_length, runtime=runtime, source=source)

    def _embed(self, pipeline: AuraFlowPipeline, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        options = {"do_classifier_free_guidance": False, "device": self.device, **self._text_options}
        embeddings = pipeline.encode_prompt(list(prompts), **options)[0]
        return embeddings, embeddings.new_zeros(len(prompts), 0)

    def _predict_velocity(self, noisy_latents: Tensor, sigma: Tensor, condition: TextCondition) -> Tensor:
        return self.transformer(
            hidden_states=noisy_latents,
            encoder_hidden_states=condition.embeddings,
            timestep=sigma,
            return_dict=False,
        )[0]

    def layout(self, arguments: dict[str, Any]) -> Layout:
        registers = self.transformer.register_tokens.shape[1]
        return Layout(arguments["encoder_hidden_states"].shape[1], self.text_first, extra=registers)

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        config = self.transformer.config
        return self._check_size(height, width, self._vae_scale * config.patch_size, int(config.pos_embed_max_size**0.5))

    def attention_sites(self) -> list[AttentionSite]:
        stacks = ("joint_transformer_blocks", "single_transformer_blocks")
        blocks = [(f"{stack}.{k}.attn", block) for stack in stacks for k, block in enumerate(getattr(self.transformer, stack))]
        return [AttentionSite(index, name, block.attn, block) for index, (name, block) in enumerate(blocks)]
