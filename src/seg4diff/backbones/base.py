"""The one interface between the rest of the package and a multi-modal diffusion transformer."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from seg4diff.errors import UserError

LORA_FILE = "pytorch_lora_weights.safetensors"
"""Name that diffusers gives the one file of a saved adapter."""


@dataclass(frozen=True)
class TextCondition:
    """Encoded prompts.

    Attributes:
        embeddings: (B, T, D) text tokens as the transformer takes them.
        pooled: (B, P) pooled text.
        offsets: for each prompt, the (start, end) characters that each of the first tokens stands for; (0, 0) for start, end and padding.
        padding: (B, T) bool, True where a token belongs to no prompt character.
    """

    embeddings: Tensor
    pooled: Tensor
    offsets: list[list[tuple[int, int]]]
    padding: Tensor

    def tokens_between(self, prompt: int, start: int, end: int) -> list[int]:
        """Positions on the token axis that overlap the characters [start, end) of prompt number `prompt`."""
        return [k for k, (first, last) in enumerate(self.offsets[prompt]) if first < end and last > start]

    def __getitem__(self, rows: slice) -> "TextCondition":
        return TextCondition(self.embeddings[rows], self.pooled[rows], self.offsets[rows], self.padding[rows])


@dataclass(frozen=True)
class AttentionSite:
    """One joint-attention block.

    Attributes:
        index: 0-based position among the joint-attention blocks.
        name: name of the attention module inside the transformer, e.g. "transformer_blocks.9.attn"; LoRA targets start with it.
        module: the attention module.
        block: the transformer block around it.
    """

    index: int
    name: str
    module: nn.Module
    block: nn.Module


@dataclass(frozen=True)
class JointQK:
    """Queries and keys of one joint-attention block, after norms and rotary embedding, split into image and text.

    Attributes:
        image_query, image_key: (B, heads, N, d).
        text_query, text_key: (B, heads, T, d).
        scale: factor on the scores, 1 / sqrt(d).
    """

    image_query: Tensor
    image_key: Tensor
    text_query: Tensor
    text_key: Tensor
    scale: float

    def of_heads(self, heads: Sequence[int]) -> "JointQK":
        """The same block with these heads alone, in this order.

        Raises:
            UserError: the block has no such head.
        """
        count = self.image_query.shape[1]
        if odd := [head for head in heads if not 0 <= head < count]:
            raise UserError(f"there is no attention head {odd[0]}: the heads of this block are 0 to {count - 1}.")
        own = {name: getattr(self, name)[:, list(heads)] for name in ("image_query", "image_key", "text_query", "text_key")}
        return JointQK(**own, scale=self.scale)


class Backbone(nn.Module, ABC):
    """A multi-modal diffusion transformer with its image and text encoders.

    Packing, ids, time step scale, latent scale and token order stay inside the adapter: latents go in, velocities come out,
    and `watch` reports image and text apart whatever their order in the host.
    """

    transformer: nn.Module

    @property
    def device(self) -> torch.device:
        return next(self.transformer.parameters()).device

    @abstractmethod
    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> latents (B, C, h, w) on the scale the transformer was trained on. No gradient."""

    @abstractmethod
    def encode_text(self, prompts: Sequence[str]) -> TextCondition:
        """Encode prompts. Raises UserError for a prompt that is longer than the tokenizer allows."""

    @property
    @abstractmethod
    def text_window(self) -> int:
        """Tokens that a prompt may have, those that the tokenizer adds included: the first so many of the token axis.

        Tokens behind them carry no text (the zeros in place of SD3's absent T5).
        """

    @abstractmethod
    def fits(self, prompt: str) -> bool:
        """Whether `encode_text` takes this prompt whole."""

    @abstractmethod
    def predict_velocity(self, noisy_latents: Tensor, sigma: Tensor, condition: TextCondition) -> Tensor:
        """Velocity noise - latents, the shape of `noisy_latents` (B, C, h, w); sigma (B,) in [0, 1]."""

    @abstractmethod
    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """Image tokens (rows, columns) for an image of this size. Raises UserError for a size the model cannot take."""

    @abstractmethod
    def attention_sites(self) -> list[AttentionSite]:
        """The joint-attention blocks in order."""

    def select_sites(self, blocks: Sequence[int]) -> list[AttentionSite]:
        """The joint-attention blocks with these indices. Raises UserError for an index the model does not have."""
        sites = self.attention_sites()
        for block in blocks:
            if not 0 <= block < len(sites):
                raise UserError(f"block {block} does not exist: this model has {len(sites)} joint-attention blocks, 0 to {len(sites) - 1}.")
        return [sites[block] for block in blocks]

    @abstractmethod
    def watch(self, site: AttentionSite, keep: Callable[[Callable[[], JointQK]], None]) -> AbstractContextManager[None]:
        """While the context is open, call `keep` in each forward pass of `site`, as soon as its queries and keys exist.

        `keep` gets a function that returns them, to be called after the pass: what an adapter still has to do to the host's tensors
        (splitting, rotary embedding) must not become part of a block that gradient checkpointing runs again. The tensors are the
        host's own, so gradients flow; hooks are removed on exit. A watched block runs without `torch.compile` from then on.
        """

    @abstractmethod
    def check_device(self, device: torch.device) -> None:
        """Raises UserError if the model's dtype does not run on this device."""

    @abstractmethod
    def sample(
        self, prompts: Sequence[str], *, seed: int, steps: int, guidance: float, size: tuple[int, int], at_once: int = 1
    ) -> list[Image.Image]:
        """Generate one image per prompt with the host's own pipeline; image k has its own generator seeded by seed + k.

        A card that trains one image a step has no room for more than one image `at_once`.
        """

    @abstractmethod
    def save_pretrained(self, folder: Path) -> None:
        """Write the whole model in 16 bit, in the layout that `from_pretrained` of the host pipeline reads."""

    @abstractmethod
    def save_lora(self, folder: Path) -> None:
        """Write the adapter in the format that the host pipeline's `load_lora_weights(folder)` reads, in one atomic step."""

    @abstractmethod
    def load_lora(self, path: Path) -> None:
        """Load an adapter: a folder saved by `save_lora` or by diffusers, or a .pth of the release. Raises UserError if it does not fit."""
