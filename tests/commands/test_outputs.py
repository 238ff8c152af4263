"""An output folder belongs to one run at a time."""

import errno
import os
import signal
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from seg4diff.commands import outputs
from seg4diff.commands.cli import app
from seg4diff.commands.console import OutputGuard
from seg4diff.commands.outputs import RANKS, checkpoint_of, claimed, fresh_folder, process_share, results_folder
from seg4diff.commands.run import evaluate, train
from seg4diff.errors import UserError
from tests.runs import SMALL_RUN, compose_config, overrides

HOLD = """
import pathlib, sys
from seg4diff.commands.outputs import claimed
with claimed(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path, monkeypatch):
    """Another process that works in tmp_path."""
    monkeypatch.setattr(outputs, "PATIENCE", 0.2)
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("script", ["train", "evaluate"])
def test_two_runs_cannot_share_a_folder(script, other, tmp_path, assets, world):
    more = SMALL_RUN if script == "train" else ["ckpt=base"]
    config = compose_config(script, tmp_path, *overrides(assets, world), *more)
    with pytest.raises(UserError, match=f"another run is working in {tmp_path}: wait for its end, or choose another hydra.run.dir"):
        {"train": train, "evaluate": evaluate}[script](config)
    assert [file.name for file in tmp_path.iterdir()] == [outputs.CLAIM]


def test_a_console_command_names_its_option(other, tmp_path, assets):
    model = [*("--model", str(assets / "tiny-sd3")), *("--like", "tiny_sd3"), *("--block", "1")]
    with pytest.raises(UserError, match=f"another run is working in {tmp_path}: wait for its end, or choose another --out"):
        app(["generate", "star", *model, "--out", str(tmp_path)], standalone_mode=False)


@pytest.mark.parametrize(("name", "kind"), outputs.RESULTS.items())
def test_results_of_other_commands_are_not_mixed(name, kind, tmp_path):
    """A command goes on with its own, if it says so."""
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=rf"holds {kind}: choose another folder \(`out`\)"), results_folder(tmp_path, "other"):
        pass
    with results_folder(tmp_path, "own", name) as folder:
        assert folder == tmp_path


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_claim_ends_with_its_process(number, other, tmp_path):
    other.send_signal(number)
    other.wait()
    with claimed(tmp_path) as checkpoint:
        assert checkpoint is None


@pytest.mark.parametrize("name", RANKS)
def test_the_other_processes_of_a_run_share_its_folder(name, other, tmp_path, monkeypatch):
    monkeypatch.setenv(name, "1")
    with claimed(tmp_path):
        pass


@pytest.mark.parametrize(
    ("variables", "share"),
    [
        ({}, (0, 1)),
        ({"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}, (2, 4)),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "8"}, (3, 8)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, (0, 1)),  # in a batch script, before any srun
    ],
)
def test_the_share_of_a_process(variables, share, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert process_share() == share


def test_a_disk_without_locks_is_named(tmp_path, monkeypatch, caplog):
    def refuse(lock, **options):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(outputs.FileLock, "acquire", refuse)
    with claimed(tmp_path):
        pass
    assert f"the disk of {tmp_path} has no file locks" in caplog.text


def test_a_process_may_claim_its_own_folder_again_and_leaves_it_free(tmp_path):
    with claimed(tmp_path / "run"), claimed(tmp_path / "run"):
        pass
    done = subprocess.run([sys.executable, "-c", HOLD, str(tmp_path / "run")], input="", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_checkpoint_of_a_requeue_is_the_last_where_there_is_no_other(tmp_path):
    assert checkpoint_of(tmp_path, "last") is None
    for number in (2, 10):
        (tmp_path / f"hpc_ckpt_{number}.ckpt").touch()
    assert checkpoint_of(tmp_path, "last") == f"{tmp_path}/hpc_ckpt_10.ckpt"
    with (
        pytest.raises(UserError, match=rf"holds an unfinished run: continue it with ckpt_path={tmp_path}/hpc_ckpt_10.ckpt"),
        claimed(tmp_path),
    ):
        pass
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    assert checkpoint_of(tmp_path, "last") == f"{tmp_path}/checkpoints/last.ckpt"


def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path):
    names = [fresh_folder(tmp_path / "2030-01-01_00-00-00").name for _ in range(3)]
    assert names == ["2030-01-01_00-00-00", "2030-01-01_00-00-00-2", "2030-01-01_00-00-00-3"]


def guard(folder, **values):
    config = OmegaConf.create({"hydra": {"run": {"dir": str(folder)}}} | values)
    OutputGuard().on_run_start(config)
    return config.hydra.run.dir


@pytest.mark.parametrize(("ending", "fresh"), [("run", False), ("${now:%Y}", True)])
def test_only_a_name_made_of_the_time_is_made_unique(ending, fresh, tmp_path):
    folders = [guard(f"{tmp_path}/{ending}") for _ in range(2)]
    assert (folders[0] != folders[1]) == fresh and all(os.path.isdir(folder) for folder in folders)  # noqa: PTH112


def test_last_needs_a_folder_of_its_own(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        guard(f"{tmp_path}/${{now:%Y}}", ckpt_path="last")
    assert stop.value.code == 1 and "add hydra.run.dir=<folder>" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert guard(tmp_path / "mine", ckpt_path="last") == f"{tmp_path}/mine"
