"""CogVideoX: a video model with one stack of joint blocks; text before image, an image token is a place in space and time."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel
from PIL import Image
from torch import Tensor

from seg4diff.backbones.base import AttentionSite, OnStep, SamplingStep, TextCondition
from seg4diff.backbones.loading import Source
from seg4diff.backbones.pipeline import PipelineBackbone
from seg4diff.backbones.runtime import Runtime
from seg4diff.backbones.sampling import after_step, step_by_time
from seg4diff.errors import UserError

TIME = 2
"""Axis of the frames in images and latents of a clip; a picture has no such axis."""


class CogVideoXBackbone(PipelineBackbone):
    """Wraps a CogVideoXPipeline with sinusoidal positional embeddings, such as CogVideoX-2b. A picture is a clip of one frame.

    The padding of a prompt is embedded by T5 like the rest and takes part in attention.

    The model was not trained by flow matching. Its noisy latents are a x0 + b noise with a^2 + b^2 = 1, its time steps stand for a and b,
    and it predicts v = a noise - b x0 (Salimans and Ho 2022). A noise level sigma of this project is the time step whose b / (a + b) is
    nearest to it: the same share of noise. `interpolate` makes these latents up to the factor (1 - sigma) / a, and the velocity
    is a sum of v and the latents. So every noise level has its pass, and the loss on the velocity is that on v times (a + b)^2, a number
    from 1 to 2. Noise levels below that of the first time step, 0.05 for CogVideoX-2b, share this step.

    Args:
        pipeline: the loaded pipeline; the model fixes the number of its text tokens.
        runtime: options for speed and memory.
        source: where the pipeline came from; None = it is complete.

    Raises:
        UserError: the model has rotary embeddings (RoPE), such as CogVideoX-5b, or predicts something else than v.
    """

    pipeline_class = CogVideoXPipeline
    transformer_class = CogVideoXTransformer3DModel
    encoders = ("vae", "text_encoder")
    text_first = True
    text_returned = 1
    guides_in_one_pass = True

    def __init__(self, pipeline: CogVideoXPipeline, *, runtime: Runtime | None = None, source: Source | None = None) -> None:
        config, predicted = pipeline.transformer.config, pipeline.scheduler.config.get("prediction_type")
        if config.use_rotary_positional_embeddings:
            raise UserError("this CogVideoX has rotary embeddings, and the adapter reads those with sinusoidal ones: choose CogVideoX-2b.")
        if predicted != "v_prediction":
            raise UserError(
                f"a CogVideoX predicts v (v_prediction), and the `prediction_type` of this scheduler is {predicted}: use the model's own."
            )
        super().__init__(pipeline, text_length=config.max_text_seq_length, runtime=runtime, source=source)

    @property
    def frames_at_once(self) -> int:
        return self.transformer.config.sample_frames

    @property
    def frames_per_latent(self) -> int:
        return self.transformer.config.temporal_compression_ratio

    def _embed(self, pipeline: CogVideoXPipeline, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        options = {"do_classifier_free_guidance": False, "device": self.device, **self._text_options}
        embeddings = pipeline.encode_prompt(list(prompts), **options)[0]
        return embeddings, embeddings.new_zeros(len(prompts), 0)

    def _encode_image(self, images: Tensor) -> Tensor:
        return super()._encode_image(images) if images.ndim > 4 else super()._encode_image(images.unsqueeze(TIME)).squeeze(TIME)

    def decode_image(self, latents: Tensor) -> Tensor:
        return super().decode_image(latents) if latents.ndim > 4 else super().decode_image(latents.unsqueeze(TIME)).squeeze(TIME)

    def _levels(self) -> Tensor:
        """Noise level of each time step, rising, in float64."""
        kept = self._pipeline.scheduler.alphas_cumprod.double().cpu()
        return (1 - kept).sqrt() / (kept.sqrt() + (1 - kept).sqrt())

    def _time_steps(self, sigma: Tensor) -> Tensor:
        """The time steps (B,) of noise levels (B,)."""
        return (self._levels().to(sigma) - sigma[:, None]).abs().argmin(dim=1)

    def _predict_velocity(self, noisy_latents: Tensor, sigma: Tensor, condition: TextCondition) -> Tensor:
        """See the class: x = noisy / |(1 - sigma, sigma)|, v from the transformer, noise - x0 = (b - a) x + (a + b) v."""
        wide = sigma.to(torch.promote_types(noisy_latents.dtype, torch.float32)).view(-1, *[1] * (noisy_latents.ndim - 1))
        length = torch.hypot(1 - wide, wide)
        keep, noise, latents = (1 - wide) / length, wide / length, noisy_latents.to(wide.dtype) / length
        clip = latents if latents.ndim > 4 else latents.unsqueeze(TIME)
        predicted = self.transformer(
            hidden_states=clip.transpose(1, TIME).to(noisy_latents.dtype),
            encoder_hidden_states=condition.embeddings,
            timestep=self._time_steps(sigma),
            return_dict=False,
        )[0].transpose(1, TIME)
        return (noise - keep) * latents + (keep + noise) * predicted.reshape(latents.shape)

    def _draw(self, pipeline: CogVideoXPipeline, on_step: OnStep | None, **options: Any) -> list[Image.Image]:
        return [frames[0] for frames in pipeline(callback_on_step_end=after_step(on_step), **options).frames]

    def _guidance_options(self, guidance: float, count: int) -> dict[str, Any]:
        return {"guidance_scale": guidance, "num_frames": 1}

    def sampling_step(self) -> SamplingStep | None:
        return None if self._predicting else step_by_time(self._pipeline, both_halves=self.guides_in_one_pass)

    def noise_levels(self) -> list[float]:
        return self._levels()[self._pipeline.scheduler.timesteps.cpu()].tolist()

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        return self._check_size(height, width, self._vae_scale * self.transformer.config.patch_size, None)

    def attention_sites(self) -> list[AttentionSite]:
        return [
            AttentionSite(index, f"transformer_blocks.{index}.attn1", block.attn1, block)
            for index, block in enumerate(self.transformer.transformer_blocks)
        ]
