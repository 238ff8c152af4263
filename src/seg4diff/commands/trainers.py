"""A node of the configuration becomes an object; the trainer becomes one that is stopped and closed as it should be."""

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig, OmegaConf

from seg4diff.backbones.runtime import choose_precision, own_device
from seg4diff.commands.console import INTERRUPTED, interruptible
from seg4diff.commands.values import check_values
from seg4diff.errors import UserError
from seg4diff.loggers import finished

log = logging.getLogger(__name__)


def build(config: DictConfig, **given: Any) -> Any:
    """Instantiate a node, with some arguments given; an error that the user can fix comes out as itself."""
    check_values(config)
    try:
        made = instantiate(config, _convert_="all", _partial_=bool(given))
    except InstantiationException as error:
        cause = error.__cause__
        if not isinstance(cause, UserError | OSError):
            raise
    else:
        return made(**given) if given else made  # not through Hydra, which makes dictionaries of dataclasses
    raise cause  # here, because above each would be what the other came from


@contextmanager
def open_trainer(config: DictConfig) -> Iterator[L.Trainer]:
    """The trainer with its loggers and callbacks; the loggers are closed at the end."""
    trainer = make_trainer(config)
    with running(config, trainer):
        yield trainer


def make_trainer(config: DictConfig) -> L.Trainer:
    """The trainer with its loggers and callbacks."""
    if config.trainer.precision in ("16-true", "bf16-true"):
        raise UserError(
            f"trainer.precision={config.trainer.precision}: weights in 16 bit are runtime.dtype; use 32-true, 16-mixed or bf16-mixed."
        )
    if config.trainer.get("val_check_interval") == 0:
        raise UserError("trainer.val_check_interval must be above 0: trainer.limit_val_batches=0 leaves validation out.")
    loggers = [build(node) for node in (config.get("logger") or {}).values() if node]
    callbacks = [build(node) for node in (config.get("callbacks") or {}).values() if node]
    if not loggers:
        callbacks = [callback for callback in callbacks if not isinstance(callback, LearningRateMonitor)]  # it insists on a logger
    trainer = _build_trainer(config.trainer, precision=trainer_precision(config), logger=loggers, callbacks=callbacks)
    if trainer.world_size > 1 and _in_sweep() and not trainer.strategy.cluster_environment.creates_processes_externally:
        raise UserError("a sweep runs one process per job here: use trainer.devices=1, or start each job with torchrun or Slurm.")
    return trainer


def trainer_precision(config: DictConfig) -> str | int:
    """What autocast computes in; "auto" = the model's own precision where the device computes fast in it, else 32-true."""
    if config.trainer.precision != "auto":
        return config.trainer.precision
    return choose_precision(config.backbone.precision, "cpu" if config.trainer.accelerator == "cpu" else own_device())


def _build_trainer(config: DictConfig, **given: Any) -> L.Trainer:
    """The trainer; values that Lightning refuses are of the configuration, whatever the class of its error."""
    try:
        return build(config, **given)
    except (UserError, OSError):
        raise
    except Exception as error:
        reason = error.__cause__ if isinstance(error, InstantiationException) else error
        raise UserError(f"Lightning refuses a value of trainer.*: {' '.join(str(reason).split())}") from error


@contextmanager
def running(config: DictConfig, trainer: L.Trainer) -> Iterator[None]:
    """What surrounds the work of a trainer: the settings go to its loggers, which are closed at the end; SIGTERM and Ctrl-C stop it."""

    def stops_on_sigterm() -> bool:
        return trainer.training or trainer.validating or trainer.testing

    with finished(trainer.loggers), interruptible(stops_on_sigterm) as pressed:
        for logger in trainer.loggers:
            logger.log_hyperparams(OmegaConf.to_container(config, resolve=True))
        try:
            yield
        except SIGTERMException:
            if not trainer.is_global_zero:
                raise  # with exit code 0: on any other, Lightning kills the process that may still be writing
            goes_on = "a training goes on with ckpt_path=last and the same hydra.run.dir, a benchmark with the same hydra.run.dir"
            log.warning("stopped by %s at step %d; %s", "Ctrl-C" if pressed else "SIGTERM", trainer.global_step, goes_on)
            raise SystemExit(INTERRUPTED if pressed else 128 + signal.SIGTERM) from None


def _in_sweep() -> bool:
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
