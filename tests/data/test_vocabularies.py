"""The vocabulary files, and the configurations that name them."""

from importlib.resources import files

import pytest
from tests.conftest import REPO
from tests.runs import compose_config

from seg4diff.data.sample import Vocabulary
from seg4diff.data.vocabularies import read_vocabulary
from seg4diff.errors import MissingFileError, UserError
from seg4diff.run import build

FILES = sorted(files("seg4diff.data.vocabularies").glob("*.txt"))
COUNTS = {
    "ade20k": 150,
    "cityscapes": 19,
    "cityscapes_27": 27,
    "coco_object": 80,
    "coco_stuff": 171,
    "coco_stuff_27": 27,
    "pascal_context": 59,
    "voc": 20,
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_vocabulary_names_its_source_and_has_the_right_size(file):
    assert "." in file.read_text().splitlines()[0] or "." in file.read_text().splitlines()[1], "a comment names the source"
    assert len(set(read_vocabulary(file.stem).values())) == COUNTS[file.stem]
    assert all(name == name.strip().replace("_", " ") and "-" not in name for name in read_vocabulary(file.stem).values())


def test_every_file_is_counted():
    assert {file.stem for file in FILES} == set(COUNTS)


def test_vocabularies_of_one_data_set_agree():
    stuff, things, groups = map(read_vocabulary, ("coco_stuff", "coco_object", "coco_stuff_27"))
    assert things == {key: name for key, name in stuff.items() if key <= 90}
    assert set(groups) == set(stuff), "every class is in one group"
    assert len({groups[key] for key in things}) == 12, "groups of things and of stuff do not mix"
    assert list(dict.fromkeys(groups.values())).index("ceiling") == 12
    fine, all_labels = read_vocabulary("cityscapes"), read_vocabulary("cityscapes_27")
    assert fine.items() <= all_labels.items() and set(all_labels) == set(range(7, 34))
    assert list(read_vocabulary("pascal_context").values()) == sorted(read_vocabulary("pascal_context").values())


def test_a_vocabulary_may_be_empty_and_may_have_a_background():
    assert len(Vocabulary(())) == 0 and Vocabulary(()).background is None
    assert Vocabulary(("background", "cat"), background=0).background == 0
    with pytest.raises(AssertionError):
        Vocabulary(("cat",), background=1)


CONFIGURATIONS = {
    "ade20k": (150, "ADE20K_ROOT"),
    "cityscapes": (19, "CITYSCAPES_ROOT"),
    "cityscapes_27": (27, "CITYSCAPES_ROOT"),
    "coco_object": (80, "COCO_ROOT"),
    "coco_object_background": (81, "COCO_ROOT"),
    "coco_stuff": (171, "COCO_ROOT"),
    "coco_stuff_27": (27, "COCO_ROOT"),
    "pascal_context59": (59, "PASCAL_CONTEXT_ROOT"),
    "pascal_context60": (60, "PASCAL_CONTEXT_ROOT"),
    "sa1b": (171, "SA1B_ROOT"),
    "voc20": (20, "VOC_ROOT"),
    "voc21": (21, "VOC_ROOT"),
}
OWN = {"toyworld_latents", "folder", "table", "toyworld"}
"""Data sets without a place of their own."""


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_configuration_builds_and_reads_its_variable(name, tmp_path, monkeypatch):
    classes, variable = CONFIGURATIONS[name]
    default = build(compose_config("evaluate", tmp_path, f"data={name}", "ckpt=base", f"paths.data_dir={tmp_path}/here").data)
    assert len(default.vocabulary) == classes
    with pytest.raises(MissingFileError, match=f"{tmp_path}/here/.* set {variable} or"):
        default.source.prepare()
    monkeypatch.setenv(variable, f"{tmp_path}/elsewhere")
    moved = build(compose_config("train", tmp_path, "experiment=quickstart", f"data={name}").data)
    with pytest.raises(MissingFileError, match=f"{tmp_path}/elsewhere"):
        moved.source.prepare()


def test_every_configuration_is_tested():
    assert {file.stem for file in (REPO / "conf" / "data").glob("*.yaml")} == set(CONFIGURATIONS) | OWN


def test_an_unknown_geometry(tmp_path):
    config = compose_config("evaluate", tmp_path, "data=voc20", "ckpt=base", "data.geometry=zoom")
    with pytest.raises(UserError, match=r"data\.geometry must be one of stretch, crop, letterbox, found 'zoom'"):
        build(config.data)
