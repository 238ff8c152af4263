"""What is typed reaches the configuration, whatever its letters."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from seg4diff.commands.arguments import for_hydra
from tests.conftest import REPO


def value_of(argument):
    (read,) = for_hydra([argument], REPO / "conf")
    override = OverridesParser.create().parse_override(read)
    return list(override.sweep_iterator()) if override.is_sweep_override() else override.value()


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("names=[Katze,Bäume]", ["Katze", "Bäume"]),
        ("names=[猫]", ["猫"]),
        ("names=[ große Bäume , traffic light,猫 と 犬 ]", ["große Bäume", "traffic light", "猫 と 犬"]),
        ("names=['schon zitiert, ä',ö]", ["schon zitiert, ä", "ö"]),
        ('names=["l\'été",naïve]', ["l'été", "naïve"]),
        ("names=[l'été,driver's seat]", ["l'été", "driver's seat"]),
        (r"names=[Bäume\, groß,b]", ["Bäume, groß", "b"]),
        ("image=Bücher/ü.jpg", "Bücher/ü.jpg"),
        ("image=C:/Bücher/ü.jpg", "C:/Bücher/ü.jpg"),
        ("image=Bücher (1)/ü & co.jpg", "Bücher (1)/ü & co.jpg"),
        ("image=photo (1).jpg", "photo (1).jpg"),
        ("+note=größer=besser", "größer=besser"),
        ("x={train: Übung, test: [prüfen,2], b: 'ä: b'}", {"train": "Übung", "test": ["prüfen", 2], "b": "ä: b"}),
        ("data.source.root=${paths.data_dir}", "${paths.data_dir}"),
        ("names=[😀,العربية]", ["😀", "العربية"]),
        ("image=a\u0308.jpg", "a\u0308.jpg"),
    ],
)
def test_words_of_every_language(argument, expected):
    assert value_of(argument) == expected


def test_a_sweep_over_such_words():
    assert [str(getattr(word, "text", word)) for word in value_of("image=ä.jpg,b.jpg")] == ["ä.jpg", "b.jpg"]


@pytest.mark.parametrize(
    "argument",
    ["seed=1", "names=[a,b]", "lr=1e-3,1e-2", "x='a b'", "~evaluation", "--config-dir=ä", "-m", "a.b=interval(0.1,0.7)", "x={a: 1}"],
)
def test_what_hydra_reads_stays_as_it_is(argument):
    assert for_hydra([argument], REPO / "conf") == [argument]


def test_what_nobody_can_read_is_left_to_hydra():
    assert for_hydra(["names=[Bäume"], REPO / "conf") == ["names=[Bäume"]


@pytest.mark.parametrize("group", ["logger", "callbacks", "evaluation", "benchmark"])
def test_a_group_that_is_null_is_left_out(group):
    assert for_hydra([f"{group}=null"], REPO / "conf") == [f"~{group}"]
    assert for_hydra([f"{group}.x=null", "ckpt_path=null"], REPO / "conf") == [f"{group}.x=null", "ckpt_path=null"]
