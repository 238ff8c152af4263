"""segment.py: your own pictures, by your own words or without any."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from seg4diff.commands.old_segment import by_size, check_names, draw_maps, find_pictures, segment
from seg4diff.commands.run import build, train
from seg4diff.data.folder import FolderData
from seg4diff.data.sample import Vocabulary, collate
from seg4diff.data.toyworld.scenes import CLASS_NAMES, make_scene
from seg4diff.errors import MissingFileError, UserError
from seg4diff.evaluation.protocol import PromptedSegmenter, PromptMaker
from tests.conftest import REPO
from tests.runs import SMALL_RUN, compose_config, overrides, run_script

NAMES = ["apple", "traffic cone", "grass"]
MANY = [*CLASS_NAMES, *(f"small {name}" for name in CLASS_NAMES)]
"""More than one prompt of the small model holds."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A wide picture, a broken one, and one that a camera stored lying."""
    folder = tmp_path_factory.mktemp("photos")
    Image.fromarray(make_scene(0, "test", 2, 48).image[:20]).save(folder / "scene.png")
    (folder / "broken.jpg").write_bytes((folder / "scene.png").read_bytes()[:200])
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(make_scene(0, "test", 3, 48).image[:30]).save(folder / "turned.jpeg", exif=turned)
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture
def run(tmp_path, assets):
    """Segment with the small model into `tmp_path`/<name>, which is returned."""

    def run(image, *arguments, names=NAMES, name="out"):
        words = "null" if names is None else f"[{','.join(names)}]"
        size = ["backbone.expert_layer=1", "backbone.image_size=[32,32]", f"paths.assets_dir={assets}"]
        segment(compose_config("segment", tmp_path / name, f"image={image}", f"names={words}", *size, *arguments))
        return tmp_path / name

    return run


def read(folder, name="scene", kind="labels"):
    with Image.open(folder / kind / f"{name}.png") as picture:
        return np.array(picture)


@pytest.mark.parametrize(("names", "background"), [(NAMES, "null"), (NAMES, "0.4"), (MANY, "null")], ids=["words", "level", "many"])
def test_data_folder_reads_what_was_written_and_an_evaluation_sees_the_same(run, photos, names, background):
    out = run(photos / "scene.png", f"backbone.readout.background={background}", names=names)
    assert (out / "classes.txt").read_text().splitlines() == names
    labels = read(out)
    assert labels.shape == (20, 48) and len(np.unique(labels)) > 2 and (255 in labels) == (background != "null")
    batch = collate([FolderData(root=str(out), splits={"test": "."}).split("test", (32, 32), resize_mask=False, geometry="letterbox")[0]])
    assert np.array_equal(batch.masks[0].numpy(), labels)
    config = OmegaConf.load(out / "config.yaml").backbone
    backbone, readout = build(config.model), build(config.readout)
    segmenter = PromptedSegmenter(readout, PromptMaker("vocabulary", Vocabulary(tuple(names)), backbone.fits))
    expected = segmenter(backbone, batch, [1])[1][0].numpy()
    assert np.array_equal(labels[labels != 255], expected[labels != 255])


def test_a_folder(run, photos, caplog):
    """A picture has the same labels alone and in a folder, and the size that people see; a broken one is named and left out."""
    with caplog.at_level("INFO"):
        out = run(photos)
    assert "broken.jpg cannot be read" in caplog.text and "segmented 2 of 3 pictures" in caplog.text
    assert [json.loads(line)["mask_file_name"] for line in (out / "metadata.jsonl").read_text().splitlines()] == [
        "labels/scene.png",
        "labels/turned.png",
    ]
    assert read(out, "turned").shape == (48, 30)
    assert read(out, "turned", "overlays").shape[0] > read(out, "turned", "overlays").shape[1]
    alone = run(photos / "scene.png", name="alone")
    for kind in ("labels", "overlays", "maps"):
        assert np.array_equal(read(out, kind=kind), read(alone, kind=kind)), kind


def test_crop_leaves_the_rest_unlabelled(run, photos):
    labels = read(run(photos / "scene.png", "geometry=crop"))
    assert (labels[:, :14] == 255).all() and (labels[:, 34:] == 255).all() and (labels[:, 14:34] < len(NAMES)).all()


def test_without_words(run, photos):
    """Regions are numbered from the largest; classes.txt is as long as the picture with most of them needs; there are no maps."""
    out = run(photos, "backbone.merging.threshold=0", names=None)
    counts = [np.bincount(read(out, name).ravel()) for name in ("scene", "turned")]
    for count in counts:
        assert len(count) > 1 and count.min() > 0 and (np.diff(count) <= 0).all()
    assert (out / "classes.txt").read_text().split() == [str(k) for k in range(max(map(len, counts)))]
    assert not (out / "maps").exists()


def test_regions_beyond_what_a_label_map_holds_are_unlabelled():
    labels, names, _ = by_size(torch.tensor([[9, 3, 3], [3, 7, 7]]))
    assert labels.tolist() == [[2, 0, 0], [0, 1, 1]] and names == ["0", "1", "2"]
    many = torch.arange(300).repeat_interleave(torch.arange(300, 0, -1))[None]
    labels, names, _ = by_size(many)
    assert len(names) == 255 and (labels[many < 255] == many[many < 255]).all() and (labels[many >= 255] == 255).all()


def test_heat_maps_are_bright_where_the_word_is():
    black = Image.new("RGB", (64, 48))
    maps = torch.zeros(2, 48, 64)
    maps[0, :, :32], maps[1, 24:] = 1, 1
    page = np.array(draw_maps(black, black, ["left", "below"], maps).convert("L")).astype(int)
    assert draw_maps(black, black, ["left"], maps[:1]).width > page.shape[0], "three pictures stand in one row"
    middle, height = page.shape[1] // 4, page.shape[0]
    left, below = page[:, 2 * middle : 3 * middle], page[:, 3 * middle :]
    row, column = height * 3 // 4, middle // 4
    assert left[row, column] > 100 > left[row, 3 * column] and below[row, column] > 100 > below[height * 2 // 5, column]


def test_a_lora_and_what_its_run_set(run, photos, tmp_path, assets, world):
    """ckpt=<run> takes model, block and read-out from the run; ckpt=<LoRA folder> takes them from the command line."""
    short = ["~evaluation", "validate_first=false", "callbacks.samples=null", "callbacks.overlays=null", "model.lr=0.5", "expert_layer=2"]
    train(compose_config("train", tmp_path / "run", *overrides(assets, world), *SMALL_RUN, *short, "backbone.readout.sigma=0.1"))
    lora = (tmp_path / "run" / "checkpoints" / "last-lora").rename(tmp_path / "lora")
    settings = ["expert_layer=2", "backbone.readout.sigma=0.1"]
    alone, base = run(photos, f"ckpt={lora}", *settings, name="alone"), run(photos, *settings, name="base")
    assert not np.array_equal(read(alone), read(base)), "the LoRA changes nothing"
    with pytest.raises(UserError, match=r"adapts the blocks \[2\], expert_layer is 1"):
        run(photos, f"ckpt={lora}", name="other")
    lora.rename(tmp_path / "run" / "checkpoints" / "last-lora")
    # Outside a Hydra application no override is seen, so the run's own image size holds.
    taken = run(photos, f"ckpt={tmp_path}/run", name="taken")
    config = OmegaConf.load(taken / "config.yaml")
    assert config.expert_layer == 2 and config.backbone.readout.sigma == 0.1 and list(config.backbone.image_size) == [96, 96]
    assert "data" not in config and read(taken).shape == (20, 48)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], r"names must be words, as in names=\[cat,grass\], found \[\]"),
        (["cat", " "], "names must be words"),
        (["cat", 3], r"found \['cat', 3\]"),
        (["cat", "dog", "cat"], r"every class once, but \['cat'\]"),
        (["cat", "dog", "Cat "], r"every class once, but \['Cat', 'cat'\]"),
    ],
)
def test_names_that_are_none(names, said):
    with pytest.raises(UserError, match=said):
        check_names(names)


def test_names_that_are_some():
    assert check_names("traffic cone") == ("traffic cone",) and check_names(["a", "b"]) == ("a", "b") and check_names(None) == ()


def test_a_file_of_words(tmp_path):
    file = tmp_path / "My words.TXT"
    file.write_bytes("\ufefftraffic cone\r\n grass \r\nnight\u2028sky\r\n".encode())
    for given in (str(file), [str(file)]):
        assert check_names(given) == ("traffic cone", "grass", "night sky")
    file.write_text("0 grass\n1 sky\n")
    with pytest.raises(UserError, match=r"My words\.TXT has a number before each name"):
        check_names(str(file))
    with pytest.raises(MissingFileError, match=r"no list of classes at .*words\.txt: .* set names"):
        check_names(str(tmp_path / "words.txt"))


def test_a_word_is_one_line_of_the_list_of_classes():
    assert check_names(["traffic\ncone", "  small   apple ", "night\u2028sky"]) == ("traffic cone", "small apple", "night sky")


def test_a_photo_whose_exif_cannot_be_read_is_segmented_as_it_is_stored(run, photos, tmp_path):
    (tmp_path / "photos").mkdir()
    shutil.copy(photos / "scene.png", tmp_path / "photos")
    with Image.open(photos / "scene.png") as picture:
        picture.save(tmp_path / "photos" / "broken exif.png", exif=b"Exif\0\0nonsense")
    out = run(tmp_path / "photos")
    assert np.array_equal(read(out, "broken exif"), read(out, "scene"))
    assert len((out / "metadata.jsonl").read_text().splitlines()) == 2


def test_files_that_are_passed_over_are_named_in_one_line(tmp_path, photos, caplog):
    for name in ("a.HEIC", "b.heic", "c.gif", "notes", "._d.jpg", ".DS_Store", "E.JPG"):
        shutil.copy(photos / "scene.png", tmp_path / name)
    with caplog.at_level("INFO"):
        assert [path.name for path in find_pictures(tmp_path)] == ["E.JPG"]
    (line,) = [record.getMessage() for record in caplog.records]
    assert "2 of .heic, 1 of .gif, 1 of no suffix" in line and "DS_Store" not in line and ".webp" in line
    (tmp_path / "E.JPG").unlink()
    with pytest.raises(MissingFileError, match=r"holds no picture .*: it holds 2 of \.heic"):
        find_pictures(tmp_path)


def test_pictures_that_are_not_there(tmp_path, photos):
    assert [path.name for path in find_pictures(photos)] == ["broken.jpg", "scene.png", "turned.jpeg"]
    with pytest.raises(UserError, match=r"no picture and no folder .*nowhere\.png: set image="):
        find_pictures(tmp_path / "nowhere.png")
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(UserError, match="holds no picture"):
        find_pictures(tmp_path)
    for name in ("a.png", "a.JPG"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"a\.JPG and a\.png would have results of the same name"):
        find_pictures(tmp_path)


def test_bad_input(run, photos):
    with pytest.raises(UserError, match=r"broken\.jpg cannot be read .*: replace it or leave it out"):
        run(photos / "broken.jpg", name="broken")
    with pytest.raises(UserError, match=r"the class name 'zebrazebra.*too long"):
        run(photos, names=["zebra" * 40], name="long")
    with pytest.raises(UserError, match="geometry must be one of stretch, crop, letterbox, found 'round'"):
        run(photos, "geometry=round", name="round")
    out = run(photos / "scene.png")
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    with pytest.raises(UserError, match=r"holds segmented pictures: choose another hydra\.run\.dir"):
        run(photos)
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before


def test_the_script_says_where_the_pictures_are(tmp_path, photos, assets):
    arguments = [f"paths.assets_dir={assets}", "backbone.expert_layer=1", "backbone.image_size=[32,32]"]
    done = run_script("segment.py", tmp_path / "out", f"image={photos}/scene.png", "names=[apple,traffic cone]", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"segmented 1 of 1 pictures, see {tmp_path}/out/overlays" in done.stdout and "segmenting" in done.stdout


def test_the_python_of_the_docs(tmp_path, monkeypatch):
    """It does what the documented command does, on the documented scene."""
    page = (REPO / "docs" / "segment.md").read_text()
    (tmp_path / "outputs").mkdir()
    (tmp_path / "assets").symlink_to(REPO / "assets")
    monkeypatch.chdir(tmp_path)
    exec(re.search(r'python -c "(.*?)"\n', page, re.DOTALL)[1].replace("\\\n", ""), {})
    block = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    found = {}
    exec(block, found)
    words = re.search(r"python segment\.py image=outputs/scene\.png '(names=.*?)'", page)[1]
    segment(compose_config("segment", tmp_path / "out", "image=outputs/scene.png", words, "geometry=stretch"))
    assert np.array_equal(read(tmp_path / "out"), found["labels"].numpy())
    assert (tmp_path / "outputs" / "overlay.png").exists() and list(read(tmp_path / "out").shape) == [288, 384]
