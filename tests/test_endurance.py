"""A run that is killed again and again, by the same command started again and again: `pytest -m slow`."""

import os
import random
import subprocess
import time

import pytest
from safetensors.torch import load_file

from seg4diff.training.checkpoints import read_checkpoint
from tests.conftest import REPO
from tests.runs import SMALL_RUN, command, overrides

KILLS = 20
LORA = "checkpoints/last-lora/pytorch_lora_weights.safetensors"


def start(folder, arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command("train.py", folder, *arguments), cwd=REPO, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for_progress(process, checkpoint):
    """Return once this process has written a checkpoint, or has ended."""
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else None
    while process.poll() is None and (checkpoint.stat().st_mtime_ns if checkpoint.exists() else None) == before:
        time.sleep(0.005)


def check_what_a_reader_finds(folder):
    """Nothing half-written under a final name: checkpoints, adapters, cached encodings, tables."""
    for checkpoint in (folder / "checkpoints").glob("*.ckpt"):
        read_checkpoint(checkpoint)
    for adapter in (folder / "checkpoints").rglob("pytorch_lora_weights.safetensors"):
        load_file(adapter)
    for entry in (folder / "cache").rglob("*.safetensors"):
        load_file(entry)
    assert not (folder / "metrics.json").exists()


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_if_it_had_not_been(assets, world, tmp_path):
    steps = 1200
    arguments = [*overrides(assets, world), *SMALL_RUN, "callbacks.samples=null", "callbacks.overlays=null", "model.lr=0.02"]
    arguments += [f"trainer.max_steps={steps}", "trainer.val_check_interval=20", "callbacks.checkpoint.every_n_train_steps=2"]
    arguments += ["ckpt_path=last", "callbacks=average", "~evaluation", "validate_first=false"]
    whole = start(tmp_path / "whole", [*arguments, f"runtime.cache={tmp_path}/whole/cache"])
    assert whole.wait() == 0, whole.stderr.read()[-3000:]
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
