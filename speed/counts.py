"""Work and bytes of one image, as arithmetic; tests hold it against torch's counter and against the files themselves.

A multiplication and an addition are two FLOPs, and only matrix products and convolutions count, as in `torch.utils.flop_counter`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from safetensors.torch import save
from torch.utils.flop_counter import FlopCounterMode

from speed.models import new_vae

PIXELS = 16
"""Pixels of an image token along one side: 8 per latent of the autoencoder, 2 latents per token."""
LATENTS = 16
"""Channels of a latent."""
TARGETS = 4
"""Projections with a LoRA: to_q, to_k, to_v and to_out.0 of the image stream."""
CLIPS = ((12, 768), (32, 1280))
"""Layers and channels of SD3's text encoders, CLIP ViT-L and OpenCLIP ViT-bigG; side by side they fill half of the text features."""
VAE = (128, 256, 512, 512)
"""Channels of the levels of SD3's autoencoder."""


@dataclass(frozen=True)
class Size:
    """What the work of an SD3 depends on; as it stands, SD3-medium at 1024 x 1024.

    Attributes:
        image_tokens: one for 16 x 16 pixels.
        text_tokens: 77 of CLIP and the zeros in place of T5.
        width: channels.
        blocks: joint-attention blocks.
        expert: the block that is read and adapted.
        rank: rank of its LoRA.
        text_features: channels of a text token before the transformer.
        pooled: channels of the pooled text.
    """

    image_tokens: int = 4096
    text_tokens: int = 154
    width: int = 1536
    blocks: int = 24
    expert: int = 9
    rank: int = 16
    text_features: int = 4096
    pooled: int = 2048

    @property
    def tokens(self) -> int:
        """All tokens; they attend to each other."""
        return self.image_tokens + self.text_tokens


def layer(tokens: int, width: int) -> int:
    """Four projections and a feed-forward part four times as wide, and attention."""
    return 24 * tokens * width**2 + 4 * tokens**2 * width


def forward(size: Size) -> int:
    """A whole forward pass of the transformer."""
    wide = size.width**2
    last_text = 18 * size.text_tokens * wide + 8 * wide  # the last block drops the text after its attention
    return _embeddings(size) + size.blocks * _block(size) - last_text + 4 * wide + _head(size)


def segment(size: Size) -> int:
    """A pass that ends where the expert's attention would begin, and its maps with the joint softmax."""
    image, text, width = size.image_tokens, size.text_tokens, size.width
    projections = 6 * size.tokens * width**2 + 24 * width**2
    maps = 4 * image * size.tokens * width + 2 * image * text * width
    return _embeddings(size) + size.expert * _block(size) + projections + maps


def train(size: Size) -> int:
    """Forward and backward pass of a step with mask alignment, LoRA on the expert.

    The backward pass runs from the output to the expert. It has no frozen weights to differentiate, so its projections take what they took
    forward; attention takes twice that.
    """
    image, text, width, adapter = size.image_tokens, size.text_tokens, size.width, size.image_tokens * size.width * size.rank
    logits = 2 * image * text * width
    behind = size.blocks - size.expert - 1
    backward = behind * (24 * size.tokens * width**2 + 8 * size.tokens**2 * width) - 18 * text * width**2 + _head(size)
    backward += 18 * size.tokens * width**2 + 8 * size.tokens**2 * width  # the expert, but nothing before its projections
    return forward(size) + backward + 3 * logits + (16 + 26) * adapter


def lora_weights(size: Size, blocks: int = 1) -> int:
    """Weights of the LoRA on so many blocks: A (rank, width) and B (width, rank) of each projection."""
    return blocks * TARGETS * 2 * size.rank * size.width


@cache
def encode_image(side: int) -> int:
    """The autoencoder's encoder for an image of side x side pixels, counted on a device without numbers."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        new_vae(VAE).encode(torch.empty(1, 3, side, side))
    return counter.get_total_flops()


def encode_text(encoders: Sequence[tuple[int, int]] = CLIPS, positions: int = 77) -> int:
    """The text encoders, (layers, channels) each, for one prompt."""
    return sum(layers * layer(positions, width) + 2 * width**2 for layers, width in encoders)


def cached_image(side: int) -> int:
    """Bytes of a cache file with the latents of an image of side x side pixels in 16 bit."""
    return entry(latents=(LATENTS, side // 8, side // 8))


def cached_text(size: Size) -> int:
    """Bytes of a cache file with an encoded prompt in 16 bit."""
    return entry(embeddings=(size.text_tokens, size.text_features), pooled=(size.pooled,))


def evaluated_image(classes: int) -> int:
    """Bytes that an evaluation keeps of an image, in the end in every process: its number, and three counts for each class."""
    return 8 * (1 + 3 * classes)


def entry(**shapes: tuple[int, ...]) -> int:
    """Bytes of a cache file with tensors of these shapes in 16 bit."""
    return len(save({name: torch.zeros(shape, dtype=torch.float16) for name, shape in shapes.items()}, {"crc32": "0" * 8}))


def _embeddings(size: Size) -> int:
    patches = 2 * size.image_tokens * 4 * LATENTS * size.width
    text = 2 * size.text_tokens * size.text_features * size.width
    return patches + text + 2 * size.width * (256 + size.pooled + 2 * size.width)  # the last: noise level and pooled text


def _block(size: Size) -> int:
    return layer(size.tokens, size.width) + 24 * size.width**2  # the last: scales and shifts of both streams


def _head(size: Size) -> int:
    return 2 * size.image_tokens * 4 * LATENTS * size.width
