"""A disk that is full: the file is named, nothing of it is left, and what was there before stays.

RLIMIT_FSIZE stands in for the disk: Python ignores the signal, and a write beyond the limit fails with an error of the system (EFBIG), as
one on a full disk does (ENOSPC).
"""

import csv
import math
import resource
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image

from seg4diff.backbones.cache import EncodingCache
from seg4diff.commands.run import train
from seg4diff.disk import read_json, whole_file, write_json
from seg4diff.evaluation import progress
from seg4diff.loggers import WholeCSVLogger
from seg4diff.training.checkpoints import AtomicCheckpointIO
from tests.runs import SMALL_RUN, compose_config, overrides
from tests.test_endurance import READERS, check_what_a_reader_finds
from tests.test_errors import FAST, sentence

ADAPTER, CHECKPOINT = 6_500, 30_000
"""Bytes: more than config.yaml and less than an adapter of the small model has; less than its checkpoint has, but more than its adapter."""


@contextmanager
def full_beyond(size):
    """No file can grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fail(size, entry):
    def run():
        with full_beyond(size):
            entry()

    return run


@pytest.mark.parametrize(("size", "named"), [(ADAPTER, "adapter"), (CHECKPOINT, "checkpoint")])
def test_a_run_that_cannot_write_its_checkpoint_ends_in_a_sentence_and_keeps_the_one_before(size, named, capsys, tmp_path, assets, world):
    arguments = [*overrides(assets, world), *SMALL_RUN, *FAST, "callbacks.checkpoint.every_n_train_steps=2", "ckpt_path=last"]
    folder = tmp_path / "out" / "checkpoints"

    def run(*more):
        return lambda: train(compose_config("train", tmp_path / "out", *arguments, *more))

    run()()
    (tmp_path / "out" / "metrics.json").unlink()
    adapter, checkpoint = folder / "last-lora" / "pytorch_lora_weights.safetensors", folder / "last.ckpt"
    assert ADAPTER < adapter.stat().st_size < CHECKPOINT < checkpoint.stat().st_size
    before = checkpoint.read_bytes()
    said = sentence(capsys, fail(size, run("trainer.max_steps=8")))
    assert "cannot be written (" in said and "File too large" in said and "make room there" in said
    assert str(folder) in said and ("-lora" if named == "adapter" else ".ckpt") in said
    assert checkpoint.read_bytes() == before
    check_what_a_reader_finds(tmp_path / "out")
    assert not [file for file in folder.rglob("*") if file.name.startswith(".") or "partial" in file.name], "nothing is left lying about"
    run("trainer.max_steps=8")()


def test_torch_does_not_hide_that_a_checkpoint_found_no_room(capsys, tmp_path):
    file = tmp_path / "checkpoints" / "last.ckpt"
    content = {"state_dict": {"weight": torch.zeros(10_000)}}
    said = sentence(capsys, fail(2_000, lambda: AtomicCheckpointIO().save_checkpoint(content, file)))
    assert said.startswith(f"error: {file} cannot be written (File too large): make room there, or write elsewhere (hydra.run.dir")
    assert not list(file.parent.iterdir())
    with pytest.raises(AttributeError):  # and a mistake of ours stays one
        AtomicCheckpointIO().save_checkpoint({"state_dict": lambda: None}, file)


def test_cache_entries_tables_and_pictures(capsys, tmp_path):
    cache = EncodingCache(tmp_path / "cache", {"path": "model"}, "stamp")
    said = sentence(capsys, fail(500, lambda: cache.fetch("text", [b"a prompt"], lambda _: [{"embeddings": torch.zeros(2_000)}])))
    assert f"{tmp_path}/cache/" in said and "/text/" in said and ".safetensors cannot be written (File too large)" in said
    write_json(tmp_path / "metrics.json", {"miou": 0.5})
    said = sentence(capsys, fail(500, lambda: write_json(tmp_path / "metrics.json", dict.fromkeys(map(str, range(999)), 0.0))))
    assert f"{tmp_path}/metrics.json cannot be written" in said

    def draw():
        with whole_file(tmp_path / "pictures" / "overlays.png") as partial:
            Image.effect_noise((300, 300), 90).save(partial, format="PNG")

    assert f"{tmp_path}/pictures/overlays.png cannot be written" in sentence(capsys, fail(500, draw))
    left = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert sorted(file.name for file in left) == ["metrics.json", "model.json"]
    assert [READERS[file.suffix](file) for file in sorted(left)] == [{"path": "model"}, {"miou": 0.5}]


def test_what_an_evaluation_has_counted(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    counts = torch.nn.ParameterDict({"counts": torch.zeros(10_000)})
    counted = progress.Progress(tmp_path, 0, 1)
    said = sentence(capsys, fail(500, lambda: counted.add(4, counts, last=False)))
    assert f"{tmp_path}/0-of-1.pt cannot be written (File too large)" in said and not list(tmp_path.iterdir())


def test_the_table_of_the_csv_logger_is_whole_and_goes_on_when_there_is_room(capsys, tmp_path):
    logger = WholeCSVLogger(str(tmp_path), name="csv", version=0, flush_logs_every_n_steps=1)
    table = tmp_path / "csv" / "version_0" / "metrics.csv"
    expected = []

    def log(step):
        row = {"loss": step / 7} | ({"val/miou": 0.25} if step > 5 else {})
        expected.append(row)
        logger.log_metrics(row, step)

    for step in range(10):
        log(step)
    whole = table.read_bytes()
    said = sentence(capsys, fail(len(whole) + 5, lambda: log(10)))
    assert f"{table} cannot be written (File too large)" in said
    assert table.read_bytes() == whole and [file.name for file in table.parent.iterdir()] == ["metrics.csv"]
    log(11)
    logger.finalize("success")
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = [{name: float(value) for name, value in row.items() if value and name != "step"} for row in rows]
    assert found == expected, "the row that found no room was kept for later"


def test_nothing_is_left_of_a_file_whose_writing_failed_for_another_reason(tmp_path):
    file = tmp_path / "table.csv"
    file.write_text("before")
    with pytest.raises(ZeroDivisionError), whole_file(file) as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert file.read_text() == "before" and list(tmp_path.iterdir()) == [file]
    with pytest.raises(FileNotFoundError) as error, whole_file(file):
        (tmp_path / "nothing").read_text()
    assert error.value.filename == str(tmp_path / "nothing"), "what an error names already stays"


def test_json_holds_null_where_a_number_is_none(tmp_path):
    odd = {"nan": math.nan, "deep": [{"inf": math.inf, 3: (-math.inf, 0.5)}], "whole": 2, "numpy": np.float64("nan"), "text": "NaN"}
    write_json(tmp_path / "metrics.json", odd)
    assert read_json(tmp_path / "metrics.json") == {
        "nan": None,
        "deep": [{"inf": None, "3": [None, 0.5]}],
        "whole": 2,
        "numpy": None,
        "text": "NaN",
    }
    assert "NaN," not in (tmp_path / "metrics.json").read_text()
