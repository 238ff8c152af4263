"""The one prompt that an image is trained with: what does not fit into it is left out, and not aligned; so is the background."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor

from seg4diff.data.sample import Vocabulary, present_classes
from seg4diff.errors import UserError
from seg4diff.segmentation.prompts import Prompt, cut_to_fit, find_names, list_largest

PromptKind = Literal["names", "caption"]


class TrainingPrompt(ABC):
    """Writes the prompt of an image.

    Args:
        vocabulary: the class names.
        fits: whether the model takes a prompt whole.
    """

    def __init__(self, vocabulary: Vocabulary, fits: Callable[[str], bool]) -> None:
        self._vocabulary, self._names, self._fits = vocabulary, vocabulary.names, fits

    def __call__(self, caption: str, mask: Tensor) -> Prompt:
        """The prompt of an image with this caption and this label map (H, W); it knows where the class names are in it."""
        return self.write(caption, mask, self._vocabulary.without_background(present_classes(mask)))

    @abstractmethod
    def write(self, caption: str, mask: Tensor, classes: Sequence[int]) -> Prompt:
        """The prompt, in which these classes of the image may be named."""


class NamesPrompt(TrainingPrompt):
    """The class names in the image (the release); where not all fit, those of the largest classes."""

    def write(self, caption: str, mask: Tensor, classes: Sequence[int]) -> Prompt:
        return list_largest(self._names, classes, lambda k: int((mask == k).sum()), self._fits)


class CaptionPrompt(TrainingPrompt):
    """The caption of the image, cut after the last word that fits."""

    def write(self, caption: str, mask: Tensor, classes: Sequence[int]) -> Prompt:
        return find_names(cut_to_fit(caption, self._fits), self._names, classes)


def training_prompt(kind: PromptKind, vocabulary: Vocabulary, fits: Callable[[str], bool]) -> TrainingPrompt:
    """The prompt that `model.prompt` names.

    Raises:
        UserError: there is no such prompt.
    """
    known = {"names": NamesPrompt, "caption": CaptionPrompt}
    if kind not in known:
        raise UserError(f"model.prompt must be 'names' or 'caption', found '{kind}'.")
    return known[kind](vocabulary, fits)
