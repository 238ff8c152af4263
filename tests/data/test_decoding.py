"""Picture files of any kind: what people see of them, and which of them keep class ids."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from seg4diff.data.decoding import to_rgb
from seg4diff.data.reading import UnreadableError, read_image, read_labels
from seg4diff.data.sample import image_to_tensor
from seg4diff.errors import UserError

ORIENTATION = 0x0112
GREYS = np.array([[0, 51, 102], [153, 204, 255]], np.uint8)


def stored(picture: Image.Image, form: str = "PNG", **options) -> bytes:
    file = BytesIO()
    picture.save(file, format=form, **options)
    return file.getvalue()


def seen(picture: Image.Image | bytes) -> np.ndarray:
    """The image (H, W, 3) that models get."""
    rgb = read_image(picture, "it", "replace it") if isinstance(picture, bytes) else to_rgb(picture)
    assert rgb.mode == "RGB"
    return np.array(rgb)


def values(file: bytes) -> list[list[int]]:
    return read_labels(file, "it", "replace it").tolist()


def png(depth: int, rows: list[bytes], width: int) -> bytes:
    """A grey PNG of any depth."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, len(rows), depth, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


SCALES = {
    "16 bit": GREYS.astype(np.uint16) * 257,
    "32 bit": GREYS.astype(np.int32) * 257,
    "32 bit that hold 8": GREYS.astype(np.int32),
    "floats to 1": GREYS / np.float32(255),
    "floats to 255": GREYS.astype(np.float32),
    "floats to 65535": GREYS.astype(np.float32) * 257,
}


@pytest.mark.parametrize("case", SCALES)
def test_greys_are_scaled_and_not_clipped(case):
    image = Image.fromarray(SCALES[case])
    for picture in (image, stored(image, "TIFF")):
        assert np.array_equal(seen(picture), GREYS[..., None].repeat(3, -1))
    tensor = image_to_tensor(image, None)
    assert tensor[:, 0, 0].tolist() == [-1, -1, -1] and tensor[:, 1, 2].tolist() == [1, 1, 1], "also without a reader"


def test_sixteen_bit_png_and_rounding():
    assert seen(stored(Image.fromarray(np.array([[0, 128, 129, 65535]], np.uint16))))[0, :, 0].tolist() == [0, 0, 1, 255]


@pytest.mark.parametrize("white", [1, 255, 65535])
def test_greys_that_resampling_carried_out_of_their_range_are_clipped(white):
    over = np.array([[-1e-4, white / 5, white + 1e-4]])
    assert seen(stored(Image.fromarray(over.astype(np.float32)), "TIFF"))[0, :, 0].tolist() == [0, 51, 255]


@pytest.mark.parametrize("maximum", [1.25, 2, 15.5, 256, 4000])
def test_bright_pixels_do_not_make_the_others_black(maximum):
    file = stored(Image.fromarray(np.array([[0, 0.5, maximum]], np.float32)), "TIFF")
    with pytest.raises(UnreadableError, match=rf"its greys go from 0.0 to {maximum}.*, which does not tell whether white is 1"):
        seen(file)


def test_neither_are_integers_of_ten_bits_taken_for_sixteen():
    with pytest.raises(UnreadableError, match="its greys go from 0 to 1023, which does not tell"):
        seen(stored(Image.fromarray(np.array([[0, 1023]], np.int32)), "TIFF"))


@pytest.mark.parametrize("head", [b"P5 3 1 65535\n", b"P2 3 1 65535\n"])
def test_white_is_what_the_file_format_defines(head):
    greys = np.array([[0, 129, 189]], np.uint16)
    graymap = head + (greys.astype(">u2").tobytes() if head.startswith(b"P5") else b"0 129 189\n")
    assert np.array_equal(seen(graymap), seen(stored(Image.fromarray(greys)))), "as in a PNG"
    assert seen(graymap).max() == 1


def test_a_graymap_of_ten_bits_has_its_own_white():
    assert seen(b"P5 3 1 1023\n" + np.array([0, 205, 1023], ">u2").tobytes())[0, :, 0].tolist() == [0, 51, 255]


@pytest.mark.parametrize("odd", [[-1, 3], [-0.01, 1], [0, 70000], [np.nan, 0.5], [np.inf, 0], [-np.inf, 1]])
def test_greys_without_a_known_white_are_refused(odd):
    file = stored(Image.fromarray(np.array([odd], np.float32)), "TIFF")
    with pytest.raises(UnreadableError, match=r"the image it cannot be read \(its greys go from .*: replace it"):
        seen(file)


def half_clear(mode: str) -> Image.Image:
    """Red on the left, nothing in the middle, half a red on the right."""
    picture = Image.fromarray(np.array([[[255, 0, 0, 255], [9, 9, 9, 0], [255, 0, 0, 128]]], np.uint8))
    return picture if mode == "RGBA" else picture.convert(mode)


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {}), ("JPEG2000", {})])
def test_what_is_transparent_is_white(form, options):
    assert seen(stored(half_clear("RGBA"), form, **options)).tolist() == [[[255, 0, 0], [255, 255, 255], [255, 127, 127]]]
    assert seen(half_clear("RGBa"))[0, 1].tolist() == [255, 255, 255]


def test_so_is_what_grey_palettes_and_single_colours_make_transparent():
    grey = stored(Image.fromarray(np.array([[[0, 255], [70, 0]]], np.uint8), "LA"))
    assert seen(grey)[0, :, 0].tolist() == [0, 255]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    assert seen(stored(palette, transparency=1)).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    assert seen(stored(palette, "GIF", transparency=0))[0, 0].tolist() == [255, 255, 255]
    plain = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    assert seen(stored(plain, transparency=(4, 5, 6))).tolist() == [[[1, 2, 3], [255, 255, 255]]]


@pytest.mark.parametrize(
    ("mode", "form"), [("CMYK", "JPEG"), ("CMYK", "TIFF"), ("YCbCr", "TIFF"), ("LAB", "TIFF"), ("1", "PNG"), ("L", "BMP")]
)
def test_other_colours_become_red_green_and_blue(mode, form):
    white = Image.new("RGB", (3, 2), "white")
    picture = Image.fromarray(np.array([[[255, 0, 0]] * 3] * 2, np.uint8), "LAB") if mode == "LAB" else white.convert(mode)
    packed = {"compression": "tiff_lzw"} if mode == "YCbCr" else {}  # Pillow 12 cannot read its own one without
    assert seen(stored(picture, form, **packed)).min() >= 250


@pytest.mark.parametrize("form", ["GIF", "TIFF", "WEBP", "PNG"])
def test_of_several_frames_it_is_the_first(form):
    first, second = Image.new("RGB", (3, 2), (255, 0, 0)), Image.new("RGB", (3, 2), (0, 0, 255))
    options = {"lossless": True} if form == "WEBP" else {}
    assert seen(stored(first, form, save_all=True, append_images=[second], **options)).tolist() == [[[255, 0, 0]] * 3] * 2


UPRIGHT = np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 10
LYING = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.swapaxes(0, 1),
    6: np.rot90(UPRIGHT),
    7: np.rot90(UPRIGHT, 2).swapaxes(0, 1),
    8: np.rot90(UPRIGHT, -1),
}
"""EXIF orientation -> how such a picture is stored."""


@pytest.mark.parametrize("orientation", LYING)
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_pictures_are_turned_once_as_their_exif_orientation_says(orientation, form):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"lossless": True} if form == "WEBP" else {}
    file = stored(Image.fromarray(np.ascontiguousarray(LYING[orientation])), form, exif=exif, **options)
    assert np.array_equal(seen(file), UPRIGHT)
    assert np.array_equal(to_rgb(read_image(file, "it", "")), UPRIGHT), "what is upright stays so"


@pytest.mark.parametrize("mode", ["P", "L", "I;16", "1"])
def test_masks_are_turned_like_their_images(mode):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    ids = np.array([[0, 1, 1], [1, 0, 1]])
    mask = Image.fromarray(np.rot90(ids).astype(np.uint16 if mode == "I;16" else bool if mode == "1" else np.uint8))
    if mode == "P":
        mask.putpalette([200, 0, 0, 0, 200, 0])
    assert values(stored(mask, exif=exif)) == ids.tolist()


@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\0\0", b""])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_exif_that_cannot_be_read_leaves_the_picture_as_it_is_stored(exif, form):
    assert seen(stored(Image.new("RGB", (3, 2), (50, 50, 50)), form, exif=exif)).shape == (2, 3, 3)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientations_that_do_not_exist_turn_nothing(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    assert np.array_equal(seen(stored(Image.fromarray(UPRIGHT), exif=exif)), UPRIGHT)


IDS = np.array([[0, 1, 2], [3, 254, 255]])


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("palette", [False, True])
def test_label_maps_of_every_lossless_format_keep_their_values(form, palette):
    mask = Image.fromarray(IDS.astype(np.uint8))
    if palette:
        mask.putpalette([(97 * k + 31) % 256 for k in range(768)])
    assert values(stored(mask, form)) == IDS.tolist()


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_whole_numbers_of_any_type_are_class_ids(dtype):
    ids = IDS * 100
    assert values(stored(Image.fromarray(ids.astype(dtype)), "TIFF")) == ids.tolist()


def test_single_bits_and_small_palettes_are_class_ids():
    assert values(stored(Image.fromarray(np.array([[True, False, True]])))) == [[1, 0, 1]]
    small = Image.fromarray(np.array([[0, 1, 2, 3]], np.uint8))
    small.putpalette(list(range(12)))
    assert values(stored(small, bits=2)) == [[0, 1, 2, 3]]


REFUSED = {
    "negative": (stored(Image.fromarray(np.array([[-1, 0]], np.int32)), "TIFF"), r"mask it holds -1, .* write 255 where no class"),
    "far below": (stored(Image.fromarray(np.array([[-1e30, 0]], np.float32)), "TIFF"), r"mask it holds -1.*e\+30, .*whole numbers from 0"),
    "far above": (stored(Image.fromarray(np.array([[1e30, 0]], np.float32)), "TIFF"), r"mask it holds 1.*e\+30, .*whole numbers from 0"),
    "fractional": (stored(Image.fromarray(np.array([[1.5, 2]], np.float32)), "TIFF"), r"mask it holds 1\.5, .*whole numbers from 0"),
    "not a number": (stored(Image.fromarray(np.array([[np.nan, 2]], np.float32)), "TIFF"), r"mask it holds nan, "),
    "jpeg": (stored(Image.fromarray(GREYS), "JPEG", quality=100), "mask it is stored as JPEG, which may change class ids"),
    "webp": (stored(Image.fromarray(GREYS), "WEBP"), "mask it is stored as WEBP"),
    "jpeg 2000": (stored(Image.fromarray(GREYS), "JPEG2000"), "mask it is stored as JPEG2000"),
    "jpeg in tiff": (stored(Image.fromarray(GREYS), "TIFF", compression="jpeg"), "stored as TIFF with jpeg compression"),
    "gif": (stored(Image.fromarray(np.array([[0, 3]], np.uint8)), "GIF"), "mask it is stored as GIF, .*masks are PNG, or else TIFF or BMP"),
    "signed": (
        stored(Image.fromarray(np.array([[-1, 3]], np.int8).view(np.uint8)), "TIFF", tiffinfo={339: 2}),
        "mask it is stored as signed numbers of 8 bits, .*without a sign",
    ),
    "2 bits": (png(2, [b"\x1b"], 4), "mask it is stored as grey of less than 8 bits .*save it with 8 bits"),
    "4 bits": (png(4, [b"\x01\x23"], 4), "mask it is stored as grey of less than 8 bits"),
    "0 is white": (stored(Image.fromarray(GREYS), "TIFF", tiffinfo={262: 0}), "mask it is stored as grey of .* with 0 as white"),
    "colours": (stored(Image.new("RGB", (3, 2))), r"mask it must have one channel of class ids, found R\+G\+B"),
    "transparent": (stored(Image.new("LA", (3, 2))), r"must have one channel .*found L\+A"),
    "inks": (stored(Image.new("CMYK", (3, 2)), "TIFF"), r"must have one channel .*found C\+M\+Y\+K"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mask_that_does_not_keep_class_ids_is_refused_by_name(case):
    file, said = REFUSED[case]
    with pytest.raises(UserError, match=said) as error:
        values(file)
    assert not isinstance(error.value, UnreadableError), "such masks are no single broken file that training may skip"
