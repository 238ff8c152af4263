"""train.py and evaluate.py as a user starts them: killed, resumed, in several processes, swept."""

import json
import os
import signal
import subprocess
import time

import pytest
from safetensors.torch import load_file

from seg4diff.training.checkpoints import read_checkpoint
from tests.conftest import REPO
from tests.runs import SMALL_RUN, command, overrides, run_script

LORA = "checkpoints/last-lora/pytorch_lora_weights.safetensors"
QUICK = ["~evaluation", "validate_first=false", "callbacks.samples=null", "callbacks.overlays=null", "model.lr=0.02"]


def finish(script, folder, *arguments):
    done = run_script(script, folder, *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def start_and_signal(folder, arguments, number):
    """Start a training, wait for a checkpoint in its middle, send the signal, return the exit code."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command("train.py", folder, *arguments), cwd=REPO, env=environment, stderr=subprocess.PIPE, text=True)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(number)
    process.communicate()
    return process.returncode


@pytest.fixture(scope="module")
def long_run(assets, world, tmp_path_factory):
    """Arguments of a run of 60 steps, and the adapter that it ends with when nobody interrupts it."""
    arguments = [*overrides(assets, world), *SMALL_RUN, *QUICK, "trainer.max_steps=60", "trainer.val_check_interval=60"]
    arguments += ["callbacks.checkpoint.every_n_train_steps=3", "trainer.accumulate_grad_batches=2"]
    folder = tmp_path_factory.mktemp("uninterrupted")
    finish("train.py", folder, *arguments)
    return arguments, load_file(folder / LORA)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_a_stopped_run_resumes_to_the_same_bits(number, long_run, tmp_path):
    arguments, expected = long_run
    code = start_and_signal(tmp_path, arguments, number)
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    reached = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"]
    assert 0 < reached < 60, "the signal came too late to test anything"
    finish("train.py", tmp_path, *arguments, f"ckpt_path={tmp_path}/checkpoints/last.ckpt")
    resumed = load_file(tmp_path / LORA)
    assert resumed.keys() == expected.keys()
    assert all((resumed[name] == expected[name]).all() for name in expected)


def test_two_processes_train_and_evaluate_like_one(assets, world, tmp_path):
    arguments = [*overrides(assets, world), *SMALL_RUN, "validate_first=false", "callbacks.samples=null", "model.lr=0.02", "logger=all"]
    one, two = tmp_path / "one", tmp_path / "two"
    finish("train.py", one, *arguments)
    finish("train.py", two, *arguments, "~trainer.accelerator", "trainer=ddp_cpu", "data.batch_size=2", "data.eval_batch_size=1")
    expected, found = load_file(one / LORA), load_file(two / LORA)
    assert all((expected[name] - found[name]).abs().max() < 1e-5 for name in expected)
    reports = [json.loads((folder / "metrics.json").read_text()) for folder in (one, two)]
    assert reports[0]["images"] == reports[1]["images"] == 7
    for name in ("base/miou", "base/pacc", "base/fwiou", "floor/constant", "ceiling/miou", "miou_per_block"):
        assert reports[0][name] == reports[1][name]
    assert reports[0]["base/val_flow_loss"] == pytest.approx(reports[1]["base/val_flow_loss"], rel=1e-6)
    assert len(list((two / "wandb").glob("offline-run-*"))) == 1, "one wandb run for all processes"


def test_two_processes_share_a_cache_and_draw_samples(assets, world, tmp_path):
    """Rank 0 alone draws samples, and each process meets other images: encoders are loaded at different moments."""
    arguments = [*overrides(assets, world), *SMALL_RUN, "~evaluation", "model.lr=0.02", "~trainer.accelerator", "trainer=ddp_cpu"]
    arguments += ["data.batch_size=2", "data.eval_batch_size=1", f"runtime.cache={tmp_path}/cache"]
    first, second, third = tmp_path / "cold", tmp_path / "warm", tmp_path / "mixed"
    finish("train.py", first, *arguments)
    finish("train.py", second, *arguments)
    expected, found = load_file(first / LORA), load_file(second / LORA)
    assert all((expected[name] - found[name]).abs().max() < 1e-6 for name in expected)
    # What was encoded under no autocast serves a run with it, and the other way round.
    finish("train.py", third, *arguments, "trainer.precision=bf16-mixed")
    finish("evaluate.py", tmp_path / "evaluated", f"ckpt={third}", "split=validation", "trainer.accelerator=cpu")


def test_a_sweep_ends_in_a_table_and_a_plot(assets, world, tmp_path):
    arguments = [*overrides(assets, world), *SMALL_RUN, "validate_first=false", "expert_layer=0,2", "trainer.max_steps=2"]
    done = run_script("train.py", tmp_path / "unused", f"hydra.sweep.dir={tmp_path}", *arguments, "--multirun")
    assert done.returncode == 0, done.stderr[-3000:]
    rows = (tmp_path / "sweep.csv").read_text().splitlines()
    assert len(rows) == 3 and "lora/miou" in rows[0] and (tmp_path / "sweep.png").stat().st_size > 1000
    assert "sweep over expert_layer" in done.stdout
    assert [json.loads((tmp_path / k / "metrics.json").read_text())["expert_layer"] for k in "01"] == [0, 2]
