"""What is to be drawn: prompts, seeds and LoRA scales, and how images are drawn together."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from seg4diff.data.files import lines_of
from seg4diff.errors import MissingFileError, UserError

LARGEST_SEED = 2**63 - 1
LONGEST_STEM = 60
"""Characters of a prompt that the name of a file holds, at most."""


@dataclass(frozen=True)
class Request:
    """One image.

    Attributes:
        prompt: the prompt.
        seed: seed of its noise, from 0.
        scale: factor on the update of the LoRA: 0 = the base model, 1 = the LoRA as it was trained, None = the model as it stands.
        path: file that the image is to be written to; None = none.

    Raises:
        UserError: the seed or the scale is no such number.
    """

    prompt: str
    seed: int
    scale: float | None = None
    path: Path | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str):
            raise UserError(f"a prompt must be text, found {self.prompt!r}.")
        if type(self.seed) is not int or not 0 <= self.seed <= LARGEST_SEED:
            raise UserError(f"a seed must be a whole number from 0 to {LARGEST_SEED}, found {self.seed!r}.")
        if self.scale is not None and (type(self.scale) not in (int, float) or not abs(self.scale) < float("inf")):
            raise UserError(f"a LoRA scale must be a number, 0 for the base model, found {self.scale!r}.")

    @property
    def stem(self) -> str:
        """Name of the file without suffix; where there is none: the prompt as far as a file name may hold it, seed and scale."""
        if self.path is not None:
            return self.path.stem
        words = re.sub(r"\W+", "-", self.prompt)[:LONGEST_STEM].strip("-") or "empty"
        return f"{words}-seed{self.seed}" + ("" if self.scale is None else f"-lora{self.scale:g}")

    @property
    def is_missing(self) -> bool:
        """Whether the image has yet to be drawn."""
        return self.path is None or not self.path.exists()


@dataclass(frozen=True)
class Sampling:
    """How an image is sampled.

    Attributes:
        guidance: guidance scale.
        steps: sampling steps.
        size: (height, width) in pixels.
        perturbed_guidance: scale of perturbed-I2T guidance, see `attention.guidance`; None or 0 = without it, kept as None.
        perturbed_block: block that it perturbs; kept as None where nothing depends on it.

    Raises:
        UserError: one of them is out of range.
    """

    guidance: float
    steps: int
    size: tuple[int, int]
    perturbed_guidance: float | None = None
    perturbed_block: int | None = None

    def __post_init__(self) -> None:
        perturbed = 0 if self.perturbed_guidance is None else self.perturbed_guidance
        for name, value in (("guidance", self.guidance), ("perturbed_guidance", perturbed)):
            if type(value) not in (int, float) or not 0 <= value < float("inf"):
                raise UserError(f"`{name}` must be a number from 0, found {value!r}.")
        if type(self.steps) is not int or self.steps < 1:
            raise UserError(f"`steps` must be a whole number from 1, found {self.steps!r}.")
        if perturbed and type(self.perturbed_block) is not int:
            raise UserError(f"`perturbed_block` must be the index of a block, found {self.perturbed_block!r}.")
        if not perturbed:
            for name in ("perturbed_guidance", "perturbed_block"):
                object.__setattr__(self, name, None)


def prompts_of_file(file: Path) -> list[str]:
    """The lines of a file that are not blank.

    Raises:
        UserError: there is no such file, or no line in it.
    """
    if not file.is_file():
        raise MissingFileError(f"there is no file of prompts {file}: write one prompt per line, and name it.")
    if not (found := [line.strip() for line in lines_of(file) if line.strip()]):
        raise UserError(f"the file of prompts {file} is empty: write one prompt per line.")
    return found


def batches(requests: Sequence[Request], at_once: int) -> list[list[Request]]:
    """Requests in their order, `at_once` of them together; a batch has one LoRA scale, and who is in it does not depend on what is missing.

    A matrix product of another size may round otherwise, so an image that is drawn again is drawn with the same neighbours.
    """
    if type(at_once) is not int or at_once < 1:
        raise UserError(f"`at_once` must be a whole number from 1, found {at_once!r}.")
    runs = [list(run) for _, run in groupby(requests, key=lambda request: request.scale)]
    return [run[first : first + at_once] for run in runs for first in range(0, len(run), at_once)]


def missing_batches(requests: Sequence[Request], at_once: int, share: tuple[int, int]) -> list[list[Request]]:
    """The batches of one share in which an image is missing; share (k, n) = the k-th of n."""
    return [batch for batch in batches(requests, at_once)[share[0] :: share[1]] if any(request.is_missing for request in batch)]


def to_seeds(text: str, most: int | None = None) -> list[int]:
    """Seeds from numbers and ranges, as in 0-3 or 0,5,7-9.

    Args:
        text: the numbers and ranges.
        most: how many there may be; None = any number.

    Raises:
        UserError: it is nothing of that kind, a seed is in it twice, or there are too many.
    """
    parts = [re.fullmatch(r"\s*(\d{1,19})(?:\s*-\s*(\d{1,19}))?\s*", part, re.ASCII) for part in text.split(",")]
    ranges = [range(int(part[1]), int(part[2] or part[1]) + 1) for part in parts if part is not None]
    if len(ranges) < len(parts) or not all(ranges):
        raise UserError(f"`seeds` must be numbers and ranges from the smaller to the larger, as in 0-3 or 0,5,7-9, found '{text}'.")
    if most is not None and (count := sum(own.stop - own.start for own in ranges)) > most:
        raise UserError(f"`seeds` may hold at most {most} numbers, found {count}: give fewer of them.")
    return each_once([seed for own in ranges for seed in own], "`seeds`", text)


def each_once(values: list[Any], option: str, text: str) -> list[Any]:
    """The values of an option, or UserError if one is there twice."""
    if len({f"{value:g}" if isinstance(value, float) else value for value in values}) < len(values):
        raise UserError(f"{option} must hold each number once, found '{text}'.")
    return values
