"""What surrounds a root script: Ctrl-C saves and ends in exit code 130, a failed job ends in its error alone, and what an error means."""

import errno
import signal

import lightning as L
import pytest
import torch
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import MissingConfigException
from hydra.types import RunMode
from omegaconf import OmegaConf

from seg4diff.commands.console import INTERRUPTED, PlainErrors, explain, interruptible, main
from seg4diff.commands.run import encode, evaluate, train
from seg4diff.errors import UserError
from seg4diff.training.checkpoints import read_checkpoint
from tests.runs import SMALL_RUN, compose_config, overrides

QUIET = ["~evaluation", "validate_first=false", "callbacks.samples=null", "callbacks.overlays=null"]


class CtrlC(L.Callback):
    """Presses Ctrl-C while the second batch is worked on, `times` times."""

    def __init__(self, times: int = 1) -> None:
        self._times = times

    def _press(self, trainer, module, batch, batch_idx, *args):
        for _ in range(self._times if batch_idx == 1 else 0):
            signal.raise_signal(signal.SIGINT)

    on_train_batch_start = on_validation_batch_start = on_test_batch_start = on_predict_batch_start = _press


PRESS = "+callbacks.press._target_=tests.commands.test_console.CtrlC"


def exit_code(entry) -> int:
    with pytest.raises(SystemExit) as stop:
        main(entry)
    return stop.value.code


@pytest.fixture(autouse=True)
def the_same_handler_afterwards():
    before = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is before


def test_a_training_finishes_its_step_and_saves(tmp_path, assets, world, caplog):
    arguments = [*overrides(assets, world), *SMALL_RUN, *QUIET, "ckpt_path=last"]
    assert exit_code(lambda: train(compose_config("train", tmp_path, *arguments, PRESS))) == INTERRUPTED == 130
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 2
    assert "stopped by Ctrl-C at step 2; a training goes on with ckpt_path=last" in caplog.text
    assert train(compose_config("train", tmp_path, *arguments))["steps"] == 4


def test_a_second_one_stops_at_once(tmp_path, assets, world):
    arguments = [*overrides(assets, world), *SMALL_RUN, *QUIET, PRESS, "+callbacks.press.times=2"]
    assert exit_code(lambda: train(compose_config("train", tmp_path, *arguments))) == INTERRUPTED
    assert not (tmp_path / "checkpoints").exists()


def test_an_evaluation_stops_without_a_result(tmp_path, assets, world):
    arguments = [*overrides(assets, world), "ckpt=base", "trainer.accelerator=cpu", "data.eval_batch_size=2", PRESS]
    assert exit_code(lambda: evaluate(compose_config("evaluate", tmp_path, *arguments))) == INTERRUPTED
    assert not (tmp_path / "metrics.json").exists()


def test_encoding_stops_at_once(tmp_path, assets, world, monkeypatch):
    monkeypatch.setattr("seg4diff.training.magnet.MagnetModule.predict_step", lambda *args: signal.raise_signal(signal.SIGINT))
    arguments = [*overrides(assets, world), *SMALL_RUN, f"runtime.cache={tmp_path}/cache"]
    assert exit_code(lambda: encode(compose_config("train", tmp_path, *arguments))) == INTERRUPTED


def test_where_nothing_can_be_saved_it_stops_at_once():
    def entry():
        with interruptible(lambda: True):
            signal.raise_signal(signal.SIGINT)

    assert exit_code(entry) == INTERRUPTED


def test_other_exits_keep_their_code():
    def entry():
        raise SystemExit(143)

    assert exit_code(entry) == 143


def test_other_processes_of_a_run_leave_it_to_the_first(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with interruptible(lambda: True) as pressed:
        signal.raise_signal(signal.SIGINT)
    assert not pressed


def ended(mode, status, value):
    job = JobReturn(overrides=["expert_layer=9", "seed=1"], status=status)
    job.return_value = value
    PlainErrors().on_job_end(OmegaConf.create({"hydra": {"mode": mode}}), job_return=job)
    return job


@pytest.mark.parametrize(("mode", "rest"), [(RunMode.RUN, ""), (RunMode.MULTIRUN, " (This was the run expert_layer=9 seed=1.)")])
def test_a_failed_job_says_nothing_but_its_error(mode, rest, capsys):
    job = ended(mode, JobStatus.FAILED, UserError("block 9 does not exist."))
    with pytest.raises(SystemExit):
        main(lambda: job.return_value)
    assert capsys.readouterr().err == f"error: block 9 does not exist.{rest}\n"


def test_a_job_that_is_done_has_its_result():
    assert ended(RunMode.MULTIRUN, JobStatus.COMPLETED, 0.5).return_value == 0.5


def chained(error, cause):
    error.__cause__ = cause
    return error


FULL = OSError(errno.ENOSPC, "No space left on device", "/out/metrics.csv")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FULL, "/out/metrics.csv cannot be written (No space left on device): make room there"),
        (chained(RuntimeError("a library failed"), FULL), "/out/metrics.csv cannot be written (No space left on device)"),
        (chained(OSError(errno.EDQUOT, "Disk quota exceeded"), FULL), "/out/metrics.csv cannot be written (Disk quota exceeded)"),
        (OSError(errno.ENOSPC, "No space left on device"), "a file of this run cannot be written"),
        (PermissionError(errno.EACCES, "Permission denied", "/out"), "Permission denied: /out"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (UserError("Caught UserError in DataLoader worker process 0.\nTraceback ...\nseg4diff.errors.UserError: do this.\n"), "do this."),
        (
            RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"),
            "a process that loads data has died (DataLoader worker",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation for details"),
            "there is not enough memory (CUDA out of memory. Tried to allocate 2.00 GiB.): take smaller batches (data.batch_size",
        ),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory"),
            "there is not enough memory ([enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory",
        ),
        (
            MissingConfigException("not found", "hydra/sweeper/optuna"),
            'hydra/sweeper/optuna comes with a package that is not installed: pip install "seg4diff[optuna]", or in a checkout pip',
        ),
        (RuntimeError("[gloo/transport/tcp/pair.cc:1] Connection closed by peer"), "another process of this run has stopped"),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
def test_what_an_error_means_for_the_user(error, expected):
    assert explain(error).startswith(expected)


def test_a_full_disk_names_the_places_of_the_command():
    assert explain(FULL).endswith("or write elsewhere (hydra.run.dir, runtime.cache, paths.data_dir).")
    assert explain(FULL, "--out").endswith("or write elsewhere (--out).")


def test_a_bug_keeps_its_traceback():
    def entry():
        raise RuntimeError("shapes do not match")

    assert explain(RuntimeError("shapes do not match")) is None
    with pytest.raises(RuntimeError, match="shapes do not match"):
        main(entry)


def test_a_circle_of_causes_ends():
    error, other = UserError("this."), ValueError("that")
    error.__context__, other.__cause__ = other, error
    assert explain(error) == "this."
