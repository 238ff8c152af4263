"""Loggers that never ask anything on stdin, and whose tables are whole."""

import netrc
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from seg4diff.disk import whole_file


class WholeCSVLogger(CSVLogger):
    """A CSVLogger whose table is replaced in one step: a run that is killed, or finds the disk full, leaves no half of it."""

    @rank_zero_only
    def save(self) -> None:
        """Write the rows that were logged since the last time."""
        writer = self.experiment
        if not writer.metrics:
            return
        table = Path(writer.metrics_file_path)
        with whole_file(table) as partial:
            if table.exists():
                shutil.copyfile(table, partial)
            writer.metrics_file_path = str(partial)
            try:
                super().save()
            finally:
                writer.metrics_file_path = str(table)


def wandb_logger(*, save_dir: str, project: str, name: str, group: str | None, offline: bool | None) -> WandbLogger:
    """A Weights & Biases logger; a resumed run in the same folder goes on in the same wandb run.

    Args:
        save_dir: output folder of the run; its run id is kept there.
        project: wandb project.
        name: name of the run.
        group: groups the runs of a sweep.
        offline: keep the run on disk (`wandb sync` uploads it later); None = offline when no account is set up on this machine.
    """
    folder = Path(save_dir)
    folder.mkdir(parents=True, exist_ok=True)
    id_file = folder / "wandb-id.txt"
    run_id = id_file.read_text().strip() if id_file.exists() else uuid.uuid4().hex[:8]
    if rank_zero_only.rank == 0:
        id_file.write_text(run_id)
    if offline is None:
        offline = not _has_account()
    return WandbLogger(save_dir=save_dir, project=project, name=name, group=group, offline=offline, id=run_id, resume="allow")


@contextmanager
def finished(loggers: Sequence[Logger]) -> Iterator[None]:
    """Close wandb's run at the end, also after an error: the next run of a sweep would write into it."""
    try:
        yield
    finally:
        if any(isinstance(logger, WandbLogger) for logger in loggers):
            import wandb

            wandb.finish()


def _has_account() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
