"""The one sample type that every data set yields and every consumer reads."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from seg4diff.data.decoding import to_rgb
from seg4diff.data.geometry import Size, Window, size_of, whole
from seg4diff.errors import UserError

IGNORE = 255
"""Marks unlabelled pixels; losses and metrics ignore them."""
Resample = Literal["bicubic", "bilinear"]
RESAMPLES = get_args(Resample)
"""How an image is resized: "bicubic" over all pixels that a new one covers, so that shrinking makes no false patterns; "bilinear" between
the four nearest pixels alone, also where it shrinks (the release)."""


def words_of(name: str) -> str:
    """A class name as it is compared: case, kinds and numbers of blanks, and underscores for blanks make no difference."""
    return " ".join(unicodedata.normalize("NFC", name).casefold().replace("_", " ").split())


@dataclass(frozen=True)
class Vocabulary:
    """The classes of a data set: `names[k]` is the word for class id k; there may be none.

    Attributes:
        names: the words.
        background: id of the class that is everything without a name of its own, None = there is none. It is scored like the others,
            but its word describes nothing, so it belongs in no prompt.
    """

    names: tuple[str, ...]
    background: int | None = None

    def __post_init__(self) -> None:
        words = [words_of(name) for name in self.names]
        if not all(words):
            raise UserError(f"a vocabulary must name every class, but the name of class {words.index('')} is empty.")
        if len(set(words)) != len(words):
            twice = sorted({name for name, own in zip(self.names, words, strict=True) if words.count(own) > 1})
            raise UserError(f"each name must be given once, but {twice} occur more than once or differ in case or blanks alone.")
        if len(self.names) > IGNORE:
            raise UserError(f"there may be at most {IGNORE} names ({IGNORE} marks unlabelled pixels), found {len(self.names)}.")
        assert self.background is None or 0 <= self.background < len(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def without_background(self, classes: Iterable[int]) -> list[int]:
        """Those of these classes that a prompt may name."""
        return [k for k in classes if k != self.background]


@dataclass(frozen=True)
class Sample:
    """One image with its label map.

    Attributes:
        image: (3, H, W) float in [-1, 1]: the canvas that models see, 0 where it is padding.
        mask: (H', W') int64 class ids, `IGNORE` where unlabelled. In training it lies on the canvas, padding is `IGNORE`; in evaluation
            it has its own size and covers what `window` shows.
        caption: a sentence or a list of nouns; may be empty.
        name: identifies the image in messages and file names.
        index: position in its split; seeds whatever is random about this image in evaluation.
        window: the part of the canvas that holds the image; what lies outside is padding. To compare maps of the canvas (..., H, W) with
            the mask, resize `window.cut(maps)` to the size of the mask.
        regions: (M, H', W') bool masks without names, which may overlap; None = the data set has none.
        unreadable: images in whose place this one stands, name -> what is wrong with it.
    """

    image: Tensor
    mask: Tensor
    caption: str
    name: str
    index: int
    window: Window
    regions: Tensor | None = None
    unreadable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """Images of one size, with label maps of any size.

    Attributes:
        images: (B, 3, H, W) float in [-1, 1].
        masks: B tensors (H', W') int64.
        captions: B strings.
        names: B strings.
        indices: B positions in the split.
        windows: B parts of the canvas that hold the images (see `Sample`); by default the whole canvas.
        regions: B tensors (M, H', W') bool of masks without names, M differs; None = the data set has none.
        unreadable: images in whose place others stand, name -> what is wrong with it.
    """

    images: Tensor
    masks: list[Tensor]
    captions: list[str]
    names: list[str]
    indices: list[int]
    windows: list[Window] = field(default_factory=list)
    regions: list[Tensor] | None = None
    unreadable: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.windows:
            object.__setattr__(self, "windows", [whole(size_of(self.images))] * len(self))

    def __len__(self) -> int:
        return len(self.captions)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """Move the tensors; Lightning calls this too."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=non_blocking),
            masks=[mask.to(device, non_blocking=non_blocking) for mask in self.masks],
            regions=None if self.regions is None else [regions.to(device, non_blocking=non_blocking) for regions in self.regions],
        )

    def on_canvas(self) -> "Batch":
        """The batch with masks and regions on the canvas, as training has them; what lies there already stays as it is."""
        canvas = size_of(self.images)

        def place(mask: Tensor, window: Window, value: int) -> Tensor:
            return mask if size_of(mask) == canvas else window.paste(resize_labels(mask, window.size), canvas, value)

        regions = self.regions and [place(own, window, False) for own, window in zip(self.regions, self.windows, strict=True)]
        regions = regions and [own[own.flatten(1).any(dim=1)] for own in regions]  # without those that have no pixel there
        return replace(self, masks=[place(*pair, IGNORE) for pair in zip(self.masks, self.windows, strict=True)], regions=regions)


def resize_labels(mask: Tensor, size: Sequence[int]) -> Tensor:
    """Nearest-neighbour resize of a label map (H, W) or of masks (M, H, W) to (height, width)."""
    if tuple(mask.shape[-2:]) == tuple(size):
        return mask
    stacked = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    resized = torch.nn.functional.interpolate(stacked, size=tuple(size), mode="nearest-exact")
    return resized.reshape(*mask.shape[:-2], *size).to(mask.dtype)


def collate(samples: Sequence[Sample]) -> Batch:
    """Join samples whose images have one size."""
    sizes = {tuple(sample.image.shape) for sample in samples}
    if len(sizes) > 1:
        raise UserError(f"images of one batch must have one size, found {sorted(sizes)}: set `image_size` to [height, width].")
    regions = [sample.regions for sample in samples if sample.regions is not None]
    assert len(regions) in (0, len(samples)), "one data set has regions for all of its images or for none"
    return Batch(
        images=torch.stack([sample.image for sample in samples]),
        masks=[sample.mask for sample in samples],
        captions=[sample.caption for sample in samples],
        names=[sample.name for sample in samples],
        indices=[sample.index for sample in samples],
        windows=[sample.window for sample in samples],
        regions=regions or None,
        unreadable={name: reason for sample in samples for name, reason in sample.unreadable.items()},
    )


def present_classes(mask: Tensor) -> list[int]:
    """Class ids that occur in a label map, ascending, without `IGNORE`."""
    return [int(k) for k in torch.unique(mask) if int(k) != IGNORE]


def image_to_tensor(image: Image.Image, size: Size | None, resample: Resample = "bicubic") -> Tensor:
    """PIL image -> (3, H, W) float in [-1, 1], resized to `size` = (height, width) when given; `resample` as in `RESAMPLES`."""
    image = to_rgb(image)
    if size is not None and image.size != size[::-1] and resample == "bicubic":
        image = image.resize(size[::-1], Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1.0
    if size is not None and size_of(pixels) != size:
        pixels = torch.nn.functional.interpolate(pixels[None], size=size, mode="bilinear", align_corners=False)[0]
    return pixels


def tensor_to_image(image: Tensor) -> Image.Image:
    """(3, H, W) float in [-1, 1] -> PIL image."""
    return Image.fromarray(((image.detach().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy())


def label_map(values: np.ndarray, classes: int, path: str) -> Tensor:
    """Check the values of a label map.

    Args:
        values: (H, W) integers, none of them negative.
        classes: number of classes; allowed values are 0..classes-1 and `IGNORE`.
        path: named in the error.
    """
    odd = np.unique(values[(values >= classes) & (values != IGNORE)])
    if odd.size:
        raise UserError(
            f"mask {path} holds the values {odd[:5].tolist()}, but the vocabulary has {classes} classes "
            f"(0..{classes - 1}, {IGNORE} = ignore): correct the mask or the list of classes."
        )
    return torch.from_numpy(values.astype(np.int64))
