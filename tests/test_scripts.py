"""train.py and evaluate.py as a user starts them: killed, resumed, in several processes."""

import json
import os
import signal
import subprocess
import time
from itertools import count
from types import SimpleNamespace

import lightning as L
import pytest
from lightning.pytorch.callbacks import timer
from safetensors.torch import load_file

from seg4diff.commands.run import evaluate, train
from seg4diff.training.checkpoints import read_checkpoint
from tests.conftest import REPO
from tests.runs import QUICK, SMALL_RUN, command, compose_config, overrides, run_script

LORA = "checkpoints/last-lora/pytorch_lora_weights.safetensors"


def finish(script, folder, *arguments):
    done = run_script(script, folder, *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def start_and_signal(folder, arguments, number):
    """Start a training, wait for a checkpoint in its middle, send the signal, return the exit code and what the process printed."""
    process = subprocess.Popen(command("train.py", folder, *arguments), cwd=REPO, stdout=subprocess.PIPE, text=True)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(number)
    said, _ = process.communicate()
    return process.returncode, said


@pytest.fixture(scope="module")
def long_run(assets, world, tmp_path_factory):
    """Arguments of a run of 60 steps, and the adapter that it ends with when nobody interrupts it."""
    arguments = [*overrides(assets, world), *SMALL_RUN, *QUICK, "trainer.max_steps=60", "trainer.val_check_interval=60"]
    arguments += ["callbacks.checkpoint.every_n_train_steps=3", "trainer.accumulate_grad_batches=2"]
    folder = tmp_path_factory.mktemp("uninterrupted")
    train(compose_config("train", folder, *arguments))
    return arguments, load_file(folder / LORA)


CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}
STOPS = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_a_stopped_run_resumes_to_the_same_bits(number, long_run, tmp_path):
    arguments, expected = long_run
    code, said = start_and_signal(tmp_path, arguments, number)
    assert code == CODES[number], "none is a run that has finished"
    reached = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"]
    assert 0 < reached < 60, "the signal came too late to test anything"
    assert number == signal.SIGKILL or f"stopped by {STOPS[number]} at step {reached}; a training goes on with ckpt_path=last" in said
    train(compose_config("train", tmp_path, *arguments, f"ckpt_path={tmp_path}/checkpoints/last.ckpt"))
    resumed = load_file(tmp_path / LORA)
    assert resumed.keys() == expected.keys()
    assert all((resumed[name] == expected[name]).all() for name in expected)


def test_a_run_that_is_out_of_time_goes_on_by_the_same_command(assets, world, tmp_path, monkeypatch):
    """trainer.max_time is that of each job: on a clock that is a minute on at every look, a job of five minutes makes a few steps."""
    arguments = [*overrides(assets, world), *SMALL_RUN, *QUICK, "trainer.max_steps=12", "trainer.val_check_interval=12"]
    train(compose_config("train", tmp_path / "whole", *arguments))
    monkeypatch.setattr(timer, "time", SimpleNamespace(monotonic=count(step=60).__next__))
    arguments += ["++trainer.max_time=00:00:05:00", "ckpt_path=last"]
    reached = [train(compose_config("train", tmp_path / "parts", *arguments))["steps"] for _ in range(4)]
    assert 0 < reached[0] < reached[1] < reached[2] and reached[-1] == 12
    expected, found = load_file(tmp_path / "whole" / LORA), load_file(tmp_path / "parts" / LORA)
    assert all((expected[name] == found[name]).all() for name in expected)


class AskedToRequeue(L.Callback):
    """What Slurm does when a job's time is nearly over, after two steps."""

    def on_train_batch_end(self, trainer, *args, **kwargs):
        if trainer.global_step == 2:
            os.kill(os.getpid(), signal.SIGUSR1)


def test_a_requeue_by_slurm_does_not_reach_the_evaluation(assets, world, tmp_path, monkeypatch):
    """Lightning saves a checkpoint of its own then, and on Slurm loads it whenever it is given none."""
    arguments = [*overrides(assets, world), *SMALL_RUN, *QUICK[1:]]
    expected = train(compose_config("train", tmp_path / "whole", *arguments))
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/said\n')
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for name, value in {"JOB_ID": "42", "JOB_NAME": "train", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    requeue = "+callbacks.requeue._target_=tests.test_scripts.AskedToRequeue"
    found = train(compose_config("train", tmp_path / "requeued", *arguments, requeue))
    assert (tmp_path / "said").read_text() == "requeue 42\n"
    assert found == expected


TWO = ["~trainer.accelerator", "trainer=ddp_cpu", "data.batch_size=2", "data.eval_batch_size=1"]


@pytest.fixture(scope="module")
def two_processes(assets, world, tmp_path_factory):
    """A run in two processes that fill a cache: its folder, and the arguments of the same run in one process."""
    folder = tmp_path_factory.mktemp("two")
    arguments = [*overrides(assets, world), *SMALL_RUN, "model.lr=0.02", "trainer.max_steps=20", "trainer.val_check_interval=10"]
    finish("train.py", folder / "run", *arguments, *TWO, f"runtime.cache={folder}/cache", "logger=all")
    return folder, arguments


def test_two_processes_train_and_evaluate_like_one(two_processes, tmp_path):
    (folder, arguments), one = two_processes, tmp_path / "one"
    two = folder / "run"
    train(compose_config("train", one, *arguments, "callbacks.samples=null"))
    expected, found = load_file(one / LORA), load_file(two / LORA)
    assert all((expected[name] - found[name]).abs().max() < 1e-5 for name in expected)
    assert max(weight.abs().max() for name, weight in expected.items() if "lora_B" in name) > 0.1, "these began as zeros"
    reports = [json.loads((folder / "metrics.json").read_text()) for folder in (one, two)]
    assert reports[0]["images"] == reports[1]["images"] == 7
    for name in ("base/miou", "base/pacc", "base/fwiou", "floor/constant", "ceiling/miou", "miou_per_block"):
        assert reports[0][name] == reports[1][name]
    assert reports[0]["base/val_flow_loss"] == pytest.approx(reports[1]["base/val_flow_loss"], rel=1e-6)
    assert len(list((two / "wandb").glob("offline-run-*"))) == 1, "one wandb run for all processes"


def test_two_processes_share_a_cache_and_draw_samples(two_processes, tmp_path):
    """Rank 0 alone draws samples, and each process meets other images: encoders are loaded at different moments."""
    folder, arguments = two_processes
    arguments = [*arguments, "~evaluation", f"runtime.cache={folder}/cache"]
    finish("train.py", tmp_path / "warm", *arguments, *TWO)
    expected, found = load_file(folder / "run" / LORA), load_file(tmp_path / "warm" / LORA)
    assert all((expected[name] - found[name]).abs().max() < 1e-6 for name in expected)
    # What was encoded under no autocast serves a run with it, and the other way round.
    shorter = ["trainer.precision=bf16-mixed", "trainer.max_steps=2", "trainer.val_check_interval=2"]
    train(compose_config("train", tmp_path / "mixed", *arguments, *shorter))
    evaluate(compose_config("evaluate", tmp_path / "evaluated", f"ckpt={tmp_path}/mixed", "split=validation", "trainer.accelerator=cpu"))
