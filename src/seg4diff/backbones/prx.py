"""PRX: image tokens attend to text and image; text tokens attend to nothing, and every block gets the same ones."""

from collections.abc import Sequence
from difflib import SequenceMatcher
from importlib.util import find_spec
from typing import Any

from diffusers import PRXPipeline, PRXTransformer2DModel
from diffusers.loaders import CogVideoXLoraLoaderMixin
from torch import Tensor, nn

from seg4diff.backbones.base import AttentionSite, TextCondition
from seg4diff.backbones.loading import Source
from seg4diff.backbones.pipeline import PipelineBackbone
from seg4diff.backbones.runtime import Runtime
from seg4diff.errors import UserError


class PRXBackbone(PipelineBackbone):
    """Wraps a PRXPipeline. There is no text-to-image and no text-to-text attention.

    The pipeline's cleaning of prompts is off: it would take out signs and every Chinese character, and with them the names of classes. What
    it does to damaged text, such as HTML entities, stays on.

    Args:
        pipeline: the loaded pipeline.
        text_length: text tokens that a prompt may have; padding is masked (the models were trained with 256).
        runtime: options for speed and memory.
        source: where the pipeline came from; None = it is complete.
    """

    pipeline_class = PRXPipeline
    transformer_class = PRXTransformer2DModel
    encoders = ("vae", "text_encoder")
    text_first = True
    text_attends = False
    guides_in_one_pass = True
    length_option = "tokenizer_max_length"
    lora_format = CogVideoXLoraLoaderMixin  # the plain one: a transformer's layers by their names

    def __init__(self, pipeline: PRXPipeline, *, text_length: int, runtime: Runtime | None = None, source: Source | None = None) -> None:
        if text_length < 1:
            raise UserError(f"`text_length` must be at least 1, found {text_length}.")
        if find_spec("ftfy") is None:
            raise UserError("PRX needs the package ftfy, with which its pipeline reads prompts: pip install ftfy.")
        super().__init__(pipeline, text_length=text_length, text_options={"skip_text_cleaning": True}, runtime=runtime, source=source)
        self.transformer.register_forward_pre_hook(self._time_of_each, with_kwargs=True)

    def _time_of_each(self, _: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """The pipeline gives one time step for each half of guidance, also where a half holds several images."""
        time, count = kwargs["timestep"], len(kwargs["hidden_states"])
        return args, kwargs | {"timestep": time if len(time) == count else time[:1].expand(count)}

    def _adopt(self, pipeline: PRXPipeline) -> None:
        """A prompt's tokens come first. The encoder knows only their distances, so it does not matter to it where the padding stands."""
        super()._adopt(pipeline)
        pipeline.tokenizer.padding_side = "right"

    @property
    def heads(self) -> int:
        return self.transformer.config.num_heads

    def _character_offsets(self, prompt: str) -> list[tuple[int, int]]:
        cleaned = self._pipeline.text_preprocessor.basic_clean(prompt)
        pairs = self._pipeline.tokenizer(cleaned, return_offsets_mapping=True)["offset_mapping"]
        return pairs if cleaned == prompt else _carried_over(pairs, cleaned, prompt)

    def _text_axis(self, longest: int) -> int:
        return longest

    def _embed(self, pipeline: PRXPipeline, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        options = {"do_classifier_free_guidance": False, "device": self.device, **self._text_options}
        embeddings = pipeline.encode_prompt(list(prompts), **options)[0]
        return embeddings, embeddings.new_zeros(len(prompts), 0)

    def _predict_velocity(self, noisy_latents: Tensor, sigma: Tensor, condition: TextCondition) -> Tensor:
        return self.transformer(
            hidden_states=noisy_latents,
            timestep=sigma,
            encoder_hidden_states=condition.embeddings,
            attention_mask=condition.of_prompt(),
            return_dict=False,
        )[0]

    def _guidance_options(self, guidance: float, count: int) -> dict[str, Any]:
        return {"guidance_scale": max(guidance, 1.0), "use_resolution_binning": False}

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        return self._check_size(height, width, self._vae_scale * self.transformer.config.patch_size, None)

    def attention_sites(self) -> list[AttentionSite]:
        return [
            AttentionSite(index, f"blocks.{index}.attention", block.attention, block) for index, block in enumerate(self.transformer.blocks)
        ]


def _carried_over(pairs: list[tuple[int, int]], cleaned: str, prompt: str) -> list[tuple[int, int]]:
    """The (start, end) characters of a cleaned prompt as those of the prompt itself."""
    place: dict[int, int] = {}
    for _, start, end, own, own_end in SequenceMatcher(None, cleaned, prompt, autojunk=False).get_opcodes():
        place |= {k: min(own + k - start, own_end) for k in range(start, end)} | {end: own_end}
    return [(place[start], place[end]) if start < end else (0, 0) for start, end in pairs]
