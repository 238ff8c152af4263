"""Images that the model generates itself, looked at on the way: studies without masks need no data set (the paper's own setting)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from seg4diff.analysis.scene import Case, Look, Scene, See, picture
from seg4diff.attention.seam import Visit, stream
from seg4diff.backbones.base import Backbone
from seg4diff.data.sample import Vocabulary
from seg4diff.data.sampler import UnrepeatedSampler
from seg4diff.errors import UserError, at_least
from seg4diff.generation.requests import Sampling
from seg4diff.generation.sampler import sample_images
from seg4diff.segmentation.prompts import Prompt, find_names, prompt_words, token_sets, visible_words


@dataclass(frozen=True)
class PromptBatch:
    """Prompts whose images are drawn together.

    Attributes:
        prompts: the prompts.
        numbers: their places in the list.
        seeds: seed of the noise of each image.
        sampling: how they are sampled.
    """

    prompts: list[str]
    numbers: list[int]
    seeds: list[int]
    sampling: Sampling

    def __len__(self) -> int:
        return len(self.prompts)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "PromptBatch":
        """Nothing to move; Lightning calls this."""
        return self


class PromptData(L.LightningDataModule):
    """A test loader over prompts, each of them once over all processes.

    Args:
        prompts: the prompts.
        at_once: images that are drawn together.
        steps: sampling steps.
        guidance: guidance scale.
        size: (height, width) in pixels.
        seed: image k is drawn with the seed `seed` + k.
    """

    vocabulary = Vocabulary(())
    """There are no masks."""

    def __init__(self, *, prompts: Sequence[str], at_once: int, steps: int, guidance: float, size: tuple[int, int], seed: int) -> None:
        super().__init__()
        at_least(1, at_once=at_once)
        self._prompts, self._at_once, self._seed, self._drawn = list(prompts), at_once, seed, 0
        self._sampling = Sampling(guidance=guidance, steps=steps, size=(size[0], size[1]))

    def tested(self) -> list[int]:
        """Numbers of the images that the test loaders of all processes serve."""
        return list(range(len(self._prompts)))

    def check(self, backbone: Backbone) -> None:
        """Raise UserError for a prompt or a size that the model does not take."""
        backbone.token_grid(*self._sampling.size)
        if long := [prompt for prompt in self._prompts if not backbone.fits(prompt)]:
            raise UserError(
                f"the prompt '{long[0][:60]}...' is longer than the {backbone.text_window} tokens that the model takes: shorten it."
            )

    def test_from(self, image: int) -> None:
        """Let the test loader of this process leave out its first images, which it has counted before."""
        self._drawn = image

    def test_dataloader(self) -> DataLoader:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        sampler = UnrepeatedSampler(size=len(self._prompts), rank=rank, world_size=world_size, start=self._drawn)
        numbered: Any = list(enumerate(self._prompts))
        return DataLoader(numbered, batch_size=self._at_once, sampler=sampler, collate_fn=self._collate)

    def _collate(self, rows: Sequence[tuple[int, str]]) -> PromptBatch:
        numbers = [number for number, _ in rows]
        return PromptBatch([prompt for _, prompt in rows], numbers, [self._seed + number for number in numbers], self._sampling)


@dataclass(frozen=True)
class GeneratedScene(Scene):
    """Images that are generated, seen at the sampling steps whose noise levels are nearest to those of the analysis.

    Attributes:
        batch: prompts, seeds and sampling.
        images: the images, once `read` is over.
        read_at: noise level of the sampling step at which each level of the analysis was read, once `read` is over.
    """

    batch: PromptBatch = field(kw_only=True)
    images: list[Image.Image] = field(default_factory=list, kw_only=True)
    read_at: list[float] = field(default_factory=list, kw_only=True)

    @classmethod
    def of_batch(cls, backbone: Backbone, sigmas: Sequence[float], batch: PromptBatch) -> "GeneratedScene":
        """The scene of a batch; the words of each prompt are its classes."""
        condition, grid = backbone.encode_text(batch.prompts), backbone.token_grid(*batch.sampling.size)
        prompts = [_words_of(prompt) for prompt in batch.prompts]
        cases = [
            Case(number, prompt, token_sets(condition, row, prompt), condition.padding[row], grid)
            for row, (number, prompt) in enumerate(zip(batch.numbers, prompts, strict=True))
        ]
        return cls(backbone, sigmas, cases, condition, batch=batch)

    def read(self, see: See) -> None:
        """As `Scene.read`. Raises UserError if two noise levels fall on one sampling step."""

        def visit(visit: Visit) -> None:
            rows = range(len(visit.joint.image_query))[visit.prompted]
            levels = self._levels_of(visit.step) if rows else []
            for level in levels:
                for row, case in zip(rows, self.cases, strict=True):
                    see(Look(case, level, visit.block, visit.joint.of_rows(slice(row, row + 1))))

        with stream(self.backbone, self.blocks, visit):
            self.images[:] = sample_images(self.backbone, self.batch.prompts, self.batch.seeds, self.batch.sampling)

    def pictures(self) -> list[Tensor]:
        if not self.images:  # no study has read them
            self.read(lambda _: None)
        return [picture(image) for image in self.images]

    def _levels_of(self, step: int | None) -> list[int]:
        """The noise levels of the analysis that are read at a sampling step."""
        steps = self.backbone.noise_levels()[: self.batch.sampling.steps]
        nearest = [min(range(len(steps)), key=lambda k: abs(steps[k] - sigma)) for sigma in self.sigmas]
        self.read_at[:] = [round(steps[k], 6) for k in nearest]
        if len(set(nearest)) < len(nearest):
            found = ", ".join(f"{sigma:g} at {step:g}" for sigma, step in zip(self.sigmas, self.read_at, strict=True))
            raise UserError(f"`sigmas` must lie at different sampling steps, found {found}: leave some out, or take more steps.")
        return [level for level, own in enumerate(nearest) if own == step]


def _words_of(prompt: str) -> Prompt:
    """A prompt whose classes are its words, without small ones."""
    names = prompt_words(prompt)
    return find_names(prompt, names, visible_words(names))
