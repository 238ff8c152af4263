"""A run that is killed again and again, by the same command started again and again: `pytest -m slow`."""

import csv
import json
import random
import subprocess
import time

import pytest
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file

from seg4diff.backbones.base import LORA_FILE
from seg4diff.commands.run import train
from seg4diff.training.checkpoints import lora_folder, read_checkpoint
from tests.conftest import REPO
from tests.runs import SMALL_RUN, command, compose_config, overrides

KILLS = 20
LORA = f"checkpoints/last-lora/{LORA_FILE}"


def start(folder, arguments):
    return subprocess.Popen(command("train.py", folder, *arguments), cwd=REPO, stderr=subprocess.PIPE, text=True)


def wait_for_progress(process, checkpoint):
    """Return once this process has written a checkpoint, or has ended."""
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else None
    while process.poll() is None and (checkpoint.stat().st_mtime_ns if checkpoint.exists() else None) == before:
        time.sleep(0.005)


def read_table(file):
    rows = list(csv.reader(file.read_text(encoding="utf-8").splitlines()))
    assert rows and len({len(row) for row in rows}) == 1, f"{file} has rows that are cut off"


READERS = {
    ".ckpt": read_checkpoint,
    ".safetensors": load_file,
    ".json": lambda file: json.loads(file.read_text(encoding="utf-8")),
    ".yaml": OmegaConf.load,
    ".csv": read_table,
    ".png": lambda file: Image.open(file).load(),
}


def check_what_a_reader_finds(folder):
    """Nothing half-written under a final name: checkpoints, adapters, cached encodings, tables, pictures, settings.

    Names that begin with a dot are not final: what is being written, and Hydra's own notes.
    """
    found = [file for file in folder.rglob("*") if file.is_file() and not any(part[0] == "." for part in file.relative_to(folder).parts)]
    for file in found:
        if file.suffix in READERS:
            READERS[file.suffix](file)
    for checkpoint in (folder / "checkpoints").glob("*.ckpt"):
        assert (lora_folder(checkpoint) / LORA_FILE).is_file(), f"{checkpoint} has no adapter beside it"
    assert not (folder / "metrics.json").exists(), "the run is not over"


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_if_it_had_not_been(assets, world, tmp_path):
    steps = 1200
    arguments = [*overrides(assets, world), *SMALL_RUN, "callbacks.samples=null", "callbacks.overlays.count=2", "model.lr=0.02"]
    arguments += [f"trainer.max_steps={steps}", "trainer.val_check_interval=20", "callbacks.checkpoint.every_n_train_steps=2"]
    arguments += ["ckpt_path=last", "callbacks=average", "~evaluation", "validate_first=false"]
    train(compose_config("train", tmp_path / "whole", *arguments, f"runtime.cache={tmp_path}/whole/cache"))
    folder, moments, kills = tmp_path / "killed", random.Random(0), 0
    arguments += [f"runtime.cache={folder}/cache"]
    while True:
        process = start(folder, arguments)
        if kills < KILLS and moments.random() < 0.2:
            time.sleep(moments.uniform(0, 8))  # while the libraries or the model load
            process.kill()
        elif kills < KILLS:
            wait_for_progress(process, folder / "checkpoints" / "last.ckpt")
            time.sleep(moments.uniform(0, 1.5))  # while stepping, encoding, validating or writing a checkpoint
            process.kill()
        _, said = process.communicate()
        kills += process.returncode == -9
        if process.returncode == 0:
            break
        assert process.returncode == -9, said[-3000:]
        check_what_a_reader_finds(folder)
    assert kills == KILLS, f"the run was over after {kills} kills"
    expected, found = load_file(tmp_path / "whole" / LORA), load_file(folder / LORA)
    assert expected.keys() == found.keys() and all((expected[name] == found[name]).all() for name in expected)
    last = read_checkpoint(folder / "checkpoints" / "last.ckpt")
    assert last["global_step"] == steps
    for name, weight in read_checkpoint(tmp_path / "whole" / "checkpoints" / "last.ckpt")["state_dict"].items():
        assert (last["state_dict"][name] == weight).all()
