"""`python evaluate.py evaluation=generation`: what base and LoRA draw; docs/generate.md shows how."""

import logging
from pathlib import Path
from typing import Any

import lightning as L
from omegaconf import DictConfig

from seg4diff.backbones.base import Backbone
from seg4diff.backbones.loading import quiet_hosts
from seg4diff.backbones.pipeline import PipelineBackbone
from seg4diff.commands.drawing import lora_hash
from seg4diff.commands.inherit import inherit, refuse_idle
from seg4diff.commands.keys import keys_named
from seg4diff.commands.outputs import process_share, run_folder
from seg4diff.commands.run import load_lora, record, seed_everything
from seg4diff.commands.trainers import build, open_trainer
from seg4diff.commands.values import check_values
from seg4diff.disk import save_picture, write_json
from seg4diff.errors import UserError
from seg4diff.evaluation.report import numbers
from seg4diff.loggers import log_figures, log_picture
from seg4diff.tiny.report import plot, print_report, write_table

log = logging.getLogger(__name__)

IDLE = ("data", "split", "protocol", "geometry", "reader", "presence", "refine")
"""Keys that say which images of a data set are segmented, and how."""


def evaluate_generation(config: DictConfig) -> dict[str, Any]:
    """Draw and measure images of the base model, and of the LoRA that `config.ckpt` names beside it.

    Started again by the same command with the same hydra.run.dir, it goes on where it was stopped.

    Args:
        config: composed from conf/evaluate.yaml.

    Returns:
        The content of metrics.json.
    """
    refuse_idle(config, IDLE, "images that are drawn: leave it out with this evaluation, which needs no data set")
    lora, trained_for = inherit(config)
    check_values(config)
    output_dir = Path(config.paths.output_dir)
    with keys_named(config), run_folder(output_dir):
        _check_one_process(process_share()[1])
        seed_everything(config.seed)
        quiet_hosts()
        backbone = build(config.backbone.model)
        load_lora(config, backbone, lora, trained_for)
        with open_trainer(config) as trainer:
            _check_one_process(trainer.world_size)
            _place(backbone, trainer)
            evaluation = build(config.evaluation, backbone=backbone)
            answers = evaluation.open_record(output_dir, _identify(backbone, lora))
            record(config, output_dir)
            report = evaluation.run(answers)
            print_report(report)
            write_table(report, output_dir / "categories.csv")
            metrics = {"ckpt": str(config.ckpt)} | report.metrics()
            pictures = {"generation": plot(report), "examples": evaluation.examples()}
            log_figures(trainer.loggers, numbers(report.metrics()), trainer.global_step)
            for name, picture in pictures.items():
                save_picture(picture, output_dir / f"{name}.png")
                log_picture(trainer.loggers, name, picture, trainer.global_step)
            write_json(output_dir / "metrics.json", metrics)
            log.info("table, plot, example images and metrics.json are in %s", output_dir)
    return metrics


def _check_one_process(processes: int) -> None:
    if processes > 1:
        raise UserError(f"images are measured in one process, and here are {processes}: start it without torchrun or srun, on one device.")


def _place(backbone: Backbone, trainer: L.Trainer) -> None:
    """Move the model to the device of the trainer."""
    backbone.check_device(trainer.strategy.root_device)
    backbone.to(trainer.strategy.root_device)


def _identify(backbone: Backbone, lora: Path | None) -> dict[str, Any]:
    """The model and its LoRA, as plain values."""
    if not isinstance(backbone, PipelineBackbone) or backbone.source is None:
        raise UserError("a model that is built from scratch has learnt nothing that could be measured: choose a pretrained backbone.")
    dtype = str(backbone.dtype).removeprefix("torch.")
    weights = backbone.source.stamp(["transformer", "scheduler", *backbone.encoders])  # a model may be replaced in its place
    own = {"weights": weights, "dtype": dtype, "quantize": backbone.runtime.quantize, "lora": lora_hash(lora)}
    return backbone.source.identity() | own | backbone.encoding()
