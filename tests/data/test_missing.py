"""Labelled data sets: what is checked before a run, and which file and archive an error names."""

import pytest
from PIL import Image
from tests.data.cases import ARCHIVES, every_layout

from seg4diff.data.reading import UnreadableError
from seg4diff.errors import MissingFileError


@every_layout
def test_files_without_a_partner_are_counted_and_named_before_the_run(case, root):
    mask_gone, image_gone = case.layout.pair(root, "train", 1)[1], case.layout.pair(root, "val", 2)[0]
    mask_gone.unlink()
    image_gone.unlink()
    variable, images, masks = ARCHIVES[case.source]
    with pytest.raises(MissingFileError, match=rf"set {variable} or data\.source\.root") as error:
        case.read(root).prepare()
    assert f"1 of 4 masks, {mask_gone} (from {masks}" in str(error.value)
    assert f"1 of 4 images, {image_gone} (from {images.format(short='val')}" in str(error.value)


@every_layout
def test_the_check_opens_no_file_and_names_a_few(case, root, monkeypatch):
    folder = case.layout.folders(root, "train")[0]
    for k in range(30):
        (folder / f"{k:03d}{case.layout.suffixes[0]}").touch()
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("opened"))
    if case.layout.listed is not None:
        case.read(root).prepare()  # what no list names is not missed
        return
    with pytest.raises(MissingFileError, match=r"30 of 34 masks, .* \.\.\. \(from") as error:
        case.read(root).prepare()
    assert 1 <= str(error.value).count(str(case.layout.folders(root, "train")[1])) < 10


@every_layout
def test_whole_folders_and_lists_are_named_once(case, tmp_path):
    variable, images, masks = ARCHIVES[case.source]
    with pytest.raises(MissingFileError, match=variable) as error:
        case.read(tmp_path / "nowhere").prepare()
    message = str(error.value)
    assert images.format(short="train") in message and images.format(short="val") in message
    assert masks in message and "of 0" not in message
    if case.layout.listed is not None:
        assert str(tmp_path / "nowhere" / case.layout.listed.format(split="val")) in message


@every_layout
def test_evaluation_alone_needs_no_training_images(case, root):
    for k in range(4):
        case.layout.pair(root, "train", k)[0].unlink()
    case.read(root).prepare(["validation", "test"])
    with pytest.raises(MissingFileError):
        case.read(root).prepare(["train"])


@every_layout
def test_a_file_that_cannot_be_read_is_named_with_its_archive(case, root):
    _, images, masks = ARCHIVES[case.source]
    for which, archive in enumerate((images, masks)):
        file = case.layout.pair(root, "val", 3)[which]
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        samples = case.read(root).split("validation", None, resize_mask=False)
        index = [samples.name(k) for k in range(4)].index(str(case.layout.pair(root, "val", 3)[0]))
        with pytest.raises(UnreadableError) as error:
            samples[index]
        assert f"{('image', 'mask')[which]} {file} cannot be read" in str(error.value)
        assert f"take it from {archive.format(short='val')}" in str(error.value)
        file.write_bytes(whole)
