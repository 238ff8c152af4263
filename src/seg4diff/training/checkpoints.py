"""Checkpoints that survive a kill: written beside the target, then renamed; a LoRA folder for diffusers is saved next to each."""

import os
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException
from safetensors import SafetensorError

from seg4diff.backbones.lora_files import lora_folder
from seg4diff.disk import save_tensors, whole_file
from seg4diff.errors import MissingFileError, UserError
from seg4diff.training.ema import WeightAverage

FIGURES = ("train/", "val/")
"""What the names of the figures of training and validation begin with."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically: the new file replaces the old one in a single step."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any | None = None) -> None:
        target = Path(path)
        with whole_file(target) as partial, partial.open("wb") as file:
            save_tensors(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(target.parent)


def read_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """Load a checkpoint's tensors and plain values; nothing in the file can run code.

    Raises:
        UserError: the file is missing, truncated or no checkpoint.
    """
    if not Path(path).is_file():
        raise MissingFileError(f"no checkpoint at {path}: give the path of a .ckpt file of an earlier run.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"the checkpoint {path} cannot be read (truncated or not a checkpoint): use another one of the run.") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"{path} is not a checkpoint of this project: it has no 'state_dict'.")
    return checkpoint


class SafeCheckpoint(ModelCheckpoint):
    """ModelCheckpoint whose `last.ckpt` is also written at the end of the run and when the process is asked to stop (SIGTERM)."""

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """A run continues at whole optimiser steps: forget the batches of an unfinished one (their gradients are not saved)."""
        checkpoint["figures"] = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(FIGURES)}
        checkpoint["callbacks"].pop("Timer", None)  # trainer.max_time is that of a job, not of all the jobs that continue a run
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        unfinished = progress["current"]["ready"] % trainer.accumulate_grad_batches
        if unfinished:
            for count in (progress["total"], progress["current"]):
                count |= dict.fromkeys(("ready", "started", "processed", "completed"), count["ready"] - unfinished)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *args, **kwargs)
        if trainer.received_sigterm:
            self._save_last(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, SIGTERMException):
            self._save_last(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save_last(trainer)

    def _save_last(self, trainer: L.Trainer) -> None:
        if self.save_last and not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))


class LoraCheckpoint(SafeCheckpoint):
    """Writes the adapter beside every checkpoint, in the format of diffusers: its moving average, where one is kept.

    Args:
        comfyui: write it for ComfyUI as well.
        options: of ModelCheckpoint.
    """

    def __init__(self, *, comfyui: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._comfyui = comfyui

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        if trainer.is_global_zero:  # first, so that no checkpoint stands without its adapter
            averages = [callback for callback in trainer.callbacks if isinstance(callback, WeightAverage)]
            with averages[0].averaged() if averages else nullcontext():
                self._save_lora(trainer, lora_folder(filepath))
        super()._save_checkpoint(trainer, filepath)

    def _save_lora(self, trainer: L.Trainer, folder: Path) -> None:
        try:
            trainer.lightning_module.backbone.save_lora(folder, self._comfyui)
        except SafetensorError as error:
            raise UserError(f"the adapter {folder} cannot be written ({error}): make room there, or write elsewhere.") from error

    def _remove_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        super()._remove_checkpoint(trainer, filepath)
        if trainer.is_global_zero:
            shutil.rmtree(lora_folder(filepath), ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename in this folder last through a power cut (POSIX; elsewhere there is nothing to open)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
