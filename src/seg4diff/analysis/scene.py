"""What studies look at: images that a model reads, one block at a time."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from seg4diff.analysis.album import NO_WORD
from seg4diff.attention.joint import Joint
from seg4diff.attention.seam import Visit, stream
from seg4diff.backbones.base import Backbone, TextCondition
from seg4diff.data.geometry import Size
from seg4diff.data.sample import IGNORE, Batch, Vocabulary, present_classes, tensor_to_image
from seg4diff.flow import draw, interpolate
from seg4diff.segmentation.frame import Frame, frames
from seg4diff.segmentation.prompts import Prompt, list_largest, token_sets


@dataclass(frozen=True)
class Case:
    """One image and the prompt that it is read with.

    Attributes:
        number: number of the image in its data set or list of prompts.
        prompt: the prompt; its classes are ids of the vocabulary, or positions of its own words where images are generated.
        tokens: positions on the text axis of each class of the prompt.
        padding: (T,) bool, True where a text token belongs to no character of the prompt.
        grid: image tokens (rows, columns).
        mask: (H, W) label map, None where there is none.
        frame: where the mask lies on the canvas, None where there is none.
    """

    number: int
    prompt: Prompt
    tokens: list[list[int]]
    padding: Tensor
    grid: Size
    mask: Tensor | None = None
    frame: Frame | None = None

    def labels(self) -> Tensor | None:
        """The mask with positions in the prompt in place of class ids, (H, W) uint8, `NO_WORD` elsewhere; None without a mask."""
        if self.mask is None:
            return None
        labels = torch.full_like(self.mask, NO_WORD, dtype=torch.uint8)
        for position, k in enumerate(self.prompt.classes):
            labels[self.mask == k] = position
        return labels

    @cached_property
    def shares(self) -> Tensor | None:
        """Share of each class of the mask in the cell of each image token, (N, classes) on the CPU; None without a mask."""
        if self.mask is None or self.frame is None:
            return None
        mask = self.mask.cpu()
        if not (classes := present_classes(mask)):
            return torch.zeros(self.grid[0] * self.grid[1], 0)
        return self.frame.average(torch.stack([mask == k for k in classes]).float(), self.grid).flatten(1).T


@dataclass(frozen=True)
class Place:
    """One image, one block, one noise level: what a value is of.

    Attributes:
        case: the image.
        level: position of the noise level among those of the analysis.
        block: index of the block.
    """

    case: Case
    level: int
    block: int


@dataclass(frozen=True)
class Look(Place):
    """What can be seen there.

    Attributes:
        joint: what enters the attention of the block, B = 1.
    """

    joint: Joint


def picture(image: Image.Image) -> Tensor:
    """An image as (H, W, 3) uint8."""
    return torch.from_numpy(np.array(image))


See = Callable[[Look], None]


@dataclass(frozen=True)
class Scene(ABC):
    """A batch of images.

    Attributes:
        backbone: the model.
        sigmas: noise levels of the analysis, in [0, 1].
        cases: the images.
        condition: their encoded prompts.
    """

    backbone: Backbone
    sigmas: Sequence[float]
    cases: list[Case]
    condition: TextCondition

    @abstractmethod
    def read(self, see: See) -> None:
        """Look at every block of every image at every noise level, one block after the other."""

    @abstractmethod
    def pictures(self) -> list[Tensor]:
        """The images, once `read` is over, (H, W, 3) uint8."""

    @property
    def blocks(self) -> range:
        """All joint-attention blocks."""
        return range(len(self.backbone.attention_sites()))


@dataclass(frozen=True)
class LabelledScene(Scene):
    """Labelled images, to which noise is added.

    Attributes:
        batch: the images and their masks.
        seed: seed of the noise; it is that of `Readout.noisy`, so an evaluation meets the same.
    """

    batch: Batch = field(kw_only=True)
    seed: int = field(kw_only=True)

    @classmethod
    def of_batch(cls, backbone: Backbone, sigmas: Sequence[float], batch: Batch, vocabulary: Vocabulary, seed: int) -> "LabelledScene":
        """The scene of a batch; the prompt of an image names the classes in it, without the smallest where not all fit into one."""
        prompts = [_prompt_of(mask, vocabulary, backbone.fits) for mask in batch.masks]
        condition = backbone.encode_text([prompt.text for prompt in prompts])
        grid = backbone.token_grid(*batch.images.shape[-2:])
        cases = [
            Case(number, prompt, token_sets(condition, row, prompt), condition.padding[row], grid, mask, frame)
            for row, (number, prompt, mask, frame) in enumerate(zip(batch.indices, prompts, batch.masks, frames(batch), strict=True))
        ]
        return cls(backbone, sigmas, cases, condition, batch=batch, seed=seed)

    @cached_property
    def latents(self) -> Tensor:
        """(B, C, h, w) without noise."""
        return self.backbone.encode_image(self.batch.images)

    def noisy(self, level: int) -> tuple[Tensor, Tensor]:
        """Noisy latents and noise levels (B,); the noise of an image is the same at all levels."""
        noise, sigma = draw(self.latents, self.batch.indices, self.seed, lambda _: self.sigmas[level])
        return interpolate(self.latents, noise, sigma), sigma

    def read(self, see: See) -> None:
        for level in range(len(self.sigmas)):
            self.read_level(level, self.blocks, see)

    def pictures(self) -> list[Tensor]:
        return [picture(tensor_to_image(image)) for image in self.batch.images]

    def read_level(self, level: int, blocks: Sequence[int], see: See, condition: TextCondition | None = None) -> None:
        """One pass that stops at the last of these blocks; `condition` replaces the prompts."""

        def visit(visit: Visit) -> None:
            for row, case in enumerate(self.cases):
                see(Look(case, level, visit.block, visit.joint.of_rows(slice(row, row + 1))))

        with stream(self.backbone, blocks, visit, stop=True):
            self.backbone.predict_velocity(*self.noisy(level), condition or self.condition)


def _prompt_of(mask: Tensor, vocabulary: Vocabulary, fits: Callable[[str], bool]) -> Prompt:
    pixels = torch.bincount(mask[mask != IGNORE].flatten().cpu(), minlength=len(vocabulary)).tolist()
    return list_largest(vocabulary.names, vocabulary.without_background(present_classes(mask)), pixels.__getitem__, fits)
