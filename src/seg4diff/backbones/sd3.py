"""SD3 and SD3.5: one adapter, two configurations."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline
from peft import get_peft_model_state_dict
from PIL import Image
from torch import Tensor

from seg4diff.backbones.base import LORA_FILE, AttentionSite, Backbone, JointQK, TextCondition
from seg4diff.backbones.loading import load_pretrained
from seg4diff.backbones.lora import check_lora
from seg4diff.backbones.scratch import new_sd3_pipeline
from seg4diff.errors import UserError


class SD3Backbone(Backbone):
    """Wraps a StableDiffusion3Pipeline without its T5 encoder.

    Args:
        pipeline: the loaded pipeline.
        t5_length: number of zero tokens that stand in for the absent T5 encoder; they take softmax mass, so the number matters
            (the release uses 77 for SD3).
    """

    def __init__(self, pipeline: StableDiffusion3Pipeline, *, t5_length: int) -> None:
        super().__init__()
        self.transformer, self.vae = pipeline.transformer, pipeline.vae
        self.text_encoder, self.text_encoder_2 = pipeline.text_encoder, pipeline.text_encoder_2
        self._pipeline, self._t5_length = pipeline, t5_length
        pipeline.set_progress_bar_config(disable=True)

    @classmethod
    def from_pretrained(cls, *, path: str, revision: str | None, dtype: str, t5_length: int) -> "SD3Backbone":
        """Load from a local folder or from the hub.

        Args:
            path: a folder in the layout of diffusers, or a hub id such as "stabilityai/stable-diffusion-3-medium-diffusers".
            revision: branch, tag or commit of a hub model.
            dtype: name of a torch dtype for the weights, e.g. "float32" or "bfloat16".
            t5_length: see the class.

        Raises:
            UserError: the model is missing, gated or of another kind.
        """
        pipeline = load_pretrained(
            StableDiffusion3Pipeline, path, revision, torch_dtype=getattr(torch, dtype), text_encoder_3=None, tokenizer_3=None
        )
        return cls(pipeline, t5_length=t5_length)

    @classmethod
    def from_scratch(cls, *, vae_path: str, t5_length: int, **architecture) -> "SD3Backbone":
        """A model with random weights around a trained autoencoder; `architecture` as in `new_sd3_pipeline`."""
        vae = load_pretrained(AutoencoderKL, vae_path, None)
        return cls(new_sd3_pipeline(vae=vae, **architecture), t5_length=t5_length)

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        latents = self.vae.encode(images.to(self.vae.dtype)).latent_dist.mean
        return (latents - self.vae.config.shift_factor) * self.vae.config.scaling_factor

    def encode_text(self, prompts: Sequence[str]) -> TextCondition:
        tokenizer = self._pipeline.tokenizer
        tokens = tokenizer(list(prompts), padding="max_length", return_offsets_mapping=True)
        limit = tokenizer.model_max_length
        for prompt, ids in zip(prompts, tokens["input_ids"], strict=True):
            if len(ids) > limit:
                raise UserError(f"the prompt '{prompt[:60]}...' has {len(ids) - 2} tokens, the tokenizer allows {limit - 2}: shorten it.")
        embeddings, _, pooled, _ = self._pipeline.encode_prompt(
            prompt=list(prompts),
            prompt_2=None,
            prompt_3=None,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self._t5_length,
        )
        offsets = [[tuple(pair) for pair in row] for row in tokens["offset_mapping"]]
        padding = torch.ones(embeddings.shape[:2], dtype=torch.bool)
        for row, pairs in enumerate(offsets):
            padding[row, : len(pairs)] = torch.tensor([start == end for start, end in pairs])
        return TextCondition(embeddings, pooled, offsets, padding.to(embeddings.device))

    def fits(self, prompt: str) -> bool:
        tokenizer = self._pipeline.tokenizer
        return len(tokenizer(prompt)["input_ids"]) <= tokenizer.model_max_length

    def predict_velocity(self, noisy_latents: Tensor, sigma: Tensor, condition: TextCondition) -> Tensor:
        return self.transformer(
            hidden_states=noisy_latents,
            timestep=sigma * self._pipeline.scheduler.config.num_train_timesteps,
            encoder_hidden_states=condition.embeddings,
            pooled_projections=condition.pooled,
            return_dict=False,
        )[0]

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        step = self._pipeline.vae_scale_factor * self.transformer.config.patch_size
        rows, columns = height // step, width // step
        limit = self.transformer.config.pos_embed_max_size
        if height % step or width % step or max(rows, columns) > limit:
            raise UserError(
                f"image size {height} x {width} does not fit this model: height and width must be multiples of {step} and at most "
                f"{limit * step}; set data.image_size=[height,width]."
            )
        return rows, columns

    def attention_sites(self) -> list[AttentionSite]:
        return [
            AttentionSite(index, f"transformer_blocks.{index}.attn", block.attn)
            for index, block in enumerate(self.transformer.transformer_blocks)
        ]

    @contextmanager
    def watch(self, site: AttentionSite, keep: Callable[[JointQK], None]) -> Iterator[None]:
        attention = site.module
        sources = {
            "image_query": attention.norm_q or attention.to_q,
            "image_key": attention.norm_k or attention.to_k,
            "text_query": attention.norm_added_q or attention.add_q_proj,
            "text_key": attention.norm_added_k or attention.add_k_proj,
        }
        parts: dict[str, Tensor] = {}

        def collect(part: str, output: Tensor) -> None:
            # Projections return (B, tokens, heads * d); norms already see the heads apart: (B, heads, tokens, d).
            parts[part] = output if output.dim() == 4 else output.unflatten(-1, (attention.heads, -1)).transpose(1, 2)
            if len(parts) == len(sources):
                joint = JointQK(**parts, scale=parts["image_query"].shape[-1] ** -0.5)
                parts.clear()
                keep(joint)

        with ExitStack() as stack:
            for part, module in sources.items():
                hook = module.register_forward_hook(lambda _module, _args, output, part=part: collect(part, output))
                stack.callback(hook.remove)
            yield

    @torch.no_grad()
    def sample(self, prompts: Sequence[str], *, seed: int, steps: int, guidance: float, size: tuple[int, int]) -> list[Image.Image]:
        generators = [torch.Generator().manual_seed(seed + k) for k in range(len(prompts))]
        return self._pipeline(
            prompt=list(prompts),
            height=size[0],
            width=size[1],
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generators,
            max_sequence_length=self._t5_length,
        ).images

    def save_pretrained(self, folder: Path) -> None:
        copy.deepcopy(self._pipeline).to(torch.float16).save_pretrained(folder)

    def write_lora(self, folder: Path) -> None:
        (name,) = self.transformer.peft_config
        StableDiffusion3Pipeline.save_lora_weights(
            folder,
            transformer_lora_layers=get_peft_model_state_dict(self.transformer, adapter_name=name),
            transformer_lora_adapter_metadata=self.transformer.peft_config[name].to_dict(),
        )

    def load_lora(self, folder: Path) -> None:
        check_lora(self, folder)
        self._pipeline.load_lora_weights(folder, weight_name=LORA_FILE)
