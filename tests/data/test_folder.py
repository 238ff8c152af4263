"""Your own folders: what is read, and a sentence to act on for everything that can be wrong with them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.runs import compose_config

from seg4diff.commands.trainers import build
from seg4diff.data.folder import FolderData
from seg4diff.data.sample import IGNORE
from seg4diff.errors import MissingFileError, UserError

CLASSES = ["road", "traffic light", "sky"]
HEIGHT, WIDTH = 6, 10


def palette_mask(values: np.ndarray) -> Image.Image:
    """A mode P picture whose colours are far from its indices, so that a conversion to grey would be noticed."""
    mask = Image.fromarray(values)
    mask.putpalette([(97 * k + 31) % 256 for k in range(768)])
    assert mask.mode == "P"
    return mask


def labels(k: int) -> np.ndarray:
    values = np.random.default_rng(k).choice([0, 1, 2, IGNORE], (HEIGHT, WIDTH)).astype(np.uint8)
    values[0, :4] = [0, 1, 2, IGNORE]
    return values


@pytest.fixture
def root(tmp_path) -> Path:
    root = tmp_path / "own"
    for split, count in (("train", 4), ("val", 1)):
        (root / split / "masks").mkdir(parents=True)
        rows = []
        for k in range(count):
            Image.new("RGB", (WIDTH, HEIGHT), (50 * k, 100, 255)).save(root / split / f"scene{k}.png")
            palette_mask(labels(k)).save(root / split / "masks" / f"scene{k}.png")
            rows.append({"file_name": f"scene{k}.png", "mask_file_name": f"masks/scene{k}.png", "caption": f"road {k}"})
        del rows[-1]["caption"]
        (root / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return root


def source(root: Path) -> FolderData:
    return FolderData(root=str(root), splits={"train": "train", "validation": "val", "test": "val"})


def test_reads_images_masks_and_captions(root):
    data = source(root)
    data.prepare()
    assert data.vocabulary.names == tuple(CLASSES)
    train = data.split("train", None, resize_mask=True)
    assert [train[k].caption for k in range(len(train))] == ["road 0", "road 1", "road 2", ""]
    assert len(data.split("test", None, resize_mask=False)) == 1
    sample = train[2]
    assert torch.equal(sample.mask, torch.from_numpy(labels(2)).long())
    torch.testing.assert_close(sample.image, torch.tensor([100, 100, 255]).div(127.5).sub(1).view(3, 1, 1).expand(3, HEIGHT, WIDTH))
    assert sample.index == 2 and sample.name.endswith("train/scene2.png")


@pytest.mark.parametrize("resize_mask", [True, False])
@pytest.mark.parametrize("factor", [(2, 3), (1, 2)])
def test_image_size_is_height_and_width_and_masks_follow_on_request(root, factor, resize_mask):
    size = (HEIGHT * factor[0], WIDTH * factor[1])
    sample = source(root).split("train", size, resize_mask=resize_mask)[1]
    own = torch.from_numpy(labels(1)).long()
    expected = own.repeat_interleave(factor[0], 0).repeat_interleave(factor[1], 1) if resize_mask else own
    assert sample.image.shape == (3, *size)
    assert torch.equal(sample.mask, expected)


def test_shrunk_masks_hold_no_new_values(root):
    sample = source(root).split("train", (4, 5), resize_mask=True)[0]
    assert sample.mask.shape == (4, 5) == sample.image.shape[1:]
    assert set(sample.mask.unique().tolist()) <= {0, 1, 2, IGNORE}


def metadata(root: Path) -> Path:
    return root / "train" / "metadata.jsonl"


BROKEN_FOLDERS = {
    "no root": (shutil.rmtree, r"no data folder at .*own: set `root`"),
    "no classes": (lambda root: (root / "classes.txt").unlink(), r"own/classes\.txt: write one class name per line"),
    "a class twice": (lambda root: (root / "classes.txt").write_text("road\nsky\nroad\n"), r"\['road'\] occur more than once"),
    "no metadata": (
        lambda root: metadata(root).unlink(),
        r"missing: .*train/metadata\.jsonl \(one JSON row per image .*`splits`",
    ),
    "no metadata of another split": (lambda root: (root / "val" / "metadata.jsonl").unlink(), r"val/metadata\.jsonl \(one JSON row"),
    "bad JSON": (
        lambda root: metadata(root).write_text(metadata(root).read_text().replace('"road 1"', "road 1")),
        r"line 2 of .*train/metadata\.jsonl is not JSON .*write one JSON object per line",
    ),
    "no mask named": (
        lambda root: metadata(root).write_text('\n{"file_name": "scene0.png"}'),
        r"line 2 of .*train/metadata\.jsonl must be an object with the strings file_name and mask_file_name",
    ),
    "one file missing": (
        lambda root: (root / "train/masks/scene1.png").unlink(),
        r"1 of 8 files of .*own/train/masks/scene1\.png\. Restore .*`root`",
    ),
}


@pytest.mark.parametrize("case", BROKEN_FOLDERS)
def test_a_broken_folder_is_refused_before_the_run(root, case):
    damage, message = BROKEN_FOLDERS[case]
    damage(root)
    with pytest.raises(UserError, match=message):
        source(root).prepare()


def test_many_missing_files_are_counted_and_some_are_named(root):
    gone = [root / "train" / f"scene{k}.png" for k in range(4)] + [root / "train" / "masks" / f"scene{k}.png" for k in range(3)]
    for file in gone:
        file.unlink()
    with pytest.raises(UserError, match=r"7 of 8 files") as error:
        source(root).prepare()
    named = [str(file) for file in gone if str(file) in str(error.value)]
    assert 1 <= len(named) < 7 and " .... Restore" in str(error.value)


def too_high(root: Path) -> None:
    values = labels(0)
    values[5, 9] = 3
    palette_mask(values).save(root / "train/masks/scene0.png")


BROKEN_FILES = {
    "text for an image": (
        lambda root: (root / "train/scene0.png").write_text("no picture"),
        r"scene0\.png cannot be read .*replace it, or remove its row",
    ),
    "half an image": (
        lambda root: (root / "train/scene0.png").write_bytes((root / "train/scene0.png").read_bytes()[:45]),
        r"image .*train/scene0\.png cannot be read .*replace",
    ),
    "half a mask": (
        lambda root: (root / "train/masks/scene0.png").write_bytes((root / "train/masks/scene0.png").read_bytes()[:-30]),
        r"mask .*masks/scene0\.png cannot be read .*replace",
    ),
    "sides swapped": (
        lambda root: palette_mask(labels(0).T.copy()).save(root / "train/masks/scene0.png"),
        rf"mask of .*scene0\.png is {HEIGHT} x {WIDTH} pixels, its image {WIDTH} x {HEIGHT}",
    ),
    "value outside the vocabulary": (too_high, r"mask .*scene0\.png holds the values \[3\], .*3 classes .*correct the mask"),
    "RGB mask": (
        lambda root: Image.new("RGB", (WIDTH, HEIGHT)).save(root / "train/masks/scene0.png"),
        r"mask .*scene0\.png must have one channel .*save it as a grey or palette PNG",
    ),
}


@pytest.mark.parametrize("case", BROKEN_FILES)
def test_a_broken_file_is_named(root, case):
    damage, message = BROKEN_FILES[case]
    damage(root)
    train = source(root).split("train", (HEIGHT, WIDTH), resize_mask=True)
    assert train[1].caption == "road 1", "the other samples stay readable"
    with pytest.raises(UserError, match=message):
        train[0]


def test_an_image_whose_classes_are_all_ignored(root):
    palette_mask(np.full((HEIGHT, WIDTH), IGNORE, np.uint8)).save(root / "train/masks/scene3.png")
    sample = source(root).split("train", (12, 10), resize_mask=True)[3]
    assert (sample.mask == IGNORE).all() and sample.mask.shape == (12, 10) and sample.caption == ""


def test_what_is_missing_of_all_splits_is_told_at_once(root):
    (root / "train/scene2.png").unlink()
    (root / "val/metadata.jsonl").unlink()
    with pytest.raises(MissingFileError) as error:
        source(root).prepare()
    for words in (f"{root}/train/scene2.png", f"{root}/val/metadata.jsonl (one JSON row per image", "`splits`"):
        assert words in str(error.value)
    source(root).rows("train")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_masks_of_8_and_16_bit_read_alike(root, dtype):
    values = labels(0).astype(dtype)
    Image.fromarray(values).save(root / "train/masks/scene0.png")
    assert torch.equal(source(root).split("train", None, resize_mask=False)[0].mask, torch.from_numpy(labels(0)).long())


def test_a_picture_that_a_camera_stored_lying_is_read_upright(root):
    note = Image.Exif()
    note[0x0112] = 6  # the first row is the right side
    upright = Image.new("RGB", (WIDTH, HEIGHT), "blue")
    upright.paste("red", (0, 0, WIDTH // 2, HEIGHT))
    upright.rotate(90, expand=True).save(root / "val" / "scene0.png", exif=note)
    image = FolderData(root=str(root), splits={"test": "val"}).split("test", None, resize_mask=False)[0].image
    assert image.shape == (3, HEIGHT, WIDTH) and (image[0, :, : WIDTH // 2] == 1).all() and (image[2, :, WIDTH // 2 :] == 1).all()


@pytest.mark.parametrize("inside", ["\u2028", "\x0c", "\x85", "\x1c"])
def test_signs_that_only_some_readers_take_for_line_ends_shift_no_class_and_no_row(inside, root):
    (root / "classes.txt").write_text(f"road\ntraffic{inside}light\nsky\n")
    file = metadata(root)
    file.write_text(file.read_text().replace("road 0", "road 0\u2028and more"), encoding="utf-8")
    data = source(root)
    data.prepare()
    assert data.vocabulary.names == tuple(CLASSES)
    assert data.split("train", None, resize_mask=True)[0].caption == "road 0\u2028and more"


CAPTIONS = {
    '"a road"': "a road",
    '["first", "second"]': "first",
    '["", null, "third"]': "third",
    "[]": "",
    "null": "",
    '"  "': "",
    '"\\ud83d\\ude00 road"': "\U0001f600 road",
}


@pytest.mark.parametrize("caption", CAPTIONS)
def test_captions_may_be_lists_and_may_be_empty(caption, root):
    metadata(root).write_text(metadata(root).read_text().replace('"road 1"', caption))
    assert source(root).split("train", None, resize_mask=True)[1].caption == CAPTIONS[caption]


@pytest.mark.parametrize(
    ("caption", "said"),
    [
        ("7", "must be a string or a list of strings, found '7'"),
        ('{"en": "x"}', "must be a string"),
        ('"\\ud83d road"', "half of a character"),
    ],
)
def test_captions_of_another_kind_name_their_line(caption, said, root):
    metadata(root).write_text(metadata(root).read_text().replace('"road 1"', caption))
    with pytest.raises(UserError, match=rf"the caption in line 2 of .*train/metadata\.jsonl .*{said}"):
        source(root).prepare()


def test_a_folder_test_is_the_test_split_and_else_that_of_validation(root, caplog):
    data = FolderData(root=str(root), splits={"train": "train", "validation": "val", "test": None})
    with caplog.at_level("INFO"):
        data.prepare()
    assert f"the test split is the folder {root}/val" in caplog.text and len(data.rows("test")) == 1
    shutil.copytree(root / "train", root / "test")
    with caplog.at_level("INFO"):
        data.prepare()
    assert f"the test split is the folder {root}/test" in caplog.text and len(data.rows("test")) == 4
    alone = FolderData(root=str(root), splits={"test": None})
    assert alone.rows("test").name(0) == f"{root}/test/scene0.png"


def test_the_shipped_configuration_takes_a_folder_test(root, tmp_path):
    shutil.copytree(root / "train", root / "test")
    config = compose_config("evaluate", tmp_path / "out", "ckpt=base", "data=folder", f"data.source.root={root}")
    assert len(build(config.data).source.rows("test")) == 4


def test_a_photo_with_broken_exif_is_one_picture_and_no_end_of_a_run(root):
    picture = Image.new("RGB", (WIDTH, HEIGHT), "blue")
    picture.save(root / "train/scene0.png", exif=b"Exif\0\0nonsense")
    assert source(root).split("train", None, resize_mask=True, skip_unreadable=1)[0].unreadable == {}


def test_a_mask_that_is_no_label_map_is_not_skipped(root):
    Image.fromarray(labels(0)).save(root / "train/masks/scene0.jpg")
    (root / "train/masks/scene0.jpg").rename(root / "train/masks/scene0.png")
    with pytest.raises(UserError, match=r"mask .*masks/scene0\.png is stored as JPEG, which may change class ids"):
        source(root).split("train", None, resize_mask=True, skip_unreadable=4)[0]
