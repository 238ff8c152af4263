"""Answers on disk: whole lines, the same settings, the base model of another folder."""

import pytest

from seg4diff.errors import MissingFileError, UserError
from seg4diff.tiny.record import AnswerRecord

SETTINGS = {"steps": 2, "size": (32, 48), "lora": None, "lora_scale": None}
FISH, STAR = ("two fishes on water", 0), ("a star on snow", 1)


@pytest.fixture
def record(tmp_path):
    """Opens a folder; one called "first" holds two answers about the base model and one about the LoRA."""
    first = AnswerRecord(tmp_path / "first", SETTINGS)
    first.add("base", [(FISH, {"presence": 1 / 3}), (STAR, {"presence": 1.0, "ground": 0.0})])
    first.add("lora", [(FISH, {"presence": 0.5})])
    return lambda name, **changed: AnswerRecord(tmp_path / name, SETTINGS | changed)


def test_answers_are_read_back_by_variant(record):
    assert record("first").of("base") == {FISH: {"presence": 1 / 3}, STAR: {"presence": 1.0, "ground": 0.0}}
    assert record("first").of("lora") == {FISH: {"presence": 0.5}}


@pytest.mark.parametrize("cut", [1, 9, 60])
def test_a_line_that_was_cut_off_is_forgotten_and_its_place_is_free(record, tmp_path, cut):
    file = tmp_path / "first" / "answers.jsonl"
    before = file.read_bytes()
    file.write_bytes(before[:-cut])
    torn = record("first")
    assert torn.of("lora") == {} and len(torn.of("base")) == 2
    torn.add("lora", [(FISH, {"presence": 0.5})])
    assert file.read_bytes() == before


def test_a_damaged_line_is_an_error(record, tmp_path):
    (tmp_path / "first" / "answers.jsonl").write_text('{"variant": "base"}\n')
    with pytest.raises(UserError, match=r"answers\.jsonl is damaged: delete it"):
        record("first")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [({"steps": 3}, "with steps 2, and here it is 3"), ({"size": (32, 32)}, r"size \[32, 48\]"), ({"lora": "ab12"}, "with lora null")],
)
def test_answers_of_other_settings_are_refused(record, changed, sentence):
    with pytest.raises(UserError, match=sentence):
        record("first", **changed)


def test_the_base_model_of_another_folder_is_taken_over_and_its_lora_is_not(record, tmp_path):
    second = record("second", lora="ab12", lora_scale=0.5)
    second.take_base(tmp_path / "first")
    second.take_base(tmp_path / "first")
    assert second.of("base") == record("first").of("base") and second.of("lora") == {}
    assert len((tmp_path / "second" / "answers.jsonl").read_text().splitlines()) == 2


def test_a_base_model_of_other_settings_or_of_no_measurement_is_refused(record, tmp_path):
    with pytest.raises(UserError, match="first holds answers with steps 2, and here it is 3: `base_from`"):
        record("second", steps=3).take_base(tmp_path / "first")
    with pytest.raises(MissingFileError, match=r"there are no answers in .*nowhere"):
        record("third").take_base(tmp_path / "nowhere")
