"""Which of the words of a prompt are in the picture, from their own maps: what keeps absent classes out of a full-vocabulary argmax.

A softmax over the text keys, or min-max, makes the map of an absent class as large as that of one that is there. What tells them apart
is the peak of the map, against the peaks that the word has over images whatever they show.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from seg4diff.disk import whole_file
from seg4diff.errors import MissingFileError, UserError, at_least
from seg4diff.segmentation.frame import Frame

SLOPE = 2.0
"""Steepness of the probability over the peak in standard deviations; chosen on the validation split of the toy world."""


class Presence(Protocol):
    """Takes class maps (C, h, w) as they were read, the ids of their classes and their frame; returns (C,) in [0, 1]."""

    def __call__(self, maps: Tensor, classes: Sequence[int], frame: Frame) -> Tensor: ...


class Unknown:
    """Every class of the prompt may be there (the paper)."""

    def __call__(self, maps: Tensor, classes: Sequence[int], frame: Frame) -> Tensor:
        """Ones."""
        return maps.new_ones(len(maps))


class OtherWords:
    """Without any statistics: the peak of a word against the peaks of the other words of the same picture."""

    def __call__(self, maps: Tensor, classes: Sequence[int], frame: Frame) -> Tensor:
        """See `Presence`; ones where there are fewer than three words to compare."""
        found = peaks(maps, frame)
        if len(found) < 3:
            return torch.ones_like(found)
        return probability(found, found.mean(), found.std())


class Calibration:
    """The peak of a word against its peaks over unlabelled images.

    Args:
        mean: (C,) mean peak of each class, by its id.
        std: (C,) its standard deviation.
        about: what the statistics are of, by name: model, reader, vocabulary and whatever else the maps depend on.
    """

    def __init__(self, mean: Tensor, std: Tensor, about: dict[str, str]) -> None:
        self.mean, self.std, self.about = mean, std, about

    def __call__(self, maps: Tensor, classes: Sequence[int], frame: Frame) -> Tensor:
        """See `Presence`."""
        chosen = list(classes)
        return probability(peaks(maps, frame), self.mean[chosen].to(maps), self.std[chosen].to(maps))

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            UserError: there is no such file, or it is no calibration.
        """
        if not file.is_file():
            raise MissingFileError(f"there is no calibration {file}: seg4diff calibrate writes one.")
        try:
            with safe_open(file, "pt") as content:
                return cls(content.get_tensor("mean"), content.get_tensor("std"), dict(content.metadata() or {}))
        except (SafetensorError, ValueError) as error:
            raise UserError(f"{file} is no calibration, or it is damaged: write it again with seg4diff calibrate.") from error

    @classmethod
    def of_peaks(cls, found: Sequence[Tensor], classes: Sequence[int], about: dict[str, str] | None = None) -> Self:
        """From the peaks of unlabelled images.

        Args:
            found: for each image (classes,), see `peaks`.
            classes: their ids.
            about: see the class.

        Raises:
            UserError: there are fewer than two images.
        """
        if len(found) < 2:
            raise UserError(f"a calibration needs at least two images, found {len(found)}: give more.")
        rows, known = torch.stack(list(found)), max(classes) + 1
        mean, std = rows.new_zeros(known), rows.new_ones(known)
        mean[list(classes)], std[list(classes)] = rows.mean(dim=0), rows.std(dim=0)
        return cls(mean, std, about or {})

    def save(self, file: Path) -> None:
        """Write a safetensors file."""
        with whole_file(file) as partial:
            save_file({"mean": self.mean.contiguous(), "std": self.std.contiguous()}, partial, metadata=self.about)

    def check(self, about: dict[str, str]) -> None:
        """Raises UserError if the statistics are of something else than what is read now."""
        for name, value in about.items():
            if self.about.get(name) != value:
                raise UserError(
                    f"the calibration is of another {name} ({self.about.get(name)}) than what is read ({value}): "
                    "write one with seg4diff calibrate and the same settings."
                )


def peaks(maps: Tensor, frame: Frame) -> Tensor:
    """The highest value of each map (C, h, w) over the tokens that see the image: (C,)."""
    return frame.tokens(maps).flatten(1).amax(dim=1)


def probability(found: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Presence of classes from peaks (C,) and what peaks are otherwise: sigmoid(2 z), z in standard deviations."""
    return torch.sigmoid(SLOPE * (found - mean) / std.clamp_min(1e-12))


@dataclass(frozen=True)
class Uncalibrated:
    """Stands for the `Calibration` that whoever evaluates makes from so many training images.

    Attributes:
        images: how many, evenly spaced over the split.
    """

    images: int

    def __post_init__(self) -> None:
        at_least(2, images=self.images)
