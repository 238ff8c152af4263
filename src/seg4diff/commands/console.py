"""What surrounds every command: errors as one sentence, quiet libraries, no writing over another run. Imports nothing heavy."""

import difflib
import errno
import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from seg4diff.commands.arguments import for_hydra
from seg4diff.commands.outputs import fresh_folder, is_first_process, run_folder
from seg4diff.errors import UserError
from seg4diff.presets import plain
from seg4diff.resources import conf_dir, set_places

log = logging.getLogger(__name__)

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of the system for a full disk, a used-up quota and a file that is larger than allowed."""
EXTRAS = {
    "hydra/launcher/joblib": "joblib",
    "hydra/launcher/submitit_local": "slurm",
    "hydra/launcher/submitit_slurm": "slurm",
    "hydra/sweeper/optuna": "optuna",
}
"""Configurations that come with a package of their own, and the extra that installs it."""
INTERRUPTED = 128 + signal.SIGINT
"""Exit code after Ctrl-C."""
PLACES = "hydra.run.dir, runtime.cache, paths.data_dir"
"""Keys of the places that a run writes to."""
FEWER_WORKERS = "mostly it has run out of memory; set data.num_workers to fewer of them (0 = none), or free memory"

LESS_MEMORY = (
    "take smaller batches (data.batch_size, data.eval_batch_size, --at-once), a quantized transformer (runtime.quantize, --quantize), "
    "runtime.gradient_checkpointing=true in training, or encoders off the accelerator (runtime.offload_encoders=true, --offload-encoders)"
)


def main(entry: Callable[[], Any], places: str = PLACES) -> None:
    """Run a command; what the user can fix ends in one sentence and exit code 1, everything else in a traceback.

    SEG4DIFF_DEBUG=1 shows the traceback in every case. Ctrl-C ends in exit code 130.

    Args:
        entry: the command.
        places: what sets where it writes.
    """
    quiet_libraries()
    try:
        entry()
    except (KeyboardInterrupt, SystemExit) as stop:
        if not any(isinstance(cause, KeyboardInterrupt) for cause in _causes(stop)):  # Lightning makes an exit of it
            raise
        print("stopped by Ctrl-C", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        sentence = explain(error, places)
        if sentence is None or os.environ.get("SEG4DIFF_DEBUG") == "1":
            raise
        print(f"error: {sentence}", *getattr(error, "__notes__", ()), file=sys.stderr)
        sys.exit(1)


def hydra_main(config_name: str, entry: Callable[[DictConfig], Any]) -> None:
    """Run a root script.

    Args:
        config_name: conf/<config_name>.yaml and the command line make the configuration.
        entry: takes the configuration; where it has a key `chosen`, that holds what was typed.
    """

    @hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)
    def run(config: DictConfig) -> Any:
        if "chosen" in config:
            config.chosen = list(HydraConfig.get().overrides.task)
        return entry(config)

    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra hands errors on instead of printing them
    set_places()
    sys.argv[1:] = for_hydra(sys.argv[1:], conf_dir())
    main(lambda: _with_nearest_key(run, config_name))


def _with_nearest_key(run: Callable[[], Any], config_name: str) -> Any:
    """Run; a key that does not exist ends in a sentence that names the nearest one."""
    try:
        return run()
    except ConfigCompositionException as error:
        key = re.search(r"^Could not override '([^']+)'", str(error))
        if key is None:
            raise
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            fields = _fields(OmegaConf.to_container(compose(config_name), resolve=False))
        near = difflib.get_close_matches(key[1], fields, n=1)
        meant = f": did you mean {near[0]}?" if near else f": `python {config_name}.py --help` shows them all."
        raise UserError(f"there is no key {key[1]}{meant}") from error


def _fields(node: Any, name: str = "") -> list[str]:
    """The dotted names of everything in a configuration."""
    below = node.items() if isinstance(node, dict) else ()
    own = [name] if name else []
    return own + [field for key, value in below for field in _fields(value, f"{name}.{key}" if name else str(key))]


def explain(error: Exception, places: str = PLACES) -> str | None:
    """What the user can do about an error, in one sentence; None for what is a bug; see `main`."""
    if full := [cause for cause in _causes(error) if isinstance(cause, OSError) and cause.errno in NO_ROOM]:
        file = next((cause.filename for cause in full if cause.filename is not None), "a file of this run")
        return f"{file} cannot be written ({full[0].strerror}): make room there, or write elsewhere ({places})."
    if isinstance(error, MissingConfigException) and error.missing_cfg_file in EXTRAS:
        extra = EXTRAS[error.missing_cfg_file]
        return (
            f'{error.missing_cfg_file} comes with a package that is not installed: pip install "seg4diff[{extra}]", or in a checkout '
            f'pip install -e ".[{extra}]".'
        )
    if isinstance(error, HydraException | OmegaConfBaseException):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if isinstance(error, UserError | OSError):
        return str(error).rpartition(f"{type(error).__name__}: ")[2].strip()  # without the traceback that a loader process puts before it
    if isinstance(error, RuntimeError):  # torch has no classes of its own for these
        if str(error).startswith("DataLoader worker"):
            return f"a process that loads data has died ({str(error).strip()}): {FEWER_WORKERS}."
        if type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error):  # torch, which this module does not import
            return f"there is not enough memory ({str(error).strip().splitlines()[0]}): {LESS_MEMORY}."
        if "gloo/transport" in str(error):
            return "another process of this run has stopped, and this one with it: see the error of that process."
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and what it came from: libraries wrap a failed write in errors of their own, and tidying up meets the full disk again."""
    met: list[BaseException] = []
    while error is not None and not any(error is one for one in met):  # two errors can each stand as what the other came from
        yield error
        met.append(error)
        error = error.__cause__ or error.__context__


@contextmanager
def interruptible(can_stop: Callable[[], bool]) -> Iterator[list[int]]:
    """Within the block Ctrl-C asks for what SIGTERM asks for: finish the step, save, end. A second one stops at once.

    Args:
        can_stop: whether something runs now that SIGTERM stops; where nothing does, Ctrl-C stops at once.

    Yields:
        A list that has an entry once Ctrl-C was pressed.
    """
    pressed: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if not can_stop() or signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, None):
            raise KeyboardInterrupt
        pressed.append(number)
        log.warning("Ctrl-C: stopping at the end of this step; a second Ctrl-C stops at once")
        signal.raise_signal(signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():  # only that one may handle signals
        yield pressed
        return
    # A terminal sends Ctrl-C to every process of a run: the first one tells the others, by what it does on SIGTERM.
    before = signal.signal(signal.SIGINT, ask if is_first_process() else signal.SIG_IGN)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def quiet_libraries() -> None:
    """Hide warnings of libraries that the user can do nothing about."""
    warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
    warnings.filterwarnings("ignore", message=".*module\\(s\\) in eval mode.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")  # it is: its sampler starts at the step reached
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*``compute`` method of metric .* was called before.*")  # what sees no image counts none
    warnings.filterwarnings("ignore", message=".*recommended to use `self.log\\(.*sync_dist=True.*")  # metrics come together by themselves
    warnings.filterwarnings("ignore", message=".*`broadcast_buffers` is deprecated.*")  # its successor is unknown to torch 2.9
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*`torch_dtype` is deprecated.*")
    warnings.filterwarnings("ignore", message=".*predict returned None.*")
    warnings.filterwarnings("ignore", message=".*local_dir_use_symlinks.*")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)


class OutputGuard(Callback):
    """Hydra callback that claims the output folder, and refuses to write over another run, before Hydra itself writes there."""

    def __init__(self) -> None:
        self._held = ExitStack()  # until the process ends

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            named_by_time = "${now:" in str(plain(config.hydra.run, resolve=False)["dir"])
            _check_last(config, config.hydra.run, "hydra.run.dir")
            if named_by_time and is_first_process():
                with read_write(config.hydra):
                    config.hydra.run.dir = str(fresh_folder(Path(config.hydra.run.dir)))
            self._held.enter_context(run_folder(Path(config.hydra.run.dir), config.get("ckpt_path")))
        except (UserError, OSError) as error:  # Hydra swallows what a callback raises, but not an exit
            print(f"error: {explain(error)}", file=sys.stderr)
            sys.exit(1)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            _check_last(config, config.hydra.sweep, "hydra.sweep.dir")
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)


def _check_last(config: DictConfig, place: DictConfig, key: str) -> None:
    """Refuse ckpt_path=last where every start has a new folder, so that there is nothing to go on from."""
    if config.get("ckpt_path") == "last" and "${now:" in str(plain(place, resolve=False)["dir"]):
        raise UserError(f"ckpt_path=last needs one folder for all starts, and here each has a new one: add {key}=<folder>.")


class PlainReturn(JobReturn):
    """The end of a job; asked for its result, a failed one raises its error and writes no line of Hydra's before it."""

    @property  # type: ignore[misc]  # Hydra's can be set, which is over when the job is
    def return_value(self) -> Any:
        if self.status == JobStatus.FAILED:
            raise self._return_value
        return self._return_value


class PlainErrors(Callback):
    """Hydra callback that leaves what is said about a failed job to `main`; in a sweep, the error knows whose it is."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        job_return.__class__ = PlainReturn
        if job_return.status == JobStatus.FAILED and config.hydra.mode == RunMode.MULTIRUN:
            job_return._return_value.add_note(f"(This was the run {' '.join(job_return.overrides or ())}.)")
