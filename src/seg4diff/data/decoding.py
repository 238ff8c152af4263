"""Decode a picture file to 8-bit RGB or to a label map. The only module that opens or converts pictures with Pillow."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageSequence
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from seg4diff.errors import UserError

Turn = Image.Transpose
TURNS = {
    2: Turn.FLIP_LEFT_RIGHT,
    3: Turn.ROTATE_180,
    4: Turn.FLIP_TOP_BOTTOM,
    5: Turn.TRANSPOSE,
    6: Turn.ROTATE_270,
    7: Turn.TRANSVERSE,
    8: Turn.ROTATE_90,
}
"""EXIF orientation -> the operation that applies it; 1 is upright, values that EXIF does not define are ignored."""
WHITES = {"I": (255, 65535), "F": (1, 255, 65535)}
"""Modes whose white most file formats do not define -> the values that it may have: it is the first one that no pixel exceeds."""
SIXTEEN_BIT = ("PNG", "PPM")
"""Formats whose greys of more than 8 bits have 65535 as white, also where Pillow decodes them to 32-bit integers."""
OVERSHOOT = 1e-3
"""How far resampling and rounding may carry greys out of their range; they are clipped."""
DARK = 1 / 16
"""A picture whose greys fit a larger range but stay below this share of it may as well be one that exceeds the smaller range."""
LOSSLESS = ("PNG", "TIFF", "BMP")
"""Formats of label maps; the others change values where they compress, spread them over colours or, as GIF, renumber them."""
SAMPLE_FORMAT, SIGNED = 339, 2
"""The TIFF tag that tells how numbers are stored, and its value for numbers with a sign; Pillow keeps the sign above 8 bits alone."""
ONE_CHANNEL = ("1", "L", "P", "I", "F", "I;16", "I;16L", "I;16B")


@contextmanager
def opened(source: Path | bytes) -> Iterator[ImageFile]:
    """A picture file, or the bytes of one: open and not yet decoded. Of several frames or pages it is the first."""
    with Image.open(source if isinstance(source, Path) else BytesIO(source)) as picture:
        yield picture


def to_rgb(picture: Image.Image) -> Image.Image:
    """The picture as 8-bit RGB, its EXIF orientation applied, on white where it is transparent.

    16-bit greys are scaled to 8 bit. So are greys of 32-bit integers and floats, from the smallest range that holds all of them: [0, 1]
    (floats alone), [0, 255] or [0, 65535]. They are clipped where they leave it by no more than `OVERSHOOT`.

    Args:
        picture: of any mode and size; an RGB picture keeps its pixels.

    Raises:
        ValueError: greys that do not tell which of these ranges is theirs, or what Pillow raises for a damaged file.
    """
    kind = "I;16" if picture.mode == "I" and picture.format in SIXTEEN_BIT else picture.mode
    picture = _upright(picture)
    if picture.mode[0] in "IF":
        rgb = Image.fromarray(_scaled(np.asarray(picture), WHITES.get(kind, (65535,)))).convert("RGB")
    elif picture.has_transparency_data:
        layer, rgb = picture.convert("RGBA"), Image.new("RGB", picture.size, "white")
        rgb.paste(layer, mask=layer.getchannel("A"))
    else:
        rgb = picture.convert("RGB")
    rgb.info.clear()  # it holds the EXIF orientation and the transparency that were applied
    return rgb


def to_frames(picture: ImageFile) -> tuple[list[Image.Image], list[float | None]]:
    """Every frame of an animation, see `to_rgb`, and its milliseconds if the file tells them; a picture has one."""
    found = [(to_rgb(frame.copy()), frame.info.get("duration")) for frame in ImageSequence.Iterator(picture)]
    return [frame for frame, _ in found], [shown for _, shown in found]


def _upright(picture: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; EXIF that cannot be read is ignored."""
    picture.load()  # a PNG may hold its EXIF behind the pixels
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow raises many kinds
        return picture
    return picture.transpose(TURNS[orientation]) if orientation in TURNS else picture


def _scaled(values: np.ndarray, whites: tuple[int, ...]) -> np.ndarray:
    """Greys (H, W) of 16 or 32 bits -> 8 bit.

    Args:
        values: greys in [0, white].
        whites: what white may be, ascending.

    Raises:
        ValueError: greys that are in none of these ranges, or far below white and yet above the next smaller one: highlights of 2 in a
            picture whose white is 1 would make the whole picture black.
    """
    low, high = values.min(), values.max()
    white = next((white for white in whites if high <= white + OVERSHOOT), None)
    if white is None or not low >= -OVERSHOOT or (white > whites[0] and high < DARK * white):
        raise ValueError(f"its greys go from {low} to {high}, which does not tell whether white is 1 (floats alone), 255 or 65535")
    return (values.astype(np.float64) * (255 / white)).round().clip(0, 255).astype(np.uint8)


def to_labels(picture: ImageFile, name: str) -> np.ndarray:
    """The values of a label map, as they are stored: (H, W) int64, upright, not negative. Colours of a palette do not matter.

    Args:
        picture: with one channel, and not decoded yet: later it no longer tells how it is stored.
        name: what errors call it.

    Raises:
        UserError: its values cannot be class ids, or may not be those that were stored.
    """
    _check_storage(picture, name)
    values = np.asarray(_upright(picture))
    if picture.mode in WHITES:  # the others hold no sign and no fraction
        odd = np.unique(values[~((values >= 0) & (values < 2**31) & (values == np.floor(values)))])
        if odd.size:
            raise UserError(
                f"mask {name} holds {', '.join(map(str, odd[:5].tolist()))}, and class ids are whole numbers from 0: correct it, and write "
                "255 where no class is labelled."
            )
    return values.astype(np.int64)


def _check_storage(picture: ImageFile, name: str) -> None:
    """Refuse what does not keep class ids."""
    found = picture.format
    if found == "TIFF" and any(word in str(picture.info.get("compression")) for word in ("jpeg", "webp", "jp2")):
        found = f"TIFF with {picture.info['compression']} compression"
    if found not in LOSSLESS:
        raise UserError(
            f"mask {name} is stored as {found}, which may change class ids: masks are PNG, or else TIFF or BMP without loss; make it "
            "again from what it was made of, since a copy in another format keeps the wrong values."
        )
    if picture.mode not in ONE_CHANNEL:
        raise UserError(
            f"mask {name} must have one channel of class ids, found {'+'.join(picture.getbands())}: save it as a grey or palette PNG."
        )
    if isinstance(picture, TiffImageFile) and picture.mode == "L" and SIGNED in picture.tag_v2.get(SAMPLE_FORMAT, ()):
        raise UserError(
            f"mask {name} is stored as signed numbers of 8 bits, and decoding makes -1 become 255: save it as numbers without a sign, with "
            "255 where no class is labelled."
        )
    stored = [tile.args if isinstance(tile.args, str) else tile.args[0] for tile in picture.tile if tile.args]
    if any(str(raw).startswith(("L;", "1;I")) for raw in stored):
        raise UserError(
            f"mask {name} is stored as grey of less than 8 bits or with 0 as white, and decoding changes such values (of 2 bits, 1 becomes "
            "85): save it with 8 bits for each pixel, or with a palette."
        )
