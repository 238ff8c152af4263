"""Turn a resolved configuration into a run. Only this module, its neighbours and the root scripts know Hydra."""

import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
from hydra.utils import get_object
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from seg4diff.backbones.base import Backbone
from seg4diff.backbones.loading import quiet_hosts
from seg4diff.backbones.lora import adapted_blocks
from seg4diff.backbones.pipeline import PipelineBackbone
from seg4diff.commands.arguments import command_line
from seg4diff.commands.expert import settle_expert
from seg4diff.commands.inherit import inherit, other_base, refuse_idle
from seg4diff.commands.keys import keys_named, naming
from seg4diff.commands.outputs import requeued, run_folder
from seg4diff.commands.resume import check_same_run, settings
from seg4diff.commands.trainers import build, make_trainer, open_trainer, running
from seg4diff.commands.values import check_values, constructor_kinds
from seg4diff.data.datamodule import SegmentationDataModule
from seg4diff.data.source import SPLITS
from seg4diff.disk import whole_file, write_json, write_text
from seg4diff.errors import UserError, rename
from seg4diff.evaluation.display import print_report, write_report
from seg4diff.evaluation.progress import Progress
from seg4diff.evaluation.report import Report, numbers
from seg4diff.loggers import log_figures, log_picture
from seg4diff.provenance import provenance
from seg4diff.tiny.measurement import GenerationEvaluation
from seg4diff.training.checkpoints import FIGURES, read_checkpoint
from seg4diff.training.magnet import MagnetModule

log = logging.getLogger(__name__)

READING = ("reader", "presence", "refine")
"""Groups that say how maps of words are read."""


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
    settle_expert(config, None)
    check_values(config)
    check_recipe()
    if measures_images(config):
        raise UserError("images are measured after the training: leave evaluation= out, then run evaluate.py with it and ckpt=<the run>.")
    with keys_named(config), run_folder(Path(config.paths.output_dir), config.ckpt_path) as checkpoint:
        return _train(config, Path(config.paths.output_dir), checkpoint)


def _train(config: DictConfig, output_dir: Path, ckpt_path: str | None) -> dict[str, Any]:
    checkpoint = None if ckpt_path is None else read_checkpoint(ckpt_path)
    seed_everything(config.seed)
    (data,), module = build_all([config.data], config.model)
    idle = {name: value for name, value in config.runtime.items() if name not in ("_target_", "dtype", "preferred")}
    if "runtime" not in config.backbone.model and any(idle.values()):
        raise UserError("runtime.* is for pretrained backbones, and this one is built from scratch: leave it as it is.")
    trainer = make_trainer(config)
    images = config.data.batch_size * trainer.world_size * trainer.accumulate_grad_batches
    present = settings(config, images, trainer.precision, {weight.dtype for weight in module.parameters()})
    module.save_hyperparameters(present, logger=False)
    if checkpoint is None and trainer.is_global_zero:
        log.info("starting a new run in %s", output_dir)
    if checkpoint is not None and ckpt_path is not None:
        check_same_run(Path(ckpt_path), checkpoint, present, trainer.max_steps)
    if config.get("evaluation") is not None:  # what is wrong with it is said before the training
        build(config.evaluation, backbone=module.backbone, vocabulary=data.vocabulary)
    with running(config, trainer):
        record(config, output_dir)
        if checkpoint is None and config.validate_first:
            trainer.validate(module, data, verbose=False)
        trainer.fit(module, data, ckpt_path=ckpt_path)
        if trainer.is_global_zero:
            for left in requeued(output_dir):
                left.unlink()  # the test would load it
        trainer.strategy.barrier()
        metrics = {"seed": config.seed, "steps": trainer.global_step} | figures(trainer, checkpoint)
        if config.get("evaluation") is not None:
            metrics |= evaluate_module(config, trainer, module.backbone, data).metrics()
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
    if "reader" not in config.evaluation:
        refuse_idle(config, READING, "segmentation without words: leave it out with this evaluation")
    lora, trained_for = inherit(config)
    check_values(config)
    output_dir = Path(config.paths.output_dir)
    with keys_named(config), run_folder(output_dir):
        seed_everything(config.seed)
        (data,), backbone = build_all([config.data], config.backbone.model, needed_splits(config))
        load_lora(config, backbone, lora, trained_for)
        with open_trainer(config) as trainer:
            record(config, output_dir)
            metrics = {"ckpt": str(config.ckpt), "split": config.split}
            metrics |= evaluate_module(config, trainer, backbone, data, bases=other_base(config, lora)).metrics()
            if trainer.is_global_zero:
                write_json(output_dir / "metrics.json", metrics)
                log.info("table, overlays and metrics.json are in %s", output_dir)
    return metrics


def measures_images(config: DictConfig) -> bool:
    """Whether the evaluation that is chosen draws images, and needs no data set; see `seg4diff.commands.measure`."""
    chosen = config.get("evaluation")
    return chosen is not None and get_object(chosen._target_) is GenerationEvaluation


def load_lora(config: DictConfig, backbone: Backbone, lora: Path | None, trained_for: int | None) -> None:
    """Put the LoRA on the model; the block that is evaluated must be one that it adapts, or the one that its run aligned."""
    if lora is None:
        return
    if other := other_base(config, lora):
        log.warning("the LoRA %s was trained on %s, and this is %s", lora, *reversed(other))
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
    settle_expert(config, None)
    check_values(config)
    if config.runtime.cache is None:
        raise UserError("mode=encode needs a folder to fill: set runtime.cache=<folder>, and train with the same.")
    if "runtime" not in config.backbone.model:
        raise UserError("mode=encode needs a pretrained backbone: this one is built from scratch, its encoders are not trained yet.")
    OmegaConf.set_struct(config, False)
    config.callbacks, config.logger = {"progress": (config.get("callbacks") or {}).get("progress")}, None
    (data,), module = build_all([config.data], config.model)
    if not isinstance(module, MagnetModule) or not isinstance(module.backbone, PipelineBackbone):
        raise UserError("mode=encode encodes what mask alignment needs: choose an experiment with model=magnet.")
    with keys_named(config), open_trainer(config) as trainer:
        trainer.predict(module, data, return_predictions=False)
    held = module.backbone.encodings_held()
    log.info("%s holds %d images and %d prompts: train with runtime.cache=%s", config.runtime.cache, *held.values(), config.runtime.cache)
    return held


def evaluate_module(
    config: DictConfig,
    trainer: L.Trainer,
    backbone: Backbone,
    data: SegmentationDataModule,
    progress_folder: Path | None = None,
    bases: tuple[str, str] | None = None,
) -> Report:
    """Test base (and LoRA, where there is one); rank 0 prints the table, writes report, table and plot, and sends them to the loggers.

    With a `progress_folder` the counts are kept there from time to time, and a test that was stopped goes on from them; for `bases`, see
    `other_base`.
    """
    progress = None if progress_folder is None else Progress(progress_folder, trainer.global_rank, trainer.world_size)
    data.test_from(0 if progress is None else progress.images)
    images = (config.evaluation.get("presence") or {}).get("images")  # of a calibration; segmentation without words has no presence
    given = {} if images is None else {"unlabelled": data.unlabelled(images)}
    evaluation = build(config.evaluation, backbone=backbone, vocabulary=data.vocabulary, progress=progress, **given)
    trainer.test(evaluation, data, verbose=False)
    report = evaluation.report
    assert report is not None, "the test loop is over"
    if bases is not None and report.lora is not None:
        report = replace(report, base_model=bases[0], lora=replace(report.lora, base_model=bases[1]))
    if trainer.is_global_zero:
        print_report(report)
        picture = write_report(report, Path(config.paths.output_dir))
        log_figures(trainer.loggers, numbers(report.metrics()), trainer.global_step)
        if picture is not None:
            log_picture(trainer.loggers, "blocks", picture, trainer.global_step)
    return report


def needed_splits(config: DictConfig) -> list[str]:
    """The splits that an evaluation reads: its own, and the training images of a calibration."""
    return [config.split] if config.presence.get("images") is None else [config.split, "train"]


def build_all(
    data_configs: Sequence[DictConfig], model_config: DictConfig, splits: Sequence[str] = SPLITS
) -> tuple[list[SegmentationDataModule], Any]:
    """Build data and model; one message names everything that is missing.

    Args:
        data_configs: the node of each data set.
        model_config: the module or the backbone.
        splits: those that must be there.
    """
    quiet_hosts()
    data, errors = [], defaultdict(list)
    for node in data_configs:
        try:
            data.append(_prepared(node, splits))
        except UserError as error:
            errors[str(error)].append(node)
    try:
        model = build_model(model_config, data[0] if data else None)
    except UserError as error:
        errors[str(error)].append(model_config)
    if errors:
        raise UserError("\n       ".join(rename(message, naming(*nodes)) for message, nodes in errors.items()))
    return data, model


def build_model(config: DictConfig, data: SegmentationDataModule | None) -> Any:
    """The module, with the classes of its data set where it takes them, or the backbone.

    Without the data set that a module needs, its backbone is built, to say what is missing for that.
    """
    if "vocabulary" not in constructor_kinds(config._target_):
        return build(config)
    return build(config.backbone) if data is None else build(config, vocabulary=data.vocabulary)


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
                with whole_file(file.with_stem(f"{file.stem}-earlier-{earlier}")) as copy:  # a kill at any moment leaves a config.yaml
                    shutil.copyfile(file, copy)
        write_text(output_dir / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
        write_json(output_dir / "provenance.json", provenance())


def figures(trainer: L.Trainer, checkpoint: Mapping[str, Any] | None) -> dict[str, float]:
    """The last figures of training and validation; where this start took no step, those that the checkpoint holds."""
    kept = (checkpoint or {}).get("figures", {})
    return kept | {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(FIGURES)}
