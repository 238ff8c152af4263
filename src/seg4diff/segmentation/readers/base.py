"""What a reader gets and gives: one forward pass over noisy images with a prompt each; class maps on the token grid."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from seg4diff.attention.capture import Record, capture
from seg4diff.attention.joint import Joint
from seg4diff.backbones.base import Backbone, TextCondition
from seg4diff.data.geometry import Size
from seg4diff.segmentation.prompts import Prompt, pool_words

TokenMaps = Callable[[Joint, int], Tensor]
"""(what enters the attention of a block, its index) -> a map for every text token (B, T, N), see `Readout.token_maps`."""
ClassMaps = Iterator[tuple[int, list[Tensor]]]
"""Blocks, each with B tensors (classes of the image's prompt, h, w)."""


@dataclass(frozen=True)
class Pass:
    """One forward pass, not yet run.

    Attributes:
        backbone: the model.
        latents: noisy latents (B, C, h, w) of pictures, or (B, C, T, h, w) of clips.
        sigma: (B,) their noise levels.
        condition: the encoded prompts.
        prompts: one for each image.
        grid: (rows, columns) of the image tokens; the T latent frames of a clip lie one below the other.
        token_maps: how the image-to-text maps of a block are read, with the scores and the heads of the readout.
    """

    backbone: Backbone
    latents: Tensor
    sigma: Tensor
    condition: TextCondition
    prompts: Sequence[Prompt]
    grid: Size
    token_maps: TokenMaps

    @property
    def frames(self) -> int:
        """Latent frames on the grid."""
        return latent_frames(self.latents)

    def run(self) -> None:
        """Run the model; a context that stops the pass ends it early."""
        self.backbone.predict_velocity(self.latents, self.sigma, self.condition)

    def capture(self, blocks: Sequence[int]) -> Record:
        """Run the model as far as the last of these blocks, and keep what enters the attention of each."""
        with capture(self.backbone, blocks, stop=True) as record:
            self.run()
        return record

    def pool(self, maps: Tensor) -> list[Tensor]:
        """Maps of tokens (B, T, N) -> class maps: B tensors (classes, h, w)."""
        return pool_words(maps, self.grid, self.condition, self.prompts)

    def word_maps(self, record: Record, block: int) -> list[Tensor]:
        """The image-to-text class maps of a block, as the paper reads them: B tensors (classes, h, w)."""
        return self.pool(self.token_maps(record[block], block))


class Reader(Protocol):
    """A way to read class maps from one pass."""

    @property
    def per_block(self) -> bool:
        """Whether each block has maps of its own; False: the maps are those of blocks that the reader chooses."""

    @property
    def settings(self) -> Collection[str]:
        """Which of "scores" and "heads" of the `Readout` may be others than the usual ones; the reader knows nothing of the rest."""

    def read(self, run: Pass, blocks: Sequence[int]) -> ClassMaps:
        """Run the pass, no further than it must, and yield each of these blocks with its class maps.

        Raises:
            UserError: this model has no such maps.
        """


def latent_frames(latents: Tensor) -> int:
    """Frames of latents (B, C, T, h, w); 1 for those of pictures (B, C, h, w)."""
    return latents.shape[2] if latents.ndim > 4 else 1


def stack(maps: Sequence[Tensor]) -> Tensor:
    """B class maps (classes, h, w), whose number of classes differs, as one tensor (B, most classes, N), filled up with 0."""
    return pad_sequence([own.flatten(1) for own in maps], batch_first=True)


def unstack(stacked: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The inverse of `stack`, with the numbers of classes and the grid of `like`."""
    return [own[: len(one)].unflatten(-1, one.shape[-2:]) for own, one in zip(stacked, like, strict=True)]
