"""What a root script is around its run: errors as one sentence, quiet libraries, no writing over another run."""

import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from seg4diff.backbones.loading import quiet_hosts
from seg4diff.errors import UserError
from seg4diff.outputs import check_output_dir, checkpoint_of


def main(entry: Callable[[], Any]) -> None:
    """Run a Hydra entry point; what the user can mend ends in one sentence and exit code 1, everything else in a traceback.

    SEG4DIFF_DEBUG=1 shows the traceback in every case.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra hands errors on instead of printing them
    quiet_libraries()
    try:
        entry()
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        if os.environ.get("SEG4DIFF_DEBUG") == "1":
            raise
        print(f"error: {_sentence(error)}", file=sys.stderr)
        sys.exit(1)


def _sentence(error: Exception) -> str:
    """The message alone: without the traceback that a loader process puts before it, and on one line where it is one thing."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}"
    message = str(error).rpartition("UserError: ")[2].strip()
    return " ".join(message.split()) if isinstance(error, HydraException | OmegaConfBaseException) else message


def quiet_libraries() -> None:
    """Hide what libraries say about themselves."""
    warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
    warnings.filterwarnings("ignore", message=".*module\\(s\\) in eval mode.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")  # it is: its sampler starts at the step reached
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*`broadcast_buffers` is deprecated.*")  # its successor is unknown to torch 2.9
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*`torch_dtype` is deprecated.*")
    warnings.filterwarnings("ignore", message=".*predict returned None.*")
    quiet_hosts()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)


class OutputGuard(Callback):
    """Hydra callback that refuses to write over another run before Hydra itself writes there."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            output_dir = Path(config.hydra.run.dir)
            check_output_dir(output_dir, checkpoint_of(output_dir, config.get("ckpt_path")))
        except UserError as error:  # Hydra swallows what a callback raises, but not an exit
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
