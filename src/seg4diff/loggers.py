"""Loggers that never ask anything on stdin, and whose tables are whole; what reaches all of them: figures and pictures."""

import netrc
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from PIL import Image

from seg4diff.backbones.lora_files import lora_folder
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


class LoraWandbLogger(WandbLogger):
    """A WandbLogger that keeps the LoRA folder of the last checkpoint as an artifact of its run, once the training has succeeded.

    Of a run that is offline, `wandb sync` on the same machine uploads it with the rest.
    """

    _saved_by: ModelCheckpoint | None = None

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Remember whose checkpoints have a LoRA beside them."""
        super().after_save_checkpoint(checkpoint_callback)
        self._saved_by = checkpoint_callback

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Log the LoRA, once a training."""
        super().finalize(status)
        if status != "success" or self._saved_by is None:
            return
        folder = lora_folder(self._saved_by.last_model_path or self._saved_by.best_model_path)
        self._saved_by = None
        if folder.is_dir():
            import wandb

            artifact = wandb.Artifact(f"lora-{self.experiment.id}", type="lora")
            artifact.add_dir(str(folder))
            self.experiment.log_artifact(artifact)


def wandb_logger(*, save_dir: str, project: str, name: str, group: str | None, offline: bool | None, log_lora: bool) -> WandbLogger:
    """A Weights & Biases logger; a resumed run in the same folder goes on in the same wandb run.

    Args:
        save_dir: output folder of the run; its run id is kept there.
        project: wandb project.
        name: name of the run.
        group: runs that wandb shows together; see `commands.trainers.make_trainer` for those of a sweep.
        offline: keep the run on disk (`wandb sync` uploads it later); None = offline when no account is set up on this machine.
        log_lora: keep the LoRA folder as an artifact, see `LoraWandbLogger`.
    """
    folder = Path(save_dir)
    folder.mkdir(parents=True, exist_ok=True)
    id_file = folder / "wandb-id.txt"
    run_id = id_file.read_text().strip() if id_file.exists() else uuid.uuid4().hex[:8]
    if rank_zero_only.rank == 0:
        id_file.write_text(run_id)
    if offline is None:
        offline = not _has_account()
    logger = LoraWandbLogger if log_lora else WandbLogger
    return logger(save_dir=save_dir, project=project, name=name, group=group, offline=offline, id=run_id, resume="allow")


@rank_zero_only
def log_figures(loggers: Sequence[Logger], figures: Mapping[str, float], step: int) -> None:
    """Send figures by name to every logger, and have them written; on the first process alone."""
    for logger in loggers:
        logger.log_metrics(dict(figures), step)
        logger.save()


@rank_zero_only
def log_picture(loggers: Sequence[Logger], name: str, picture: Image.Image, step: int) -> None:
    """Send a picture to the loggers that take pictures, on the first process alone."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(key=name, images=[picture], step=step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, np.array(picture), step, dataformats="HWC")


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
