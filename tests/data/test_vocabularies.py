"""The vocabulary files, and the configurations that name them."""

from importlib.resources import files

import pytest
from tests.conftest import REPO
from tests.runs import compose_config

from seg4diff.commands.trainers import build
from seg4diff.data.sample import Vocabulary
from seg4diff.data.vocabularies import read_classes, read_vocabulary
from seg4diff.errors import MissingFileError, UserError

FILES = sorted(files("seg4diff.data.vocabularies").glob("*.txt"))
COUNTS = {
    "ade20k": 150,
    "cityscapes": 19,
    "cityscapes_27": 27,
    "coco_object": 80,
    "coco_stuff": 171,
    "coco_stuff_27": 27,
    "pascal_context": 59,
    "pascal_context_release": 59,
    "voc": 20,
    "voc_release": 20,
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


@pytest.mark.parametrize("name", ["voc", "pascal_context"])
def test_the_release_writes_some_names_as_one_word(name):
    ours, theirs = read_vocabulary(name), read_vocabulary(f"{name}_release")
    different = {ours[key]: theirs[key] for key in ours if ours[key] != theirs[key]}
    table = "dining table" if name == "voc" else "table"
    assert list(ours) == list(theirs)
    assert different == {table: "diningtable", "potted plant": "pottedplant", "tv monitor": "tvmonitor"}


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


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("data.geometry=zoom", r"data\.geometry must be one of stretch, crop, letterbox, found 'zoom'"),
        ("data.resample=lanczos", r"data\.resample must be one of bicubic, bilinear, found 'lanczos'"),
    ],
)
def test_an_unknown_geometry_or_way_to_resize(given, expected, tmp_path):
    config = compose_config("evaluate", tmp_path, "data=voc20", "ckpt=base", given)
    with pytest.raises(UserError, match=expected):
        build(config.data)


def classes(tmp_path, text: str) -> list[str]:
    (tmp_path / "classes.txt").write_bytes(text.encode("utf-8"))
    return read_classes(tmp_path / "classes.txt", "data.source.classes")


@pytest.mark.parametrize(
    "text", ["cat\ntraffic light\n", "\ufeffcat\r\n traffic  light \r\n\r\n", "cat\ntraffic\u3000light", "cat\ntraffic\tlight\n\x0c\n"]
)
def test_lines_are_names_without_odd_blanks(text, tmp_path):
    assert classes(tmp_path, text) == ["cat", "traffic light"]


@pytest.mark.parametrize("text", ["0\n1\n2", "cat\n3 wheeler\n", "cat\n2 wheeler\n3 wheeler", "4x4\n4wd", "7", "3-wheeler\n4-wheeler"])
def test_names_may_hold_numbers(text, tmp_path):
    assert classes(tmp_path, text) == text.split("\n")[: text.count("\n") + 1 - text.endswith("\n")]


@pytest.mark.parametrize(
    "text",
    [
        "0 cat\n1 dog",
        "1: cat\n2: dog",
        "7 road\n8 side walk\n11 wall",
        "0,cat\n1,dog",
        "0 - cat\n1 - dog",
        "id name\n0 cat\n1 dog",
        "Idx\tName\n1\tcat\n2\tdog",
        "0 cat",
        "[0] cat\n[1] dog",
        "(0) cat\n(1) dog",
        "id;name\n7;cat\n11;dog",
        '"0","cat"\n"1","dog"',
        "7\tcat\n11\tdog",
    ],
)
def test_numbers_before_names_do_not_become_part_of_them(text, tmp_path):
    with pytest.raises(UserError, match=r"classes\.txt has a number before each name, as in '.*write the names alone"):
        classes(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        "cat,0\ndog,1",
        "cat\t7\ndog\t11",
        "background 0\nside walk 1\nwall 2",
        "cat (0)\ndog (1)",
        "name;id\ncat;7\ndog;11",
        "cat: 3\ndog: 4",
    ],
)
def test_neither_do_numbers_behind_names(text, tmp_path):
    with pytest.raises(UserError, match=r"classes\.txt has a number behind each name, as in '.*write the names alone"):
        classes(tmp_path, text)


HONEST = [
    "747 plane\n737 plane",
    "737 plane\n747 plane",
    "2 euro\n7 up",
    "cat\n2 euro\n7 up",
    "C#\nrock & roll\n7 up",
    "3.5 inch\n5.25 inch",
    "4:3 screen\n16:9 screen",
    "Airbus 320\nBoeing 737",
    "terminal 1\nterminal 2",
    "Formula 1",
    "7 up",
    "room #3\nand/or\n100 % wool",
    "\u0633\u06cc\u0628\u200c\u0632\u0645\u06cc\u0646\u06cc\ncat",
]


@pytest.mark.parametrize("text", HONEST)
def test_names_with_numbers_and_signs_are_kept(text, tmp_path):
    assert classes(tmp_path, text) == text.split("\n")


@pytest.mark.parametrize("line", ["// animals", "; animals", "% animals", "#animals", "cat # feline", "cat #feline", "cat // feline"])
def test_comments_of_every_kind_are_refused(line, tmp_path):
    with pytest.raises(UserError, match=r"line 2 of .*classes\.txt is or has a comment, '"):
        classes(tmp_path, f"dog\n{line}\nbird")


@pytest.mark.parametrize("text", ['["cat","dog"]', '[\n"cat",\n"dog"\n]', "['cat', 'dog']", '{"0": "cat"}'])
def test_a_list_in_brackets_is_not_one_class(text, tmp_path):
    with pytest.raises(UserError, match=r"classes\.txt is a list in brackets, .*one name in a line"):
        classes(tmp_path, text)


@pytest.mark.parametrize("sign", ["\u200b", "\u200d", "\ufeff", "\u202e", "\x00", "\x1b", "\xad"])
def test_characters_that_cannot_be_seen_are_refused(sign, tmp_path):
    with pytest.raises(UserError, match=r"line 2 of .* holds characters that cannot be seen, 'cat\\.*: type it again"):
        classes(tmp_path, f"dog\ncat{sign}")


def test_comments_and_empty_lines_would_shift_every_later_class(tmp_path):
    with pytest.raises(UserError, match=r"line 2 of .*classes\.txt is or has a comment, '# animals', .*: remove it"):
        classes(tmp_path, "cat\n# animals\ndog\n")
    with pytest.raises(UserError, match=r"line 2 of .*classes\.txt is empty"):
        classes(tmp_path, "cat\n\u2003\ndog\n")


@pytest.mark.parametrize("twin", ["Cat", "CAT ", " cat", "c\u0061t", "cat\n"])
def test_names_that_differ_in_case_or_blanks_alone_are_refused(twin):
    with pytest.raises(UserError, match=r"given once, but .*'cat'.* differ in case or blanks alone"):
        Vocabulary(("dog", "cat", twin))


@pytest.mark.parametrize(
    "pair",
    [("traffic light", "traffic_light"), ("traffic light", "Traffic  Light"), ("caf\u00e9", "cafe\u0301"), ("Stra\u00dfe", "STRASSE")],
)
def test_so_are_underscores_accents_and_ligatures(pair):
    with pytest.raises(UserError, match="each name must be given once"):
        Vocabulary(pair)


def test_a_class_without_a_name_is_refused():
    with pytest.raises(UserError, match="the name of class 1 is empty"):
        Vocabulary(("cat", " _ "))
