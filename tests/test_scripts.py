"""train.py and evaluate.py as a user starts them: killed, resumed, in several processes, swept."""

import csv
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
from omegaconf import OmegaConf
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from seg4diff.commands.run import train
from seg4diff.training.checkpoints import read_checkpoint
from tests.conftest import REPO
from tests.runs import SMALL_RUN, command, compose_config, overrides, run_script

LORA = "checkpoints/last-lora/pytorch_lora_weights.safetensors"
QUICK = ["~evaluation", "validate_first=false", "callbacks.samples=null", "callbacks.overlays=null", "model.lr=0.02"]


def finish(script, folder, *arguments):
    done = run_script(script, folder, *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def start_and_signal(folder, arguments, number):
    """Start a training, wait for a checkpoint in its middle, send the signal, return the exit code and what the process printed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command("train.py", folder, *arguments), cwd=REPO, env=environment, stdout=subprocess.PIPE, text=True)
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
    finish("train.py", folder, *arguments)
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
    finish("train.py", tmp_path, *arguments, f"ckpt_path={tmp_path}/checkpoints/last.ckpt")
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


def test_two_processes_train_and_evaluate_like_one(assets, world, tmp_path):
    arguments = [*overrides(assets, world), *SMALL_RUN, "validate_first=false", "callbacks.samples=null", "model.lr=0.02", "logger=all"]
    arguments += ["trainer.max_steps=20", "trainer.val_check_interval=20"]
    one, two = tmp_path / "one", tmp_path / "two"
    finish("train.py", one, *arguments)
    finish("train.py", two, *arguments, "~trainer.accelerator", "trainer=ddp_cpu", "data.batch_size=2", "data.eval_batch_size=1")
    expected, found = load_file(one / LORA), load_file(two / LORA)
    assert all((expected[name] - found[name]).abs().max() < 1e-5 for name in expected)
    assert max(weight.abs().max() for name, weight in expected.items() if "lora_B" in name) > 0.1, "these began as zeros"
    reports = [json.loads((folder / "metrics.json").read_text()) for folder in (one, two)]
    assert reports[0]["images"] == reports[1]["images"] == 7
    for name in ("base/miou", "base/pacc", "base/fwiou", "baseline/constant", "upper_bound", "miou_per_block"):
        assert reports[0][name] == reports[1][name]
    assert reports[0]["base/flow_loss"] == pytest.approx(reports[1]["base/flow_loss"], rel=1e-6)
    assert len(list((two / "wandb").glob("offline-run-*"))) == 1, "one wandb run for all processes"
    with (two / "csv" / "version_0" / "metrics.csv").open(newline="") as file:
        assert [float(row["lora/miou"]) for row in csv.DictReader(file) if row["lora/miou"]] == [reports[1]["lora/miou"]], "logged once"
    events = EventAccumulator(str(two / "tensorboard")).Reload()
    assert [len(events.Scalars(name)) for name in ("lora/miou", "miou_per_block/0", "upper_bound")] == [1, 1, 1]


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


def start_sweep(folder, *arguments):
    done = run_script("train.py", folder / "unused", f"hydra.sweep.dir={folder}", "validate_first=false", *arguments, "--multirun")
    with (folder / "sweep.csv").open(newline="") as file:
        return done, list(csv.DictReader(file))


def test_a_sweep_ends_in_a_table_and_a_plot_also_when_a_run_failed(assets, world, tmp_path):
    arguments = [
        *overrides(assets, world),
        *SMALL_RUN,
        "expert_layer=0,2,9",
        "trainer.max_steps=2",
        "logger=wandb",
        "logger.wandb.offline=true",
    ]
    done, rows = start_sweep(tmp_path, *arguments)
    assert done.returncode == 1 and "error: block 9 does not exist" in done.stderr and "Traceback" not in done.stderr
    assert "Error executing job" not in done.stderr
    assert "sweep over expert_layer" in done.stdout and (tmp_path / "sweep.png").stat().st_size > 1000
    assert [json.loads((tmp_path / k / "metrics.json").read_text())["expert_layer"] for k in "01"] == [0, 2]
    assert {OmegaConf.load(tmp_path / k / "config.yaml").logger.wandb.group for k in "01"} == {tmp_path.name}
    assert [row["expert_layer"] for row in rows] == ["0", "2", "9"] and [bool(row["lora/miou"]) for row in rows] == [True, True, False]


def test_a_search_in_two_processes_finds_the_best_of_its_runs(assets, world, tmp_path):
    arguments = [*overrides(assets, world), *SMALL_RUN, *QUICK, "trainer.max_steps=2", "model.objective.mask_weight=interval(0.01,100.0)"]
    arguments += ["hydra/sweeper=search", "hydra.sweeper.n_trials=2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    done, rows = start_sweep(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    found = OmegaConf.load(tmp_path / "optimization_results.yaml")
    best = max(rows, key=lambda row: float(row["val/miou"]))
    assert len(rows) == 2 and found.best_value == float(best["val/miou"])
    assert found.best_params["model.objective.mask_weight"] == float(best["model.objective.mask_weight"])


SLURM = {  # stand-ins that run the two jobs of an array on this machine, one after the other, each with two processes
    "sbatch": """export SLURM_JOB_NAME=sweep SLURM_NODEID=0 SLURM_NNODES=1 SLURM_JOB_NUM_NODES=1 SLURM_NTASKS=2 SLURM_NTASKS_PER_NODE=2
        export SLURM_NODELIST=127.0.0.1 SLURM_JOB_NODELIST=127.0.0.1 SLURM_ARRAY_JOB_ID=70
        (for job in 0 1; do
            SLURM_JOB_ID=7$job SLURM_ARRAY_TASK_ID=$job bash "$1"
            echo "70_$job|COMPLETED|here" >> "$(dirname "$0")/done"
        done) > /dev/null 2>&1 &
        echo Submitted batch job 70""",
    "srun": """while [[ $1 == --* ]]; do [[ $1 == --unbuffered ]] && shift || shift 2; done  # its options are where to write logs
        for task in 0 1; do SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & done; wait""",
    "sacct": """echo "JobID|State|NodeList"; cat "$(dirname "$0")/done" 2> /dev/null || true""",
}


@pytest.mark.slow
def test_a_sweep_on_slurm_may_have_several_processes_for_each_job(assets, world, tmp_path, monkeypatch):
    for name, script in SLURM.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    arguments = [*overrides(assets, world), *SMALL_RUN, *QUICK, "~trainer.accelerator", "trainer=ddp_cpu", "trainer.max_steps=2"]
    done, rows = start_sweep(tmp_path, *arguments, "lora.rank=2,4", "hydra/launcher=slurm", "hydra.launcher.tasks_per_node=2")
    assert done.returncode == 0, done.stderr[-3000:]
    assert [row["lora.rank"] for row in rows] == ["2", "4"] and all(row["val/miou"] for row in rows)
    assert "--ntasks-per-node=2" in next((tmp_path / ".submitit").glob("*/*_submission.sh")).read_text()
