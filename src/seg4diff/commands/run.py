"""Turn a resolved configuration into a run. Only this module, its neighbours and the root scripts know Hydra."""

import logging
import os
import signal
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from seg4diff.backbones.base import Backbone
from seg4diff.backbones.lora import adapted_blocks
from seg4diff.backbones.runtime import choose_precision, own_device
from seg4diff.commands.inherit import command_line, inherit
from seg4diff.commands.outputs import check_output_dir, checkpoint_of
from seg4diff.commands.values import check_values
from seg4diff.data.datamodule import SegmentationDataModule
from seg4diff.data.source import SPLITS
from seg4diff.disk import write_json, write_text
from seg4diff.errors import UserError
from seg4diff.evaluation.report import print_report, write_report
from seg4diff.loggers import finished
from seg4diff.provenance import provenance
from seg4diff.training.checkpoints import read_checkpoint
from seg4diff.training.magnet import MagnetModule

log = logging.getLogger(__name__)


def build(config: DictConfig, **given: Any) -> Any:
    """Instantiate a node, with some arguments given; an error that the user can mend comes out as itself."""
    check_values(config)
    try:
        return instantiate(config, **given, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if not isinstance(cause, UserError | OSError):
            raise
    raise cause  # here, because above each would be what the other came from


def seed_everything(seed: int) -> None:
    """Seed what draws without a generator of its own, also in loader processes."""
    if not 0 <= seed < 2**32:
        raise UserError(f"seed must be in 0..{2**32 - 1}, found {seed}.")
    L.seed_everything(seed, workers=True, verbose=False)


def check_recipe() -> None:
    """Refuse a model that is chosen without a recipe: the default experiment is for the tiny model."""
    typed = {override.key_or_group: override.value() for override in command_line()}
    if "experiment" in typed:
        return
    if "backbone" in typed:
        raise UserError(
            f"backbone={typed['backbone']} needs a recipe: add experiment=coco_lora (the paper's; data= may be another) or "
            "experiment=quickstart (the tiny model's)."
        )
    if "data" in typed:
        log.info("data=%s by the default experiment: the tiny model and its recipe; experiment=coco_lora is the paper's", typed["data"])


def train(config: DictConfig) -> dict[str, Any]:
    """Train, then evaluate base and LoRA on the test split where the configuration asks for it.

    Args:
        config: composed from conf/train.yaml.

    Returns:
        The content of metrics.json.
    """
    check_values(config)
    check_recipe()
    output_dir = Path(config.paths.output_dir)
    checkpoint = checkpoint_of(output_dir, config.ckpt_path)
    check_output_dir(output_dir, checkpoint)
    if checkpoint is not None:
        read_checkpoint(checkpoint)
    seed_everything(config.seed)
    (data,), module = build_all({"data": config.data}, config.model)
    idle = {name: value for name, value in config.runtime.items() if name not in ("_target_", "dtype", "preferred")}
    if "runtime" not in config.backbone.model and any(idle.values()):
        raise UserError("runtime.* is for pretrained backbones, and this one is built from scratch: leave it as it is.")
    with open_trainer(config) as trainer:
        record(config, output_dir)
        if checkpoint is None and config.validate_first:
            trainer.validate(module, data, verbose=False)
        trainer.fit(module, data, ckpt_path=checkpoint)
        if trainer.is_global_zero:
            for left in output_dir.glob("hpc_ckpt_*.ckpt"):
                left.unlink()  # of a requeue by Slurm; the test would load it
        trainer.strategy.barrier()
        metrics: dict[str, Any] = {"seed": config.seed, "steps": trainer.global_step}
        metrics |= {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(("train/", "val/"))}
        if config.get("evaluation") is not None:
            metrics |= evaluate_module(config, trainer, module.backbone, data)
        if trainer.is_global_zero:
            write_json(output_dir / "metrics.json", metrics)
            log.info("everything about this run is in %s", output_dir)
    return metrics


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Evaluate the base model, and the LoRA that `config.ckpt` names beside it.

    Args:
        config: composed from conf/evaluate.yaml.

    Returns:
        The content of metrics.json.
    """
    lora, trained_for = inherit(config)
    check_values(config)
    output_dir = Path(config.paths.output_dir)
    check_output_dir(output_dir, None)
    seed_everything(config.seed)
    (data,), backbone = build_all({"data": config.data}, config.backbone.model, [config.split])
    load_lora(config, backbone, lora, trained_for)
    with open_trainer(config) as trainer:
        record(config, output_dir)
        report = {"ckpt": str(config.ckpt), "split": config.split} | evaluate_module(config, trainer, backbone, data)
        if trainer.is_global_zero:
            write_json(output_dir / "metrics.json", report)
            log.info("table, overlays and metrics.json are in %s", output_dir)
    return report


def load_lora(config: DictConfig, backbone: Backbone, lora: Path | None, trained_for: int | None) -> None:
    """Put the LoRA on the model; the block that is evaluated must be one that it adapts, or the one that its run aligned."""
    if lora is None:
        return
    backbone.load_lora(lora)
    if config.expert_layer not in [*adapted_blocks(backbone), trained_for]:
        raise UserError(
            f"the LoRA {lora} adapts the blocks {adapted_blocks(backbone)}, expert_layer is {config.expert_layer}: evaluate the block "
            "it was trained for."
        )


def encode(config: DictConfig) -> dict[str, Any]:
    """Fill `runtime.cache` with the text embeddings and latents of every split, so that training needs no encoder.

    Args:
        config: composed from conf/train.yaml; its loggers and its callbacks but the progress bar are left out.

    Returns:
        The number of images and prompts that the cache holds.
    """
    check_values(config)
    if config.runtime.cache is None:
        raise UserError("encode.py needs a folder to fill: set runtime.cache=<folder>, and give train.py the same.")
    if "runtime" not in config.backbone.model:
        raise UserError("encode.py needs a pretrained backbone: this one is built from scratch, and its encoders are still to be trained.")
    OmegaConf.set_struct(config, False)
    config.callbacks, config.logger = {"progress": (config.get("callbacks") or {}).get("progress")}, None
    (data,), module = build_all({"data": config.data}, config.model)
    if not isinstance(module, MagnetModule):
        raise UserError("encode.py encodes what mask alignment needs: choose an experiment with model=magnet.")
    with open_trainer(config) as trainer:
        trainer.predict(module, data, return_predictions=False)
    held = {kind: len(list((Path(config.runtime.cache) / kind).rglob("*.safetensors"))) for kind in ("image", "text")}
    log.info("%s holds %d images and %d prompts: train with runtime.cache=%s", config.runtime.cache, *held.values(), config.runtime.cache)
    return held


def evaluate_module(
    config: DictConfig, trainer: L.Trainer, backbone: Backbone, data: SegmentationDataModule, progress_folder: Path | None = None
) -> dict[str, Any]:
    """Test base (and LoRA, where there is one); rank 0 prints the table and writes report, table and plot.

    With a `progress_folder`, see `SplitEvaluation`.
    """
    evaluation = build(config.evaluation, backbone=backbone)
    evaluation.progress_folder = progress_folder
    trainer.test(evaluation, data, verbose=False)
    if trainer.is_global_zero:
        print_report(evaluation.report)
        write_report(evaluation.report, Path(config.paths.output_dir))
    return evaluation.report


def build_all(
    data_configs: Mapping[str, DictConfig], model_config: DictConfig, splits: Sequence[str] = SPLITS
) -> tuple[list[SegmentationDataModule], Any]:
    """Build data and model; what is missing for any of them is said in one message.

    Args:
        data_configs: the node of each data set, by where it stands in the configuration, e.g. "data" or "benchmark.voc20.data".
        model_config: the module or the backbone.
        splits: those that must be there.
    """
    makers = {place: partial(_prepared, node, splits) for place, node in data_configs.items()} | {"": partial(build, model_config)}
    built, errors = [], defaultdict(list)
    for place, make in makers.items():
        try:
            built.append(make())
        except UserError as error:
            errors[str(error)].append(place)
    if errors:
        raise UserError("\n       ".join(message + _where(places) for message, places in errors.items()))
    return built[:-1], built[-1]


def _where(places: list[str]) -> str:
    """Messages speak of `data`; in a benchmark that is the data of its entries."""
    elsewhere = [place for place in places if place not in ("", "data")]
    return f" (Here data is {', '.join(elsewhere)}.)" if elsewhere else ""


def _in_sweep() -> bool:
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def _prepared(config: DictConfig, splits: Sequence[str]) -> SegmentationDataModule:
    data = build(config)
    if int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0))) == 0:  # once per machine
        data.source.prepare(splits)
    return data


def record(config: DictConfig, output_dir: Path) -> None:
    """Save the resolved configuration, versions and git revision; where a run is continued, the earlier ones stay beside them."""
    if rank_zero_only.rank == 0:
        output_dir.mkdir(parents=True, exist_ok=True)
        earlier = len(list(output_dir.glob("config*.yaml")))
        for file in (output_dir / "config.yaml", output_dir / "provenance.json"):
            if file.exists():
                file.rename(file.with_stem(f"{file.stem}-earlier-{earlier}"))
        write_text(output_dir / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
        write_json(output_dir / "provenance.json", provenance())


def trainer_precision(config: DictConfig) -> str | int:
    """What autocast computes in; "auto" = the model's own precision where the device computes fast in it, else 32-true."""
    if config.trainer.precision != "auto":
        return config.trainer.precision
    return choose_precision(config.backbone.precision, "cpu" if config.trainer.accelerator == "cpu" else own_device())


def _build_trainer(config: DictConfig, **given: Any) -> L.Trainer:
    """The trainer; values that Lightning refuses are of the configuration, whatever the class of its error."""
    try:
        return build(config, **given)
    except InstantiationException as error:
        raise UserError(f"Lightning refuses a value of trainer.*: {' '.join(str(error.__cause__).split())}") from error


@contextmanager
def open_trainer(config: DictConfig) -> Iterator[L.Trainer]:
    """The trainer with its loggers and callbacks; the loggers are closed at the end."""
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
    with finished(loggers):
        for logger in loggers:
            logger.log_hyperparams(OmegaConf.to_container(config, resolve=True))
        try:
            yield trainer
        except SIGTERMException:
            if not trainer.is_global_zero:
                raise  # with exit code 0: on any other, Lightning kills the process that may still be writing
            goes_on = "a training goes on with ckpt_path=last and the same hydra.run.dir, a benchmark with the same hydra.run.dir"
            log.warning("stopped by SIGTERM at step %d; %s", trainer.global_step, goes_on)
            raise SystemExit(128 + signal.SIGTERM) from None
