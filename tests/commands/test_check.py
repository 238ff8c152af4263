"""seg4diff check on miniatures: what it counts, what it finds wrong, what it draws; and it loads no model."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from seg4diff.commands.check import SIDE, check, check_data
from seg4diff.commands.cli import app
from seg4diff.errors import MissingFileError, UserError
from tests.data import layouts
from tests.runs import compose_config

GRASS, ROAD, IGNORED = 123, 148, 255
"""Pixels of stuffthingmaps: category id - 1."""


@pytest.fixture
def coco(tmp_path):
    """Six training images and two to evaluate on: a quarter grass, a quarter road, the rest ignored; one is ignored everywhere."""
    root = tmp_path / "coco"
    for split, count in (("train", 6), ("val", 2)):
        for k in range(count):
            values = np.full((8, 12), IGNORED)
            values[:2], values[2:4] = GRASS, ROAD
            layouts.write(*layouts.COCO.pair(root, split, k), values if k != 1 else np.full((8, 12), IGNORED))
    layouts.write(*layouts.COCO.pair(root, "train", 5), np.full((16, 6), GRASS))
    return root


def checked(tmp_path, *arguments):
    """Run the check; what it returns is what the file says."""
    values = ["data.num_workers=0", "backbone.model.path=/nowhere/model", *arguments]
    found = check(compose_config("check", tmp_path / "out", *values))
    assert json.loads((tmp_path / "out" / "check.json").read_text()) == json.loads(json.dumps(found))
    return found


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_set_without_faults(workers, coco, tmp_path, capsys):
    found = checked(tmp_path, "data=coco_stuff", f"data.source.root={coco}", f"data.num_workers={workers}")
    train = found["train"]
    assert (train["images"], train["opened"], train["with_caption"], train["problems"]) == (6, 6, 0, {})
    assert train["sizes"] == {"8 x 12": 5, "16 x 6": 1}
    grass, road, labelled = 4 * 24 + 96, 4 * 24, 8 * 24 + 96
    assert train["classes"] == {"grass": {"images": 5, "pixels": grass / labelled}, "road": {"images": 4, "pixels": road / labelled}}
    assert train["ignored"] == pytest.approx(1 - labelled / (6 * 96))
    assert train["unlabelled"] == [str(layouts.COCO.pair(coco, "train", 1)[0])]
    assert len(train["absent"]) == 169 and "person" in train["absent"]
    assert found["validation"]["images"] == 2 and found["test"] == {"same_images_as": "validation"}
    said = capsys.readouterr().out
    assert "2 of 171" in said and "grass 66.7%, road 33.3%" in said and "test: the images of validation" in said
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"check.json", "train.png", "validation.png"}


def test_one_split_and_some_of_its_images(coco, tmp_path):
    found = checked(tmp_path, "data=coco_stuff", f"data.source.root={coco}", "split=train", "decode=2", "images=1")
    assert list(found) == ["train"] and (found["train"]["images"], found["train"]["opened"]) == (6, 2)
    two = Image.open(tmp_path / "out" / "train.png").size
    checked(tmp_path, "data=coco_stuff", f"data.source.root={coco}", "split=train", "decode=all", "images=5")
    assert Image.open(tmp_path / "out" / "train.png").height > 2 * two[1]


def test_images_that_are_in_several_places_are_reported(coco, tmp_path, capsys):
    """By their pixels, whatever the files are called, and by their names, whether they are opened or not."""
    pictures = {split: [layouts.COCO.pair(coco, split, k)[0] for k in range(6 if split == "train" else 2)] for split in ("train", "val")}
    for number, file in enumerate([*pictures["train"], *pictures["val"]]):
        with Image.open(file) as picture:
            Image.new("RGB", picture.size, (number * 30, 0, 0)).save(file)
    pictures["train"][3].write_bytes(pictures["train"][0].read_bytes())
    pictures["val"][1].write_bytes(pictures["train"][2].read_bytes())
    found = checked(tmp_path, "data=coco_stuff", f"data.source.root={coco}")
    assert found["train"]["repeated"] == [[str(pictures["train"][k]) for k in (0, 3)]] and found["train"]["shared"] == {}
    assert found["validation"]["repeated"] == [] and found["validation"]["shared"] == {"train": [str(pictures["val"][1])]}
    said = " ".join(capsys.readouterr().out.split())
    assert "train: 2 images are in it more than once: " in said and "validation: 1 images are in train too: " in said
    layouts.lines(coco / "twice.txt", [layouts.COCO.name("train", k) for k in (1, 4, 4)])
    listed = checked(tmp_path, "data=coco_stuff", f"data.source.root={coco}", f"data.source.lists.train={coco}/twice.txt", "decode=0")
    assert listed["train"]["repeated"] == [[str(pictures["train"][4])] * 2]


def test_a_split_without_a_labelled_pixel_cannot_be_scored(coco, tmp_path):
    for k in range(2):
        layouts.write(*layouts.COCO.pair(coco, "val", k), np.full((8, 12), IGNORED))
    with pytest.raises(UserError, match="no pixel of the validation split has a label, so it cannot be scored"):
        checked(tmp_path, "data=coco_stuff", f"data.source.root={coco}")
    assert json.loads((tmp_path / "out" / "check.json").read_text())["validation"]["classes"] == {}
    checked(tmp_path, "data=coco_stuff", f"data.source.root={coco}", "decode=1")


def test_names_that_look_like_markup_are_printed_as_they_are(tmp_path, capsys):
    names = ["[red]", "[/]", ":cat:", "$x$"]
    values = np.arange(4).repeat(6).reshape(2, 12)
    layouts.write(tmp_path / "own/val/[bold].png", tmp_path / "own/val/mask [b].png", values)
    layouts.write(tmp_path / "own/val/[i].png", tmp_path / "own/val/other.png", values[:, :5])
    rows = [{"file_name": f"{name}.png", "mask_file_name": mask} for name, mask in (("[bold]", "mask [b].png"), ("[i]", "mask [b].png"))]
    layouts.lines(tmp_path / "own" / "val" / "metadata.jsonl", map(json.dumps, rows))
    layouts.lines(tmp_path / "own" / "classes.txt", names)
    with pytest.raises(UserError, match="1 of the 2 images"):
        checked(tmp_path, "data=folder", f"data.source.root={tmp_path}/own", "split=validation")
    said = "".join(capsys.readouterr().out.split())
    assert "[/]25.0%" in said and ":cat:25.0%" in said and "val/[i].pngis12x2pixels" in said


def test_everything_that_is_wrong_is_named_at_once(coco, tmp_path, capsys):
    broken = {k: layouts.COCO.pair(coco, "train", k) for k in range(4)}
    broken[0][0].write_bytes(b"no picture")
    broken[1][1].write_bytes(broken[1][1].read_bytes()[:40])
    Image.fromarray(np.full((8, 12), 190, np.uint8)).save(broken[2][1])
    Image.fromarray(np.full((4, 4), GRASS, np.uint8)).save(broken[3][1])
    with pytest.raises(UserError, match=r"4 of the 8 images that were opened cannot be used: .*check\.json names them all"):
        checked(tmp_path, "data=coco_stuff", f"data.source.root={coco}", "decode=all")
    problems = json.loads((tmp_path / "out" / "check.json").read_text())["train"]["problems"]
    assert list(problems) == [str(image) for image, _ in broken.values()]
    said = " ".join(capsys.readouterr().out.split())
    for reason, words in zip(problems.values(), ("000.jpg cannot be read", "001.png cannot be read", "[190]", "4 x 4 pixels"), strict=True):
        assert words in reason and words in said
    assert (tmp_path / "out" / "train.png").is_file(), "the others are drawn"


def test_masks_without_names(coco, tmp_path, capsys):
    for k, boxes in enumerate((1, 3, 2)):
        masks = [np.indices((9, 12))[1] // 2 == box for box in range(boxes)]
        layouts.sa1b(tmp_path / "sa1b", f"sa_{k}", masks, pack=True)
    values = [f"data.source.train.root={tmp_path}/sa1b", f"data.source.evaluation.root={coco}", "data.source.train.smallest=0"]
    train = checked(tmp_path, "data=sa1b", *values)["train"]
    assert train["regions"] == {"mean": 2.0, "most": 3, "images_without": 0} and "classes" not in train
    assert "masks without names" in capsys.readouterr().out
    (tmp_path / "sa1b" / "sa_1.json").write_text("{}")
    with pytest.raises(UserError, match="1 of the 3 images"):
        checked(tmp_path, "data=sa1b", *values, "split=train")


@pytest.mark.parametrize(("geometry", "sides"), [("letterbox", (SIDE, 213)), ("crop", (SIDE, SIDE)), ("stretch", (SIDE, 213))])
def test_the_sheet_shows_what_models_see_of_an_image_in_its_own_shape(geometry, sides, coco, tmp_path):
    """Images of 12 x 8 on a square canvas: no padding, no distortion."""
    arguments = ["data=coco_stuff", f"data.source.root={coco}", "data.image_size=[32,32]", f"data.geometry={geometry}"]
    checked(tmp_path, *arguments, "split=validation", "images=1")
    page = np.array(Image.open(tmp_path / "out" / "validation.png"))
    photo = (abs(page.astype(int) - (40, 80, 120)) < 25).all(-1)
    assert (photo.any(0).sum(), photo.any(1).sum()) == sides


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("split=tset", "`split` must be all or one of train, validation, test, found 'tset'"),
        ("decode=some", "`decode` must be a number of images or the word all, found 'some'"),
        ("images=-1", "`images` must be a number of images or the word all, found '-1'"),
        ("decode=[1]", r"`decode` must be a number of images or the word all, found '\[1\]'"),
        ("decode=0.5", "`decode` must be a number of images or the word all, found '0.5'"),
    ],
)
def test_bad_values(argument, message, coco, tmp_path):
    with pytest.raises(UserError, match=message):
        checked(tmp_path, "data=coco_stuff", f"data.source.root={coco}", argument)


def test_missing_files_are_named_as_a_run_names_them(coco, tmp_path):
    layouts.COCO.pair(coco, "train", 2)[1].unlink()
    with pytest.raises(MissingFileError, match=r"1 of 6 masks.*000000000002\.png.*COCO_ROOT"):
        checked(tmp_path, "data=coco_stuff", f"data.source.root={coco}")
    checked(tmp_path, "data=coco_stuff", f"data.source.root={coco}", "split=validation")


def test_the_command_ends_in_a_sentence(coco, tmp_path, capsys):
    layouts.COCO.pair(coco, "val", 0)[1].write_bytes(b"")
    typed = ["check", "coco_stuff", *("--root", str(coco)), *("--images", "0"), *("--out", str(tmp_path / "out"))]
    done = CliRunner().invoke(app, [*typed, "--set", "experiment=coco_lora", "--set", "data.num_workers=1"])
    assert isinstance(done.exception, UserError)
    assert "1 of the 8 images that were opened cannot be used" in str(done.exception)
    assert [file.name for file in (tmp_path / "out").glob("[!.]*")] == ["check.json"]


@pytest.mark.parametrize("option", ["--split", "--decode"])
def test_the_command_names_the_option(option, coco, tmp_path):
    done = CliRunner().invoke(app, ["check", "coco_stuff", "--root", str(coco), option, "[1]", "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, UserError) and str(done.exception).startswith(f"{option} must be")


def test_a_mistyped_data_set_names_the_nearest():
    with pytest.raises(UserError, match=r"there is no data set 'coco_stuf' \(did you mean coco_stuff\?\): choose ade20k"):
        check_data("coco_stuf")
