"""Damage of any kind ends in a sentence or in a right result: random bytes of every picture format, random fields of every text."""

import json
import random
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.data import layouts

from seg4diff.data.captions import Captions
from seg4diff.data.files import Folder, Pairs
from seg4diff.data.folder import FolderData
from seg4diff.data.reading import UnreadableError, read_image, read_labels
from seg4diff.data.sa1b import Sa1b
from seg4diff.data.sample import Vocabulary
from seg4diff.data.vocabularies import read_classes
from seg4diff.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow warns of much before it fails
PICTURES = {
    "PNG": [("L", {}), ("P", {"bits": 2}), ("RGBA", {}), ("I;16", {}), ("1", {})],
    "JPEG": [("RGB", {}), ("CMYK", {}), ("L", {"progressive": True})],
    "WEBP": [("RGB", {}), ("RGBA", {"lossless": True})],
    "TIFF": [("RGB", {}), ("F", {}), ("I", {}), ("P", {"compression": "tiff_lzw"}), ("L", {"compression": "tiff_adobe_deflate"})],
    "GIF": [("P", {}), ("L", {"save_all": True})],
    "BMP": [("RGB", {}), ("P", {}), ("1", {})],
    "AVIF": [("RGB", {})],
    "JPEG2000": [("RGBA", {})],
    "PPM": [("RGB", {}), ("I;16", {})],
    "ICO": [("RGBA", {"sizes": [(10, 12)]})],
}
KINDS = [(form, mode, options) for form, kinds in PICTURES.items() for mode, options in kinds]


def damaged(file: bytes, draw: random.Random) -> bytes:
    """Cut off, with other bytes (most of them in the header), with a piece twice, or with a piece gone."""
    content, places = bytearray(file), [len(file), min(len(file), 80)]
    for _ in range(draw.randint(1, 6)):
        content[draw.randrange(draw.choice(places))] = draw.choice([0, 1, 255, draw.randrange(256)])
    start, end = sorted(draw.randrange(len(file)) for _ in range(2))
    change = draw.random()
    return bytes(content[:start] if change < 0.2 else content[:start] + content[end:] if change < 0.3 else content)


@pytest.mark.parametrize(("form", "mode", "options"), KINDS, ids=[f"{form}-{mode}" for form, mode, _ in KINDS])
def test_of_a_damaged_picture_comes_a_picture_or_a_sentence(form, mode, options):
    draw, exif = random.Random(f"{form} {mode}"), Image.Exif()
    exif[0x0112] = 6
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 4, (12, 10, 3), dtype=np.uint8) * 60)
    picture = noise.quantize(4) if mode == "P" else noise.convert("I").convert(mode) if mode == "I;16" else noise.convert(mode)
    file = BytesIO()
    picture.save(file, format=form, exif=exif, **options)
    assert read_image(file.getvalue(), "it", "replace it").mode == "RGB"
    for _ in range(120):
        broken = damaged(file.getvalue(), draw)
        try:
            assert read_image(broken, "it", "replace it").mode == "RGB"
        except UnreadableError as error:
            assert str(error).startswith("the image it cannot be read (") and str(error).endswith("): replace it.")
        try:
            labels = read_labels(broken, "it", "replace it")
            assert labels.ndim == 2 and labels.dtype == np.int64 and labels.min() >= 0
        except UserError as error:
            assert "mask it " in str(error) and str(error).endswith(".")


ODD: list = [
    None,
    True,
    -1,
    0,
    2.5,
    1e400,
    10**30,
    "",
    " ",
    "a\0b",
    "\ud800",
    "x" * 5000,
    "../" * 50,
    "a\u2028b\x0cc",
    [],
    {},
    [[]],
    [None, "a"],
]
"""Values that a field of JSON may have instead of its own."""


def changed(value: object, draw: random.Random) -> object:
    """The same JSON with one of its parts, at any depth, replaced, left out or under another name."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    if not keys or draw.random() < 0.2:
        return draw.choice(ODD)
    key, copy = draw.choice(keys), value.copy()
    if draw.random() < 0.6:
        copy[key] = changed(copy[key], draw)
    else:
        own = copy.pop(key)
        if isinstance(copy, dict) and draw.random() < 0.5:
            copy[draw.choice(["", "Caption", "\u2028", str(key).upper()])] = own
    return copy


def damages(text: str, seed: int) -> Iterator[bytes]:
    """The text with other fields where it is JSON, and with other bytes."""
    draw = random.Random(seed)
    for k in range(150):
        lines = text.split("\n")
        if k % 2 and text[0] == "{":
            place = draw.randrange(len(lines))
            lines[place] = json.dumps(changed(json.loads(lines[place]), draw), ensure_ascii=draw.random() < 0.5)
        content = "\n".join(lines).encode(errors="surrogatepass")
        yield content if k % 2 and text[0] == "{" else damaged(content, draw)


@pytest.fixture
def root(tmp_path) -> Path:
    """A folder of two images, an SA-1B of one."""
    for k in range(2):
        layouts.write(tmp_path / f"own/train/{k}.png", tmp_path / f"own/train/{k}-mask.png", np.array([[0, 1, 255], [1, 1, 0]]))
    (tmp_path / "own" / "classes.txt").write_text("cat\ntraffic light\n")
    rows = [{"file_name": f"{k}.png", "mask_file_name": f"{k}-mask.png", "caption": f"a cat {k}"} for k in range(2)]
    (tmp_path / "own" / "train" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    layouts.sa1b(tmp_path / "sa1b", "sa_1", [np.eye(6, dtype=bool), np.ones((6, 6), bool)], pack=True)
    layouts.sa1b(tmp_path / "sa1b", "sa_2", [np.eye(6, dtype=bool)], pack=False)
    return tmp_path


def read_folder(root: Path) -> None:
    data = FolderData(root=str(root / "own"), splits={"train": "train"})
    data.prepare(["train"])
    samples = data.split("train", None, resize_mask=True)
    for k in range(len(samples)):
        mask = samples[k].mask
        assert mask.min() >= 0 and mask[mask != 255].max() < len(data.vocabulary)
        samples[k].caption.encode()


def read_sa1b(root: Path) -> None:
    samples = Sa1b(root=str(root / "sa1b"), captions=None, subset=None, seed=0, smallest=0, most=9).split("train", None, resize_mask=True)
    assert [samples[k].regions.shape[1:] for k in range(2)] == [(6, 6)] * 2


def read_captions(root: Path) -> None:
    captions = Captions(str(root / "captions.json")).of(["a"])
    assert all(isinstance(caption, str) and caption.encode() is not None for caption in captions.values())


def read_names(root: Path) -> None:
    names = Vocabulary(tuple(read_classes(root / "own" / "classes.txt", "data.source.root"))).names
    assert all(name and name == " ".join(name.split()) for name in names) and list(names) == read_classes(
        root / "own" / "classes.txt", "words"
    )


def read_list(root: Path) -> None:
    images = Folder((root / "own" / "train",), ".png", "the archive")
    pairs = Pairs(images, images, listed=root / "list.txt", list_archive="the archive")
    assert pairs.problems() or set(pairs.keys()) <= {"0", "1"}


TEXTS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "own/train/metadata.jsonl": ("", read_folder),
    "own/classes.txt": ("", read_names),
    "sa1b/sa_1.json": ("", read_sa1b),
    "sa1b/sa_2.json": ("", read_sa1b),
    "captions.json": ('{"a": "a cat", "b": ["first", "second"], "c": ""}', read_captions),
    "list.txt": ("0\n1\n", read_list),
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("seed", [0, 1])
def test_of_a_damaged_text_comes_what_it_says_or_a_sentence(name, seed, root):
    text, read = TEXTS[name]
    if text:
        (root / name).write_text(text)
    read(root)
    failures = 0
    for content in damages((root / name).read_text(), seed):
        (root / name).write_bytes(content)
        try:
            read(root)
        except UserError as error:
            failures += 1
            assert str(error).endswith(".")
    assert failures > 20
