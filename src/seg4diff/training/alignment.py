"""Which map of the expert is aligned with which mask (paper, section 3.5)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from seg4diff.attention.joint import Joint
from seg4diff.attention.maps import i2t, i2t_per_head
from seg4diff.backbones.base import TextCondition
from seg4diff.data.geometry import size_of
from seg4diff.data.sample import Batch, present_classes
from seg4diff.errors import UserError
from seg4diff.segmentation.prompts import Prompt, pool_words
from seg4diff.segmentation.readers.propagated import Propagated
from seg4diff.training.objective import MaskAlignment, Regions, named_regions

AlignBy = Literal["names", "regions", "tokens"]
Match = Callable[[Tensor, Regions], tuple[list[int], list[int]]]
"""(K candidate maps, M regions) -> numbers of regions and of their maps, see `MaskAlignment.match`."""


@dataclass(frozen=True)
class ExpertPass:
    """The expert in the forward pass of a batch.

    Attributes:
        joint: its queries and keys.
        grid: (rows, columns) of the image tokens.
        condition: the encoded prompts.
        prompts: one for each image.
        spread_by: what enters the attention of the block that spreads the maps of names; None = they are aligned as they are (the paper).
    """

    joint: Joint
    grid: tuple[int, int]
    condition: TextCondition
    prompts: Sequence[Prompt]
    spread_by: Joint | None = None


class Alignment(ABC):
    """Pairs the I2T logits of the expert with the masks of a batch."""

    @abstractmethod
    def __call__(self, expert: ExpertPass, batch: Batch) -> tuple[list[Tensor], list[Regions]]:
        """B tensors of logits (M, rows, columns), and for each image the M regions that they belong to."""


class ByName(Alignment):
    """The map of each class name, mean over the heads and over the tokens of the name, with the mask of that class."""

    def __call__(self, expert: ExpertPass, batch: Batch) -> tuple[list[Tensor], list[Regions]]:
        maps = pool_words(i2t(expert.joint, "logits"), expert.grid, expert.condition, expert.prompts)
        if expert.spread_by is not None:
            maps = Propagated().spread(expert.spread_by, maps)
        return maps, [named_regions(mask, prompt.classes) for mask, prompt in zip(batch.masks, expert.prompts, strict=True)]


class Matched(Alignment):
    """Each mask with a map of its own, those that fit best together: Hungarian matching, for masks without names.

    Args:
        match: chooses the maps.
    """

    def __init__(self, match: Match) -> None:
        self._match = match

    @abstractmethod
    def candidates(self, expert: ExpertPass) -> list[Tensor]:
        """The maps to choose from: B tensors (K, rows, columns)."""

    def __call__(self, expert: ExpertPass, batch: Batch) -> tuple[list[Tensor], list[Regions]]:
        candidates, regions = self.candidates(expert), nameless_regions(batch)
        pairs = [self._match(own, one) for own, one in zip(candidates, regions, strict=True)]
        maps = [own[chosen] for own, (_, chosen) in zip(candidates, pairs, strict=True)]
        return maps, [Regions(one.masks[kept], one.counted) for one, (kept, _) in zip(regions, pairs, strict=True)]


class ByRegion(Matched):
    """Among the maps of all heads x tokens (the paper for SA-1B).

    Args:
        match: see `Matched`.
        text_window: number of tokens whose maps are candidates.
    """

    def __init__(self, match: Match, text_window: int) -> None:
        super().__init__(match)
        self._text_window = text_window

    def candidates(self, expert: ExpertPass) -> list[Tensor]:
        maps = i2t_per_head(expert.joint, "logits")[:, :, : self._text_window]
        return list(maps.flatten(1, 2).unflatten(-1, expert.grid))


class ByToken(Matched):
    """Among the maps of the tokens of the prompt, mean over the heads, as they are read in segmentation."""

    def candidates(self, expert: ExpertPass) -> list[Tensor]:
        maps = i2t(expert.joint, "logits").unflatten(-1, expert.grid)
        return [own[~padding] for own, padding in zip(maps, expert.condition.padding, strict=True)]


def alignment_by(what: AlignBy, objective: MaskAlignment, text_window: int) -> Alignment:
    """The alignment of a kind.

    Args:
        what: "names", "regions" or "tokens".
        objective: the loss, whose terms are the costs of the matching.
        text_window: number of tokens that a prompt may have.

    Raises:
        UserError: there is no such alignment.
    """
    known = {"names": ByName(), "regions": ByRegion(objective.match, text_window), "tokens": ByToken(objective.match)}
    if what not in known:
        raise UserError(f"`align` must be 'names', 'regions' or 'tokens', found '{what}'.")
    return known[what]


def nameless_regions(batch: Batch) -> list[Regions]:
    """The regions of each image of a batch: those it comes with, without the padding around it, or one per class of its label map."""
    if batch.regions is None:
        return [named_regions(mask, present_classes(mask)) for mask in batch.masks]
    canvas = size_of(batch.images)
    inside = [window.paste(masks.new_ones(window.size), canvas, False) for masks, window in zip(batch.regions, batch.windows, strict=True)]
    return [Regions(masks, counted) for masks, counted in zip(batch.regions, inside, strict=True)]
