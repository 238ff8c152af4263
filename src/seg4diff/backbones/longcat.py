"""LongCat-Image: the blocks of Flux.1 without pooled text and guidance input, with a vision-language model as text encoder."""

from collections.abc import Sequence
from typing import Any

from diffusers import LongCatImagePipeline, LongCatImageTransformer2DModel
from diffusers.loaders import CogVideoXLoraLoaderMixin
from diffusers.pipelines.longcat_image.pipeline_longcat_image import prepare_pos_ids, split_quotation
from PIL import Image
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from seg4diff.backbones.base import OnStep, TextCondition
from seg4diff.backbones.hooks import see_arguments
from seg4diff.backbones.text_first import PATCH, TextFirstBackbone
from seg4diff.errors import UserError


class LongCatBackbone(TextFirstBackbone):
    """Wraps a LongCatImagePipeline. What stands between quotation marks is encoded character by character, since it is to be drawn.

    The pipeline cuts the chat template off and fills the prompt up with padding, which takes part in attention. Prompts are encoded as they
    are: its rewriting by the language model is off.

    Args:
        pipeline: the loaded pipeline.
        text_length: text tokens, padding included (at most 512).
        runtime: options for speed and memory.
        source: where the pipeline came from; None = it is complete.
    """

    pipeline_class = LongCatImagePipeline
    transformer_class = LongCatImageTransformer2DModel
    encoders = ("vae", "text_encoder")
    unused = {"text_processor": None}  # noqa: RUF012 - as in the base class
    length_option = None
    lora_format = CogVideoXLoraLoaderMixin  # the plain one: a transformer's layers by their names

    def _adopt(self, pipeline: LongCatImagePipeline) -> None:
        super()._adopt(pipeline)
        pipeline.tokenizer_max_length = self.text_length

    def _character_offsets(self, prompt: str) -> list[tuple[int, int]]:
        parts = split_quotation(prompt)
        if "".join(part for part, _ in parts) != prompt:
            raise UserError(f"LongCat-Image mixes up the apostrophes of '{prompt[:60]}': write \u2019 in place of ' inside its words.")
        pairs, start = [], 0
        for part, quoted in parts:
            for piece in part if quoted else [part]:
                found = self._pipeline.tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
                pairs += [(start + first, start + last) for first, last in found]
                start += len(piece)
        before = self.text_length - len(pairs) if self._pipeline.tokenizer.padding_side == "left" else 0
        return [(0, 0)] * before + pairs

    def _embed(self, pipeline: LongCatImagePipeline, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        embeddings, _ = pipeline.encode_prompt(list(prompts))
        return embeddings, embeddings.new_zeros(len(prompts), 0)

    def _predict_velocity(self, noisy_latents: Tensor, sigma: Tensor, condition: TextCondition) -> Tensor:
        rows, columns = (side // PATCH for side in noisy_latents.shape[-2:])
        text, image = condition.embeddings.shape[1], {"height": rows, "width": columns, "start": (self.text_length, self.text_length)}
        tokens = self.transformer(
            hidden_states=pixel_unshuffle(noisy_latents, PATCH).flatten(2).transpose(1, 2),
            encoder_hidden_states=condition.embeddings,
            timestep=sigma,
            txt_ids=prepare_pos_ids(modality_id=0, type="text", num_token=text).to(noisy_latents.device),
            img_ids=prepare_pos_ids(modality_id=1, type="image", **image).to(noisy_latents.device),
            return_dict=False,
        )[0]
        return pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (rows, columns)), PATCH)

    def _guidance_options(self, guidance: float, count: int) -> dict[str, Any]:
        return {"guidance_scale": guidance, "negative_prompt": [""] * count, "enable_prompt_rewrite": False}

    def _draw(self, pipeline: LongCatImagePipeline, on_step: OnStep | None, **options: Any) -> list[Image.Image]:
        """The pipeline tells nothing about its steps: what enters one is what the step before it left."""
        left = 0

        def see(arguments: dict[str, Any]) -> None:
            nonlocal left
            step = self.sampling_step()
            if on_step is not None and step is not None and step.index > left:
                on_step(left, arguments["hidden_states"])
                left = step.index

        with see_arguments(self.transformer, see):
            latents = pipeline(output_type="latent", **options).images
        if on_step is not None:
            on_step(left, latents)
        unpacked = pipeline._unpack_latents(latents, options["height"], options["width"], pipeline.vae_scale_factor)
        return pipeline.image_processor.postprocess(self.decode_image(unpacked))
