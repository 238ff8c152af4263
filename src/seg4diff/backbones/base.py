"""The one interface between the rest of the package and a multi-modal diffusion transformer."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import ModelMixin
from PIL import Image
from torch import Tensor, nn

from seg4diff.backbones.layout import Layout
from seg4diff.errors import UserError

OnStep = Callable[[int, Tensor], None]
"""(sampling step from 0, latents after it as the pipeline keeps them)."""
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

    def of_prompt(self, more: int = 0) -> Tensor:
        """(B, T) bool: the tokens of each prompt, with those that the tokenizer adds, and so many of the padding behind them."""
        lengths = torch.tensor([len(pairs) + more for pairs in self.offsets], device=self.embeddings.device)
        return torch.arange(self.embeddings.shape[1], device=self.embeddings.device) < lengths[:, None]

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


@dataclass(frozen=True, eq=False)
class SamplingStep:
    """A step of a sampling run.

    Attributes:
        run: an object that this run has of its own.
        index: the step, from 0.
        both_halves: whether one pass holds both predictions of classifier-free guidance; `Backbone.prompted_first` says in which order.
            Where it does not, the one without the prompt has a pass of its own, later in the same step.
    """

    run: object
    index: int
    both_halves: bool

    def same_as(self, other: "SamplingStep | None") -> bool:
        """Whether this is the same step of the same run."""
        return other is not None and self.run is other.run and self.index == other.index


class Backbone(nn.Module, ABC):
    """A multi-modal diffusion transformer with its image and text encoders.

    Packing, ids, time step scale and latent scale stay inside the adapter: latents go in, velocities come out.
    """

    transformer: ModelMixin
    text_first: ClassVar[bool]
    """Whether text tokens stand before image tokens in joint attention."""
    text_attends: ClassVar[bool] = True
    """Whether text tokens attend too; False = the image alone does, so that there is no T2I and no T2T attention."""
    text_returned: ClassVar[int] = 0
    """Which of the two that a block returns is the text, unless it returns image and text as one sequence."""
    tokens: ClassVar[str] = "hidden_states"
    """Argument of the transformer and of its blocks that holds the image: one row, or one entry of a list, for each image of a batch."""
    prompted_first: ClassVar[bool] = False
    """In a pass with both predictions of classifier-free guidance: whether the rows that see the prompt come first."""
    listed: ClassVar[frozenset[str]] = frozenset()
    """Arguments of the transformer that are lists with one entry for each image of a batch."""
    unbatched: ClassVar[frozenset[str]] = frozenset()
    """Arguments of the transformer that all rows of a batch share, whatever their shape."""
    _predicting = False
    """Whether a pass is one of `predict_velocity` and none of the pipeline."""

    @property
    def device(self) -> torch.device:
        return next(self.transformer.parameters()).device

    def fingerprint(self) -> str:
        """Changes with the weights of the transformer, those of a LoRA included, and not with where they lie."""
        parts = [f"{name}{weight.detach().flatten()[:16].float().tolist()}" for name, weight in self.transformer.named_parameters()]
        return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """What the transformer's weights are held in."""

    @property
    def frames_at_once(self) -> int:
        """Frames of a clip that the model was made to see together; 1 = it sees pictures alone."""
        return 1

    @property
    def frames_per_latent(self) -> int:
        """Frames of a clip that one of its latent frames stands for; the first stands for one frame."""
        return 1

    @abstractmethod
    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> latents (B, C, h, w) on the scale the transformer was trained on. No gradient.

        A video model also takes (B, 3, F, H, W), F = k `frames_per_latent` + 1, whose latents are (B, C, k + 1, h, w).
        """

    @abstractmethod
    def decode_image(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) as of `encode_image` -> images (B, 3, H, W) in [-1, 1]. No gradient."""

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

    def predict_velocity(self, noisy_latents: Tensor, sigma: Tensor, condition: TextCondition) -> Tensor:
        """Velocity noise - latents, the shape of `noisy_latents`, which is that of `encode_image`; sigma (B,) in [0, 1]."""
        self._predicting = True
        try:
            return self._predict_velocity(noisy_latents, sigma, condition)
        finally:
            self._predicting = False

    @abstractmethod
    def _predict_velocity(self, noisy_latents: Tensor, sigma: Tensor, condition: TextCondition) -> Tensor:
        """See `predict_velocity`: the family's own way to call its transformer."""

    @abstractmethod
    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """Image tokens (rows, columns) for an image of this size, or for a latent frame of a clip, whose tokens follow each other.

        Raises UserError for a size the model cannot take.
        """

    @property
    def heads(self) -> int:
        """Attention heads of each joint-attention block."""
        return self.transformer.config.num_attention_heads

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

    def layout(self, arguments: dict[str, Any]) -> Layout:
        """Where image and text stand in the joint sequence of a forward pass, from the arguments of the transformer by name."""
        return Layout(arguments["encoder_hidden_states"].shape[1], self.text_first, text_attends=self.text_attends)

    @abstractmethod
    def sampling_step(self) -> SamplingStep | None:
        """The step that the pipeline takes, whoever called it; None inside `predict_velocity`."""

    @abstractmethod
    def noise_levels(self) -> list[float]:
        """Noise level in [0, 1] at which each step of the last `sample` starts, also of one that is running."""

    @abstractmethod
    def check_device(self, device: torch.device) -> None:
        """Raises UserError if the model's dtype does not run on this device."""

    @abstractmethod
    def sample(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        size: tuple[int, int],
        noise: Tensor | None = None,
        on_step: OnStep | None = None,
    ) -> list[Image.Image]:
        """Generate one image per prompt with the plain diffusers pipeline.

        Args:
            prompts: the prompts, drawn together as one batch.
            seeds: one for each image: image k starts from the noise that the pipeline draws for it alone with a generator of this seed.
            steps: sampling steps.
            guidance: guidance scale.
            size: (height, width) in pixels.
            noise: start from this instead, as the pipeline takes it in its argument `latents`.
            on_step: called after each step.
        """

    @abstractmethod
    def save_pretrained(self, folder: Path) -> None:
        """Write the whole model in 16 bit, in the layout that `from_pretrained` of the diffusers pipeline reads."""

    @abstractmethod
    def save_lora(self, folder: Path, comfyui: bool = False) -> None:
        """Write the adapter in the format that `load_lora_weights(folder)` of the diffusers pipeline reads, in one atomic step.

        Args:
            folder: the file goes there.
            comfyui: write a second file beside it, for ComfyUI.
        """

    @abstractmethod
    def load_lora(self, path: Path) -> None:
        """Load an adapter, see `lora_files.read_lora`. Raises UserError if it cannot be read or does not fit."""
