"""What the page refuses before the model sees it."""

import pytest
from PIL import Image
from tests.app.files import png

from seg4diff.app.limits import check_picture, to_prompt, to_words
from seg4diff.errors import UserError


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"no picture", "the image a.png cannot be read .it is no picture of a known format.: give another one"),
        (b"", "the image a.png cannot be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "is stored as EPS, and this page takes AVIF, BMP"),
        (png(20000, 10000), r"the image a\.png cannot be read \(Image size \(200000000 pixels\)"),
        (png(9, 9, text=bytes(2**27)), "the image a.png cannot be read"),
        (png(5000, 4000, bytes(2**20)), "has 5000 x 4000 pixels, and this page takes at most 16 million"),
    ],
    ids=["text", "empty", "program", "200 megapixels", "bomb", "20 megapixels"],
)
def test_pictures_that_are_refused(content, sentence, tmp_path):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        check_picture(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_pictures_that_are_taken(kind, tmp_path):
    Image.new("RGB", (7, 5)).save(tmp_path / "a", format=kind)
    check_picture(tmp_path / "a")


def test_words():
    assert to_words(["apple", " traffic   cone, grass", "apple", ",", ""]) == ("apple", "traffic cone", "grass")


@pytest.mark.parametrize(
    ("chips", "sentence"),
    [
        ([f"w{k}" for k in range(10_000)], "at most 32 words, found 10000"),
        (["a" * 101], "at most 100 letters on this page, found one of 101"),
    ],
)
def test_words_that_are_refused(chips, sentence):
    with pytest.raises(UserError, match=sentence):
        to_words(chips)


@pytest.mark.parametrize(("text", "sentence"), [(" \n", "there is no prompt"), ("a" * 501, "at most 500 letters on this page, found 501")])
def test_prompts_that_are_refused(text, sentence):
    with pytest.raises(UserError, match=sentence):
        to_prompt(text)
