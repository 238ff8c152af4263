"""Run lengths as COCO and SA-1B write masks: counts of 0, 1, 0, 1, ... pixels, column by column."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RunLengths:
    """A mask, not yet drawn.

    Attributes:
        height: rows of the image.
        width: columns of the image.
        counts: lengths of the runs, the first of zeros.
    """

    height: int
    width: int
    counts: np.ndarray

    @classmethod
    def parse(cls, segmentation: dict) -> "RunLengths":
        """Read {"size": [height, width], "counts": list of lengths, or the string that packs it}; ValueError where they do not agree."""
        (height, width), counts = segmentation["size"], segmentation["counts"]
        numbers = [height, width, *([] if isinstance(counts, str) else counts)]
        if not all(type(number) is int and 0 <= number < 2**31 for number in numbers):
            raise ValueError("sizes and run lengths must be whole numbers")
        counts = unpack(counts) if isinstance(counts, str) else np.array(counts, dtype=np.int64)
        if (counts < 0).any() or counts.sum() != height * width:
            raise ValueError(f"the runs do not add up to {height} x {width} pixels")
        return cls(height, width, counts)

    @classmethod
    def of(cls, mask: np.ndarray) -> "RunLengths":
        """The run lengths of a mask (height, width) bool."""
        pixels = np.concatenate([[False], mask.T.flatten()])  # the first run is one of zeros, maybe of none
        ends = np.concatenate([np.flatnonzero(pixels[1:] != pixels[:-1]), [mask.size]])
        height, width = mask.shape
        return cls(height, width, np.diff(ends, prepend=0))

    def pack(self) -> str:
        """COCO's packed string, see `unpack`."""
        steps = self.counts.copy()
        steps[3:] -= self.counts[1:-2]
        return "".join(_packed(int(step)) for step in steps)

    @property
    def area(self) -> int:
        """Number of pixels in the mask."""
        return int(self.counts[1::2].sum())

    def draw(self) -> np.ndarray:
        """The mask: (height, width) bool."""
        values = np.arange(len(self.counts)) % 2 == 1
        return np.repeat(values, self.counts).reshape(self.width, self.height).T


def _packed(number: int) -> str:
    """One number of a packed string."""
    text = ""
    while True:
        bits, number = number & 31, number >> 5
        more = number != (-1 if bits & 16 else 0)
        text += chr(bits + 32 * more + ord("0"))
        if not more:
            return text


def unpack(text: str) -> np.ndarray:
    """Lengths from COCO's packed string.

    A character holds six bits above "0": five of the number, lowest first, and one that says that more follow; the highest bit of the last
    five is the sign. From the fourth length on, a number is the difference to the length two before.
    """
    codes = np.frombuffer(text.encode("ascii"), dtype=np.uint8).astype(np.int64) - ord("0")
    last = np.flatnonzero(~codes & 32)
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or not len(last) or last[-1] != len(codes) - 1:
        raise ValueError("the packed run lengths are cut off or hold other characters")
    first = np.concatenate([[0], last[:-1] + 1])
    place = 5 * (np.arange(len(codes)) - np.repeat(first, last - first + 1))
    numbers = np.add.reduceat((codes & 31) << place, first)
    numbers -= np.where(codes[last] & 16, np.int64(1) << (place[last] + 5), 0)
    numbers[1::2] = numbers[1::2].cumsum()
    numbers[2::2] = numbers[2::2].cumsum()
    return numbers
