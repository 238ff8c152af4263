"""Output folders: a new run has a new one, a continued run its own, and no two runs use one at the same time."""

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import chain, count
from pathlib import Path

from filelock import FileLock, Timeout

from seg4diff.errors import UserError, renamed

log = logging.getLogger(__name__)

CLAIM = ".in-use"
"""File of an output folder that a run holds locked; the system releases it however the run ends, so what is left of it does no harm."""
PATIENCE = 15.0
"""Seconds that a start waits for a folder: the loader processes of a killed run hold it until they notice."""
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)
"""Errors of network disks without file locks."""
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK")
"""What launchers number processes by; the first of a run has 0, or no number, in each."""

RESULTS = {
    "labels": "segmented pictures",
    "generation.json": "generated images",
    "export.json": "images for a benchmark",
    "scores.json": "scores",
    "check.json": "a checked data set",
    "analysis.json": "an analysis",
}
"""What the console commands and analyze.py leave in their folders."""


@contextmanager
def claimed(output_dir: Path, ckpt_path: str | None = None, resumes: str | None = None) -> Iterator[str | None]:
    """Have an output folder for one run alone as long as the block lasts; the other processes of a run share that of the first.

    Args:
        output_dir: the folder; it is made.
        ckpt_path: see `checkpoint_of`.
        resumes: see `check_output_dir`.

    Yields:
        The checkpoint to continue from, None for a new run.

    Raises:
        UserError: another process works in the folder, or it holds another run.
    """
    lock = FileLock(output_dir.resolve() / CLAIM, is_singleton=True)  # one within a process, which may claim its own folder again
    first = is_first_process()
    if first:
        output_dir.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout as error:
            raise UserError(f"another run is working in {output_dir}: wait for its end, or choose another `out`.") from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            log.warning("the disk of %s has no file locks: give every run a folder of its own", output_dir)
    try:
        checkpoint = checkpoint_of(output_dir, ckpt_path)
        check_output_dir(output_dir, checkpoint, resumes)
        yield checkpoint
    finally:
        if first:
            lock.release()


@contextmanager
def run_folder(folder: Path, ckpt_path: str | None = None) -> Iterator[str | None]:
    """`claimed` for a run of a configuration, whose errors name the key of its folder."""
    with renamed({"out": "hydra.run.dir"}.get), claimed(folder, ckpt_path) as checkpoint:
        yield checkpoint


@contextmanager
def results_folder(out: Path | None, kind: str, resumes: str | None = None) -> Iterator[Path]:
    """The folder `out` for one command alone; where there is none, a new folder outputs/<kind>/<time>.

    Args:
        out: the folder.
        kind: name of the command.
        resumes: see `check_output_dir`.

    Raises:
        UserError: another process works in the folder, or it holds results.
    """
    folder = out or fresh_folder(Path("outputs") / kind / f"{datetime.now():%Y-%m-%d_%H-%M-%S}")
    with claimed(folder, resumes=resumes):
        yield folder


def is_first_process() -> bool:
    """Whether this process is the one of its run that writes."""
    return not any(int(os.environ.get(name) or 0) for name in RANKS)


def process_share() -> tuple[int, int]:
    """(number of this process, number of all) where torchrun or Slurm's srun has started several, else (0, 1)."""
    for number, all_of_them in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")):
        if number in os.environ and all_of_them in os.environ:
            return int(os.environ[number]), int(os.environ[all_of_them])
    return 0, 1


def fresh_folder(path: Path) -> Path:
    """Make a folder that was not there: this one, or one with a number behind its name where another run of the same second has it."""
    for name in chain([path.name], (f"{path.name}-{k}" for k in count(2))):
        try:
            path.with_name(name).mkdir(parents=True)
            return path.with_name(name)
        except FileExistsError:
            continue
    raise AssertionError("the numbers have no end")


def checkpoint_of(output_dir: Path, ckpt_path: str | None) -> str | None:
    """The checkpoint to continue from; "last" = the last one of this output folder, or none if the run is new.

    A run that is started with ckpt_path=last is thus continued by the same command, however often it is stopped. Where Slurm queued it
    again before its first checkpoint, that is the one that Lightning wrote then.
    """
    if ckpt_path != "last":
        return ckpt_path
    last = output_dir / "checkpoints" / "last.ckpt"
    return str(last) if last.exists() else next(map(str, requeued(output_dir)), None)


def requeued(output_dir: Path) -> list[Path]:
    """Checkpoints that Lightning wrote when Slurm queued the run again, the newest first."""
    return sorted(output_dir.glob("hpc_ckpt_*.ckpt"), key=lambda file: int(file.stem.rpartition("_")[2]), reverse=True)


def check_output_dir(output_dir: Path, ckpt_path: str | None, resumes: str | None = None) -> None:
    """Refuse to write over the results of another command; a run that is continued may write into its own folder.

    Args:
        output_dir: the folder.
        ckpt_path: the checkpoint that a run is continued from.
        resumes: the entry of `RESULTS` with which this command goes on.
    """
    if ckpt_path is not None and Path(ckpt_path).resolve().is_relative_to(output_dir.resolve()):
        return
    if (output_dir / "metrics.json").exists():
        raise UserError(f"{output_dir} holds a finished run: choose another `out`, or continue it with ckpt_path=<a .ckpt of it>.")
    for name, kind in RESULTS.items():
        if name != resumes and (output_dir / name).exists():
            raise UserError(f"{output_dir} holds {kind}: choose another folder (`out`).")
    for last in [output_dir / "checkpoints" / "last.ckpt", *requeued(output_dir)]:
        if last.exists():
            raise UserError(f"{output_dir} holds an unfinished run: continue it with ckpt_path={last}, or choose another `out`.")
