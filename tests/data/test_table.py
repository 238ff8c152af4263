"""One Parquet file, a folder of them: what is read, and a sentence for what is wrong."""

import os
from io import BytesIO
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.layouts import palette
from tests.runs import compose_config

from seg4diff.commands.trainers import build
from seg4diff.data.reading import UnreadableError
from seg4diff.data.sample import IGNORE
from seg4diff.data.table import TableData
from seg4diff.errors import MissingFileError, UserError

CLASSES = ["road", "traffic light", "sky"]
SPLITS = {"train": "train[:4]", "validation": "train[4:]", "test": "train[4:]"}
COLUMNS = {"image": "image", "mask": "mask", "caption": "caption"}


@pytest.fixture(autouse=True)
def no_lasting_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def labels(k: int) -> np.ndarray:
    values = np.random.default_rng(k).choice([0, 1, 2, IGNORE], (4, 6)).astype(np.uint8)
    values[0, :3] = [0, 1, IGNORE]
    return values


def table(**changes) -> datasets.Dataset:
    """Six rows; masks of uneven rows are 16 bit, those of the others palettes."""
    masks = [Image.fromarray(labels(k).astype(np.uint16)) if k % 2 else palette(labels(k)) for k in range(6)]
    columns = {
        "image": [Image.new("RGB", (6, 4), (40 * k, 0, 0)) for k in range(6)],
        "mask": masks,
        "caption": [f"caption {k}" for k in range(5)] + [None],
        "classes": [[0, 1]] * 6,
        "source": ["camera"] * 6,
    }
    features = {
        "image": datasets.Image(),
        "mask": datasets.Image(),
        "caption": datasets.Value("string"),
        "classes": datasets.List(datasets.ClassLabel(names=CLASSES)),
        "source": datasets.Value("string"),
    }
    columns, features = columns | changes.get("columns", {}), features | changes.get("features", {})
    return datasets.Dataset.from_dict({name: columns[name] for name in features}, features=datasets.Features(features))


def write(file: Path, rows: datasets.Dataset | None = None) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    (table() if rows is None else rows).to_parquet(file)
    return file


def source(path: Path, **changes) -> TableData:
    return TableData(**{"path": str(path), "splits": SPLITS, "columns": COLUMNS, "classes": None} | changes)


def check(data: TableData) -> None:
    data.prepare()
    assert data.vocabulary.names == tuple(CLASSES)
    train, test = data.split("train", None, resize_mask=True), data.split("test", None, resize_mask=False)
    assert (len(train), len(test)) == (4, 2)
    for k, sample in enumerate([*(train[k] for k in range(4)), *(test[k] for k in range(2))]):
        assert torch.equal(sample.mask, torch.from_numpy(labels(k)).long()), "indices, whatever the palette and the depth"
        assert sample.image[:, 0, 0].add(1).mul(127.5).round().tolist() == [40 * k, 0, 0]
    assert [train[k].caption for k in range(4)] == [f"caption {k}" for k in range(4)]
    assert test[1].caption == " ".join(CLASSES[k] for k in np.unique(labels(5)) if k != IGNORE), "no caption: the class names"
    assert len({train.name(k) for k in range(4)} | {test.name(k) for k in range(2)}) == 6


def test_one_parquet_file(tmp_path):
    check(source(write(tmp_path / "own.parquet")))


def test_a_folder_of_parquet_files_with_splits_of_its_own(tmp_path):
    rows = table()
    write(tmp_path / "own/data/train-00000.parquet", rows.select(range(4)))
    write(tmp_path / "own/data/test-00000.parquet", rows.select([4, 5]))
    check(source(tmp_path / "own", splits={"train": "train", "validation": "test", "test": "test"}))


def test_columns_of_other_names_and_a_list_of_classes(tmp_path):
    rows = table().remove_columns("classes").rename_columns({"image": "photo", "mask": "annotation", "caption": "text"})
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    columns = {"image": "photo", "mask": "annotation", "caption": "text"}
    check(source(write(tmp_path / "own.parquet", rows), columns=columns, classes=str(tmp_path / "classes.txt")))


def test_without_captions_the_class_names_are_the_caption(tmp_path):
    samples = source(write(tmp_path / "own.parquet"), columns=COLUMNS | {"caption": None}).split("train", None, resize_mask=True)
    assert samples[0].caption == " ".join(CLASSES[k] for k in np.unique(labels(0)) if k != IGNORE)


def test_a_mask_that_is_ignored_everywhere(tmp_path):
    masks = [palette(np.full((4, 6), IGNORE)), *[palette(labels(k)) for k in range(5)]]
    rows = table(columns={"mask": masks, "caption": [None] * 6})
    sample = source(write(tmp_path / "own.parquet", rows)).split("train", None, resize_mask=True)[0]
    assert (sample.mask == IGNORE).all() and sample.caption == ""


def test_a_row_without_image_and_one_that_is_no_picture_are_named(tmp_path):
    whole = table()
    pictures = [None, {"bytes": b"no picture", "path": None}, *whole.with_format("arrow")["image"].to_pylist()[2:]]
    features = datasets.Features(whole.features)
    rows = datasets.Dataset.from_dict(whole.with_format("arrow")[:].to_pydict() | {"image": pictures}, features=features)
    samples = source(write(tmp_path / "own.parquet", rows)).split("train", None, resize_mask=True)
    with pytest.raises(UnreadableError, match=r"row 0 \(train-000000\) of the table has no image: remove or fill it"):
        samples[0]
    with pytest.raises(UnreadableError, match=r"row 1 \(train-000001\) of the table cannot be read \(it is no picture .*: replace it"):
        samples[1]
    training = source(tmp_path / "own.parquet").split("train", None, resize_mask=True, skip_unreadable=2)
    assert training[0].index == 2 and list(training[0].unreadable) == ["train-000000", "train-000001"]


def test_a_row_without_mask_and_a_value_outside_the_vocabulary_are_named(tmp_path):
    masks = [palette(labels(0)), None, palette(np.full((4, 6), 3)), *[palette(labels(k)) for k in range(3)]]
    samples = source(write(tmp_path / "own.parquet", table(columns={"mask": masks}))).split("train", None, resize_mask=True)
    with pytest.raises(UserError, match=r"row 1 \(train-000001\) of the table has no mask"):
        samples[1]
    with pytest.raises(UserError, match=r"train-000002 holds the values \[3\], .*3 classes"):
        samples[2]


LABEL = datasets.ClassLabel(names=["day", "night"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "/nowhere/own.parquet"}, r"of /nowhere/own\.parquet cannot be read .*set `path`"),
        ({"splits": {"train": "train", "validation": "val", "test": "val"}}, r"the split 'val' of .*`splits`"),
        ({"splits": {"train": "train"}}, r"`splits` says nothing about the split 'validation'"),
        ({"columns": COLUMNS | {"mask": "label"}}, r"has the columns \['image', 'mask', .*name one for the image"),
        ({"columns": COLUMNS | {"mask": None}}, r"has the columns .*name one for the image and one for the mask"),
        ({"classes": "/nowhere/classes.txt"}, r"no list of classes at /nowhere/classes\.txt: .*set `classes`"),
    ],
)
def test_what_is_missing_is_told_before_the_run(changes, message, tmp_path):
    path = write(tmp_path / "own.parquet")
    with pytest.raises(UserError, match=message):
        source(**{"path": path} | changes).prepare()


@pytest.mark.parametrize(("number", "feature"), [(0, datasets.Value("int64")), (2, LABEL)])
def test_names_must_be_told_where_the_table_has_none_or_several(number, feature, tmp_path):
    classes = datasets.List(datasets.Value("int64")) if number == 0 else datasets.List(datasets.ClassLabel(names=CLASSES))
    rows = table(columns={"source": [0] * 6}, features={"source": feature, "classes": classes})
    with pytest.raises(UserError, match=rf"has {number} columns with class names .*`classes`"):
        source(write(tmp_path / "own.parquet", rows)).prepare()


def test_a_file_that_is_no_parquet(tmp_path):
    (tmp_path / "own.parquet").write_text("no table")
    with pytest.raises(MissingFileError, match=r"own\.parquet cannot be read"):
        source(tmp_path / "own.parquet").prepare()


def test_an_image_level_label_is_not_taken_for_the_classes_of_the_masks(tmp_path):
    rows = table(columns={"source": [0] * 6}, features={"source": LABEL}).remove_columns("classes")
    with pytest.raises(UserError, match=r"the column 'source' of .* names one class for a whole image.* set `classes`"):
        source(write(tmp_path / "own.parquet", rows)).prepare()


LISTS = datasets.List(datasets.Value("string"))


@pytest.mark.parametrize(("value", "caption"), [(["first", "second"], "first"), ([" ", "second"], "second"), ([], None), (None, None)])
def test_a_list_of_captions_gives_the_first_that_is_not_blank(value, caption, tmp_path):
    rows = table(columns={"caption": [value] * 6}, features={"caption": LISTS})
    sample = source(write(tmp_path / "own.parquet", rows)).split("train", None, resize_mask=True)[0]
    assert sample.caption == (caption or " ".join(CLASSES[k] for k in np.unique(labels(0)) if k != IGNORE))


@pytest.mark.parametrize("blank", ["", "  ", None])
def test_an_empty_caption_is_none(blank, tmp_path):
    rows = table(columns={"caption": [blank] * 6})
    sample = source(write(tmp_path / "own.parquet", rows)).split("train", None, resize_mask=True)[0]
    assert sample.caption == " ".join(CLASSES[k] for k in np.unique(labels(0)) if k != IGNORE)


def test_captions_that_are_no_text_name_their_row(tmp_path):
    rows = table(columns={"caption": list(range(6))}, features={"caption": datasets.Value("int64")})
    with pytest.raises(UserError, match=r"the caption of row 1 \(train-000001\) of the table must be a string"):
        source(write(tmp_path / "own.parquet", rows)).split("train", None, resize_mask=True)[1]


def encoded(values: np.ndarray | Image.Image, form: str, **options) -> dict:
    file = BytesIO()
    (values if isinstance(values, Image.Image) else Image.fromarray(values)).save(file, format=form, **options)
    return {"bytes": file.getvalue(), "path": None}


@pytest.mark.parametrize(("exif", "size"), [(b"Exif\0\0nonsense", (4, 6)), (6, (6, 4))])
def test_images_and_masks_are_turned_alike_and_broken_exif_ends_nothing(exif, size, tmp_path):
    if exif == 6:
        exif = Image.Exif()
        exif[0x0112] = 6
    files = {"image": [encoded(Image.new("RGB", (6, 4)), "JPEG", exif=exif)] * 6, "mask": [encoded(labels(0), "PNG", exif=exif)] * 6}
    sample = source(write(tmp_path / "own.parquet", table(columns=files))).split("train", None, resize_mask=False)[0]
    expected = labels(0) if size == (4, 6) else np.rot90(labels(0), -1)
    assert sample.image.shape == (3, *size) and sample.mask.tolist() == expected.tolist()


def test_masks_that_do_not_keep_class_ids_are_named(tmp_path):
    masks = [encoded(labels(0), "JPEG"), encoded(labels(0).astype(np.int32) - 1, "TIFF"), *[encoded(labels(0), "PNG")] * 4]
    samples = source(write(tmp_path / "own.parquet", table(columns={"mask": masks}))).split("train", None, resize_mask=True)
    with pytest.raises(UserError, match=r"mask of row 0 \(train-000000\) of the table is stored as JPEG"):
        samples[0]
    with pytest.raises(UserError, match=r"mask of row 1 \(train-000001\) of the table holds -1, "):
        samples[1]


def test_a_column_that_holds_no_pictures_is_named(tmp_path):
    rows = table(columns={"source": list(range(6))}, features={"source": datasets.Value("int64")})
    with pytest.raises(UserError, match=r"the mask column of the table must hold pictures, found .*int64.*`columns`"):
        source(write(tmp_path / "own.parquet", rows), columns=COLUMNS | {"mask": "source"}).prepare()


@pytest.mark.parametrize("folder", [False, True])
def test_a_file_of_the_same_size_and_time_in_its_place_is_read(folder, tmp_path):
    file = tmp_path / "own" / "train.parquet"

    def first_red(red: int) -> float:
        images = [encoded(Image.new("RGB", (6, 4), (red, 0, 0)), "BMP")] * 6
        write(file, table(columns={"image": images}))
        os.utime(file, (10**9, 10**9))
        sample = source(file.parent if folder else file).split("train", None, resize_mask=True)[0]
        return (float(sample.image[0, 0, 0]) + 1) * 127.5, file.stat().st_size

    (before, size), (after, same) = first_red(40), first_red(200)
    assert size == same and (round(before), round(after)) == (40, 200)


def test_the_tables_own_test_split_is_used_and_else_that_of_validation(tmp_path, caplog):
    rows, splits = table(), {"train": "train[:3]", "validation": "train[3:]", "test": None}
    write(tmp_path / "own/data/train-00000.parquet", rows.select(range(4)))
    one = source(tmp_path / "own", splits=splits)
    with caplog.at_level("INFO"):
        one.prepare()
    assert "the test split is 'train[3:]'" in caplog.text
    names = [[one.rows(split).name(0), len(one.rows(split))] for split in ("validation", "test")]
    assert names[0] == names[1] == ["validation-000000", 1]
    write(tmp_path / "own/data/test-00000.parquet", rows.select([4, 5]))
    two = source(tmp_path / "own", splits=splits)
    with caplog.at_level("INFO"):
        two.prepare()
    assert "the test split is 'test'" in caplog.text
    sample = two.split("test", None, resize_mask=False)[0]
    assert torch.equal(sample.mask, torch.from_numpy(labels(4)).long()) and two.rows("test").name(1) == "test-000001"


def test_the_shipped_configuration_takes_the_tables_test_split(tmp_path):
    write(tmp_path / "own/data/train-00000.parquet", table().select(range(4)))
    write(tmp_path / "own/data/test-00000.parquet", table().select([4, 5]))
    config = compose_config("evaluate", tmp_path / "out", "ckpt=base", "data=table", f"data.source.path={tmp_path}/own")
    assert len(build(config.data).source.rows("test")) == 2
