"""SD3-shaped models with random weights, and the dense reading that the released code does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor

from seg4diff.attention.capture import capture
from seg4diff.attention.joint import Joint
from seg4diff.backbones.base import Backbone, TextCondition
from seg4diff.backbones.scratch import new_sd3_pipeline
from seg4diff.backbones.sd3 import SD3Backbone
from seg4diff.tiny.tokenizer import build_clip_tokenizer
from speed.measure import Settings

TEXT_TOKENS = 154
"""77 tokens of CLIP and 77 zeros in place of T5, as the release runs SD3."""

WORDS = ("sky", "grass", "person", "dog", "tree", "road")


@dataclass(frozen=True)
class Shape:
    """Size of a model.

    Attributes:
        blocks: joint-attention blocks.
        heads: attention heads.
        head_width: channels of a head.
        side: image tokens along one side.
        vae_widths: channels of the four levels of the autoencoder.
        text_width: channels of both CLIP encoders.
        text_layers: layers of both CLIP encoders.
        text_tokens: half of them of CLIP, half zeros in place of T5.
        tiny: channels of an AutoencoderTiny that takes the place of the autoencoder; None = it does not.
    """

    blocks: int
    heads: int
    head_width: int
    side: int
    vae_widths: tuple[int, int, int, int] = (8, 8, 8, 8)
    text_width: int = 32
    text_layers: int = 1
    text_tokens: int = TEXT_TOKENS
    tiny: int | None = None

    @property
    def tokens(self) -> int:
        """Image tokens."""
        return self.side**2

    def __str__(self) -> str:
        width = self.heads * self.head_width
        return f"SD3 with random weights, {self.blocks} blocks of {self.heads} heads x {self.head_width} = {width} channels"


@dataclass(frozen=True)
class Inputs:
    """What one forward pass takes: latents (1, 16, h, w), sigma (1,) and the prompt."""

    latents: Tensor
    sigma: Tensor
    condition: TextCondition


def new_backbone(shape: Shape, settings: Settings) -> SD3Backbone:
    """A model of this shape on the device."""
    text = {"hidden_size": shape.text_width, "intermediate_size": 4 * shape.text_width, "num_hidden_layers": shape.text_layers}
    pipeline = new_sd3_pipeline(
        transformer={
            "sample_size": 2 * shape.side,
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 16,
            "num_layers": shape.blocks,
            "attention_head_dim": shape.head_width,
            "num_attention_heads": shape.heads,
            "caption_projection_dim": shape.heads * shape.head_width,
            "pos_embed_max_size": shape.side,
        },
        vae=new_vae(shape.vae_widths) if shape.tiny is None else new_tiny(shape.tiny),
        text_encoder=text | {"num_attention_heads": max(1, shape.text_width // 64)},
        tokenizer=build_clip_tokenizer(WORDS, shape.text_tokens // 2),
        shift=3.0,
        pooled_text=True,
        seed=0,
    )
    return SD3Backbone(pipeline, t5_length=shape.text_tokens // 2).eval().requires_grad_(False).to(settings.device, settings.dtype)


def new_vae(widths: tuple[int, int, int, int]) -> AutoencoderKL:
    """An autoencoder like that of SD3, with other widths."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoencoderKL(
            latent_channels=16,
            block_out_channels=widths,
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            layers_per_block=2,
            norm_num_groups=min(32, widths[0]),
            use_quant_conv=False,
            use_post_quant_conv=False,
            shift_factor=0.0609,
            scaling_factor=1.5305,
        )


def new_tiny(width: int) -> AutoencoderTiny:
    """An AutoencoderTiny like taesd3, with another width."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoencoderTiny(latent_channels=16, encoder_block_out_channels=(width,) * 4, decoder_block_out_channels=(width,) * 4)


@torch.no_grad()
def new_inputs(backbone: Backbone, side: int, settings: Settings) -> Inputs:
    """Random latents for side x side image tokens at noise level 0.5."""
    latents = torch.randn(1, 16, 2 * side, 2 * side, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.5], device=settings.device)
    return Inputs(latents.to(settings.device, settings.dtype), sigma, backbone.encode_text([" ".join(WORDS)]))


@torch.no_grad()
def forward(backbone: Backbone, inputs: Inputs) -> Tensor:
    """The forward pass alone."""
    return backbone.predict_velocity(inputs.latents, inputs.sigma, inputs.condition)


@torch.no_grad()
def read(
    backbone: Backbone, inputs: Inputs, blocks: Sequence[int], reading: Callable[[Joint], Tensor], *, stop: bool = False
) -> list[Tensor]:
    """Maps (1, T, N) of each block from one forward pass; `stop` ends it at the last of them."""
    with capture(backbone, blocks, stop=stop) as record:
        backbone.predict_velocity(inputs.latents, inputs.sigma, inputs.condition)
    return [reading(record[block]) for block in blocks]


def dense_i2t(joint: Joint) -> Tensor:
    """I2T maps (B, T, N) as the released code reads them.

    Beside the host's own attention it forms the softmax over all (N + T) x (N + T) pairs, takes the mean over the heads and cuts out the
    image rows and text columns.
    """
    return _cut(_dense_scores(joint).softmax(dim=-1), joint)


def dense_logits(joint: Joint) -> Tensor:
    """Scores before the softmax (B, T, N) as the released code reads them in training: from the scores of all pairs."""
    return _cut(_dense_scores(joint), joint)


def _dense_scores(joint: Joint) -> Tensor:
    query = torch.cat([joint.image_query, joint.text_query], dim=2)
    key = torch.cat([joint.image_key, joint.text_key], dim=2)
    scores = query @ key.transpose(-1, -2) * joint.scale
    return scores if joint.bias is None else scores + joint.bias.to(scores.dtype)


def _cut(pairs: Tensor, joint: Joint) -> Tensor:
    image_tokens = joint.image_query.shape[2]
    return pairs.mean(dim=1)[:, :image_tokens, image_tokens:].transpose(-1, -2)
