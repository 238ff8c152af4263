"""What the page takes: a picture, words and numbers from somebody who may be anybody, checked before the model sees them."""

from collections.abc import Sequence
from pathlib import Path

from seg4diff.data.decoding import opened
from seg4diff.data.reading import reading
from seg4diff.errors import UserError

BYTES = 32 * 2**20
"""Size of an uploaded file, at most."""
PIXELS = 16_000_000
"""Pixels of a picture, at most: the maps of all words together take 4 bytes for each pixel and word."""
WORDS, WORD_LENGTH = 32, 100
"""Number of words, and letters of one, at most."""
PROMPT_LENGTH, IMAGES, STEPS = 500, 8, 100
"""Letters of a prompt, images of one request and sampling steps, at most."""
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "MPO", "PNG", "TIFF", "WEBP")
"""Formats that are decoded, whatever the name of the file says; others, such as PostScript, run programs of their own."""


def check_picture(file: Path) -> None:
    """Refuse a picture that is too large or of an unknown format; its pixels are not decoded.

    Raises:
        UserError: it is one of these, or no picture at all.
    """
    remedy = "give another one"
    with reading(f"the image {file.name}", remedy), opened(file) as picture:
        width, height = picture.size
        kind = picture.format
    if kind not in FORMATS:
        raise UserError(f"the image {file.name} is stored as {kind}, and this page takes {', '.join(FORMATS)}: {remedy}.")
    if width * height > PIXELS:
        raise UserError(
            f"the image {file.name} has {width} x {height} pixels, and this page takes at most {PIXELS // 10**6} million: make it smaller, "
            "or use the command seg4diff segment."
        )


def to_words(chips: Sequence[str]) -> tuple[str, ...]:
    """The words of the field, each once; several with commas between them may stand in one chip.

    Raises:
        UserError: there are too many, or one is too long.
    """
    parts = (" ".join(part.split()) for chip in chips for part in str(chip).split(","))
    words = tuple(dict.fromkeys(part for part in parts if part))
    if len(words) > WORDS:
        raise UserError(f"this page takes at most {WORDS} words, found {len(words)}: leave some out, or use the command seg4diff segment.")
    if long := [word for word in words if len(word) > WORD_LENGTH]:
        raise UserError(f"a word has at most {WORD_LENGTH} letters on this page, found one of {len(long[0])}: shorten it.")
    return words


def to_prompt(text: str) -> str:
    """A prompt without blanks around it.

    Raises:
        UserError: it is empty or too long.
    """
    prompt = " ".join(text.split())
    if not prompt:
        raise UserError("there is no prompt: say what to draw, as in 'two fishes on water'.")
    if len(prompt) > PROMPT_LENGTH:
        raise UserError(f"a prompt has at most {PROMPT_LENGTH} letters on this page, found {len(prompt)}: shorten it.")
    return prompt
