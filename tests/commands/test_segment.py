"""seg4diff segment: your own pictures, by your own words or without any."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from seg4diff.commands.cli import app
from seg4diff.commands.segment import find_pictures, segment_files
from seg4diff.data.folder import FolderData
from seg4diff.data.sample import Vocabulary, collate
from seg4diff.data.toyworld.scenes import CLASS_NAMES, make_scene
from seg4diff.errors import MissingFileError, UserError
from seg4diff.evaluation.protocol import PromptedSegmenter, PromptMaker
from seg4diff.loading import load
from seg4diff.results import Segmentation
from seg4diff.segmentation.readout import Readout

WORDS = ["apple", "traffic cone", "grass"]
MANY = [*CLASS_NAMES, *(f"small {name}" for name in CLASS_NAMES)]
"""More than one prompt of the small model holds."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A wide picture, a broken one, and one whose EXIF says that it is to be turned."""
    folder = tmp_path_factory.mktemp("photos")
    Image.fromarray(make_scene(0, "test", 2, 48).image[:20]).save(folder / "scene.png")
    (folder / "broken.jpg").write_bytes((folder / "scene.png").read_bytes()[:200])
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(make_scene(0, "test", 3, 48).image[:30]).save(folder / "turned.jpeg", exif=turned)
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture
def small(assets):
    return {"model": assets / "tiny-sd3", "like": "tiny_sd3", "block": 1, "image_size": (32, 32)}


@pytest.fixture
def run(tmp_path, small):
    """Segment with the small model into `tmp_path`/<name>, which is returned."""

    def run(path, words=WORDS, name="out", **options):
        return segment_files(path, words, out=tmp_path / name, load_options=small, **options)

    return run


def read(folder, name="scene", kind="labels"):
    with Image.open(folder / kind / f"{name}.png") as picture:
        return np.array(picture)


@pytest.mark.parametrize(("words", "background"), [(WORDS, None), (WORDS, 0.4), (MANY, None)], ids=["words", "level", "many"])
def test_data_folder_reads_what_was_written_and_an_evaluation_sees_the_same(run, photos, small, words, background):
    out = run(photos / "scene.png", words, background=background)
    assert (out / "classes.txt").read_text().splitlines() == words
    labels = read(out)
    assert labels.shape == (20, 48) and len(np.unique(labels)) > 2 and (255 in labels) == (background is not None)
    batch = collate([FolderData(root=str(out), splits={"test": "."}).split("test", (32, 32), resize_mask=False, geometry="letterbox")[0]])
    assert np.array_equal(batch.masks[0].numpy(), labels)
    backbone = load(**small).backbone
    readout = Readout(sigma=0.3, scores="joint", normalisation="minmax", seed=0)
    segmenter = PromptedSegmenter(readout, PromptMaker("vocabulary", Vocabulary(tuple(words)), backbone.fits))
    expected = segmenter(backbone, batch, [1])[1][0].numpy()
    assert np.array_equal(labels[labels != 255], expected[labels != 255])


def test_a_folder(run, photos, caplog):
    """A picture has the same labels alone and in a folder, and the size that people see; a broken one is named and left out."""
    with caplog.at_level("INFO"):
        out = run(photos)
    assert "broken.jpg cannot be read" in caplog.text and "segmented 2 of 3 pictures" in caplog.text
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    assert [row["mask_file_name"] for row in rows] == ["labels/scene.png", "labels/turned.png"]
    assert read(out, "turned").shape == (48, 30) and read(out, "turned", "overlays").shape[0] > read(out, "turned", "overlays").shape[1]
    alone = run(photos / "scene.png", name="alone")
    for kind in ("labels", "overlays", "maps"):
        assert np.array_equal(read(out, kind=kind), read(alone, kind=kind)), kind
    assert json.loads((out / "segmentation.json").read_text())["block"] == 1


def names_in(folder):
    """The files of a folder of results."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*.*") if path.is_file() and path.name != ".in-use"}


@pytest.mark.parametrize("words", [WORDS, None], ids=["words", "regions"])
def test_pictures_in_batches_have_the_labels_that_they_have_alone(words, run, photos):
    """Pictures of different sizes in one batch; a broken one is left out of it."""
    alone, together = run(photos, words, name="alone"), run(photos, words, name="together", at_once=3)
    for name in ("scene", "turned"):
        assert np.array_equal(read(alone, name), read(together, name)), name
    assert names_in(alone) == names_in(together)
    with pytest.raises(UserError, match=r"together holds results with at_once 3, and here it is 2"):
        run(photos, words, name="together", at_once=2)
    with pytest.raises(UserError, match="`at_once` must be at least 1, found 0"):
        run(photos, words, at_once=0)


def test_folders_in_the_folder(run, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "all" / "2017" / "may")
    shutil.copy(photos / "scene.png", tmp_path / "all")
    out = run(tmp_path / "all", recursive=True)
    assert {path.relative_to(out / "labels").as_posix() for path in (out / "labels").rglob("*.png")} == {
        "scene.png",
        "2017/may/scene.png",
        "2017/may/turned.png",
    }
    with pytest.raises(MissingFileError, match=r"holds no picture .*the folders in it are not searched \(--recursive does\)"):
        find_pictures(tmp_path / "all" / "2017")


def test_crop_leaves_the_rest_unlabelled(run, photos):
    labels = read(run(photos / "scene.png", geometry="crop"))
    assert (labels[:, :14] == 255).all() and (labels[:, 34:] == 255).all() and (labels[:, 14:34] < len(WORDS)).all()


def test_without_words(run, photos):
    """Regions are numbered from the largest; classes.txt is as long as the picture with most of them needs; there are no maps."""
    out = run(photos, None, threshold=0.0)
    counts = [np.bincount(read(out, name).ravel()) for name in ("scene", "turned")]
    assert [(len(count) > 1, count.min() > 0, (np.diff(count) <= 0).all()) for count in counts] == [(True, True, True)] * 2, counts
    assert (out / "classes.txt").read_text().split() == [str(k) for k in range(max(map(len, counts)))]
    assert not (out / "maps").exists()


def test_a_file_of_words(run, photos, tmp_path):
    file = tmp_path / "my words.txt"
    file.write_bytes("\ufefftraffic cone\r\n grass \r\nnight\u2028sky\r\n".encode())
    out = run(photos / "scene.png", None, words_file=file)
    assert (out / "classes.txt").read_text().splitlines() == ["traffic cone", "grass", "night sky"]
    with pytest.raises(UserError, match="give words or a file of words, not both"):
        run(photos, WORDS, words_file=file)


def test_a_photo_whose_exif_cannot_be_read_is_segmented_as_it_is_stored(run, photos, tmp_path):
    (tmp_path / "photos").mkdir()
    shutil.copy(photos / "scene.png", tmp_path / "photos")
    with Image.open(photos / "scene.png") as picture:
        picture.save(tmp_path / "photos" / "broken exif.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\0\0")
    out = run(tmp_path / "photos")
    assert np.array_equal(read(out, "broken exif"), read(out, "scene"))


def test_files_that_are_passed_over_are_named_in_one_line(tmp_path, photos, caplog):
    for name in ("a.HEIC", "b.heic", "c.gif", "notes", "._d.jpg", ".DS_Store", "E.JPG"):
        shutil.copy(photos / "scene.png", tmp_path / name)
    with caplog.at_level("INFO"):
        assert list(find_pictures(tmp_path)) == ["E"]
    (line,) = [record.getMessage() for record in caplog.records]
    assert "2 of .heic, 1 of .gif, 1 of no suffix" in line and "DS_Store" not in line and ".webp" in line
    (tmp_path / "E.JPG").unlink()
    with pytest.raises(MissingFileError, match=r"holds no picture .*: it holds 2 of \.heic"):
        find_pictures(tmp_path)


def test_pictures_whose_results_would_have_one_name(tmp_path):
    for name in ("a.png", "a.jpg.png", "a.JPG"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"a\.JPG and a\.png would have results of the same name"):
        find_pictures(tmp_path)
    with pytest.raises(UserError, match=r"no picture and no folder .*nowhere\.png"):
        find_pictures(tmp_path / "nowhere.png")


def test_bad_input_writes_nothing(run, photos, tmp_path):
    for words, options, said in (
        (["zebra" * 40], {}, r"the class name 'zebrazebra.*too long"),
        (WORDS, {"geometry": "round"}, "--geometry must be one of stretch, crop, letterbox, found 'round'"),
        (["cat", "cat"], {}, r"each name must be given once, but \['cat'\]"),
    ):
        with pytest.raises(UserError, match=said):
            run(photos, words, **options)
    for options, said in (({"background": 3}, "`background` must be in"), ({"threshold": 1.0}, "`threshold` is for regions")):
        with pytest.raises(UserError, match=said):
            run(photos, **options)
    with pytest.raises(UserError, match="there is no model called 'nope'"):
        segment_files(photos, WORDS, out=tmp_path / "out", load_options={"model": "nope"})
    with pytest.raises(UserError, match="`block` must be one of this model's joint-attention blocks"):
        segment_files(photos, WORDS, out=tmp_path / "out", load_options={"block": 99})
    (tmp_path / "words.txt").write_text("cat\n\ndog\n")
    with pytest.raises(UserError, match=r"line 2 of .*words\.txt is empty: write one name in every line\.$"):
        run(photos, None, words_file=tmp_path / "words.txt")
    with pytest.raises(UserError, match=r"broken\.jpg cannot be read"):
        run(photos / "broken.jpg", name="broken")
    assert not (tmp_path / "out").exists() and not (tmp_path / "broken").exists()
    out = run(photos / "scene.png", name="kept")
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    for path, words in ((photos, WORDS), (photos / "scene.png", WORDS[:2]), (photos / "scene.png", None)):
        with pytest.raises(UserError, match=r"kept holds results with (pictures|words) .*choose another folder"):
            run(path, words, name="kept")
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before


@pytest.mark.parametrize(("words", "at_once"), [(WORDS, 1), (None, 1), (WORDS, 3)], ids=["words", "regions", "batch"])
def test_what_was_stopped_goes_on_where_it_was(words, at_once, run, photos, monkeypatch):
    """The folder ends as that of one start, and labels that are there are not made again."""
    whole, save = run(photos, words, name="whole", at_once=at_once), Segmentation.save

    def stopped(self, folder, stem):
        if stem == "turned":
            raise KeyboardInterrupt
        save(self, folder, stem)

    with monkeypatch.context() as patch:
        patch.setattr(Segmentation, "save", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(photos, words, at_once=at_once)
    made = []
    monkeypatch.setattr(Segmentation, "save", lambda self, folder, stem: made.append(stem) or save(self, folder, stem))
    out = run(photos, words, at_once=at_once)
    assert made == ["turned"]
    files = [path.relative_to(whole) for path in whole.rglob("*.*") if path.is_file() and path.name not in (".in-use", "provenance.json")]
    assert all((out / file).read_bytes() == (whole / file).read_bytes() for file in files)


def test_a_folder_of_labels_without_settings_is_not_written_over(run, photos, tmp_path):
    (tmp_path / "out" / "labels").mkdir(parents=True)
    with pytest.raises(UserError, match="holds segmented pictures: choose another folder"):
        run(photos)


def test_the_command(tmp_path, photos, small):
    size = [*("--model", str(small["model"])), *("--like", "tiny_sd3"), *("--block", "1"), *("--image-size", "32", "32")]
    arguments = ["segment", str(photos / "scene.png"), "apple", "traffic cone", *size, "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "classes.txt").read_text() == "apple\ntraffic cone\n"
