"""Files to download: each is made when it is asked for."""

import zipfile

import pytest
from PIL import Image

from seg4diff.app.desk import Reading
from seg4diff.app.files import Files


@pytest.fixture
def found(desk, photo):
    return desk.segment(photo, ("apple", "grass"), Reading(1, 0.3, 1))


def test_nothing_is_written_but_what_was_asked_for(found, tmp_path):
    files = Files(tmp_path)
    asked = [files.labels(found, "a"), files.archive(found, "a", "photo.png"), files.coco(found, "b", "photo.png")]
    assert sorted(file for file in tmp_path.rglob("*") if file.is_file()) == sorted(asked)


def test_a_file_is_written_once(found, tmp_path):
    files = Files(tmp_path)
    first = files.archive(found, "a", "photo.png").stat()
    assert files.archive(found, "a", "photo.png").stat() == first


def test_the_archive_holds_everything(found, tmp_path):
    labels = Files(tmp_path).labels(found, "a")
    with zipfile.ZipFile(Files(tmp_path).archive(found, "a", "photo.png")) as archive:
        kinds = ["labels/photo.png", "maps/photo.png", "overlays/photo.png"]
        assert {name for name in archive.namelist() if not name.endswith("/")} == {*kinds, "photo.json", "maps.npz", "words.txt"}
        assert archive.read("labels/photo.png") == labels.read_bytes() and Image.open(labels).size == found.picture.size
