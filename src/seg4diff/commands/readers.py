"""`python evaluate.py benchmark=readers`: every reader with every refinement under every protocol, on one data set."""

import logging
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig

from seg4diff.commands.inherit import inherit, refuse_idle
from seg4diff.commands.keys import keys_named
from seg4diff.commands.outputs import run_folder
from seg4diff.commands.run import build_all, load_lora, record, seed_everything
from seg4diff.commands.trainers import build, open_trainer
from seg4diff.commands.values import check_values
from seg4diff.disk import save_picture, write_json
from seg4diff.errors import UserError
from seg4diff.evaluation.mixture import MixtureFit
from seg4diff.evaluation.reader_table import print_readers, write_readers
from seg4diff.evaluation.readers import ReadersModule

log = logging.getLogger(__name__)

IDLE = ("evaluation", "reader", "presence", "refine", "protocol")
"""Keys that have no effect here."""


def compares_readers(config: DictConfig) -> bool:
    """Whether `config.benchmark` is the comparison of readers and no list of data sets.

    Raises:
        UserError: it is both.
    """
    entries = list(config.get("benchmark") or {})
    if "readers" in entries and len(entries) > 1:
        raise UserError(f"benchmark=readers stands alone: leave {', '.join(name for name in entries if name != 'readers')} out.")
    return "readers" in entries


def fits_mixture(config: DictConfig) -> bool:
    """Whether the evaluation that is chosen fits the weights of a mixture."""
    return config.get("evaluation") is not None and get_object(config.evaluation._target_) is MixtureFit


def fit_mixture(config: DictConfig) -> dict[str, Any]:
    """Fit the weights of reader=mixture; of the LoRA, where there is one.

    Args:
        config: composed from conf/evaluate.yaml with evaluation=mixture.

    Returns:
        The content of metrics.json.
    """
    refuse_idle(config, ("reader", "presence", "refine"), "a fit of reader=mixture: leave it out with this evaluation")
    if config.split == "test":
        raise UserError("the weights of a mixture are fitted on labels: add split=validation, so that nothing is fitted on the test split.")
    lora, trained_for = inherit(config)
    check_values(config)
    config.callbacks = {"progress": (config.get("callbacks") or {}).get("progress")}
    output_dir = Path(config.paths.output_dir)
    with keys_named(config), run_folder(output_dir):
        seed_everything(config.seed)
        (data,), backbone = build_all([config.data], config.backbone.model, [config.split])
        load_lora(config, backbone, lora, trained_for)
        with open_trainer(config) as trainer:
            if trainer.world_size > 1:
                raise UserError("the weights of a mixture are fitted in one process: set trainer.devices=1.")
            record(config, output_dir)
            module: MixtureFit = build(config.evaluation, backbone=backbone, vocabulary=data.vocabulary)
            trainer.test(module, data, verbose=False)
            metrics = {"ckpt": str(config.ckpt), "split": config.split, "weights": module.weights, "grid_miou": module.score}
            if trainer.is_global_zero:
                write_json(output_dir / "metrics.json", metrics)
                shown = ",".join(f"{block}:[{','.join(f'{weight:g}' for weight in own)}]" for block, own in module.weights.items())
                log.info(
                    "mIoU on the token grid of the %s split, whose labels the weights were fitted on, %.1f %%: reader=mixture "
                    "'reader.weights={%s}'",
                    config.split,
                    100 * module.score,
                    shown,
                )
    return metrics


def evaluate_readers(config: DictConfig) -> dict[str, Any]:
    """Evaluate base and LoRA with every reader.

    Args:
        config: composed from conf/evaluate.yaml with benchmark=readers.

    Returns:
        The content of metrics.json.
    """
    refuse_idle(config, IDLE, "benchmark=readers, which has readers, refinements and protocols of its own: set benchmark.readers.* instead")
    lora, trained_for = inherit(config)
    check_values(config)
    config.callbacks = {"progress": (config.get("callbacks") or {}).get("progress")}  # the others look at label maps of one reading
    output_dir, node = Path(config.paths.output_dir), config.benchmark.readers
    with keys_named(config), run_folder(output_dir):
        seed_everything(config.seed)
        calibrated = "calibrated" in node.protocols
        (data,), backbone = build_all([config.data], config.backbone.model, [config.split, *(["train"] if calibrated else [])])
        load_lora(config, backbone, lora, trained_for)
        with open_trainer(config) as trainer:
            record(config, output_dir)
            unlabelled = data.unlabelled(node.presence.images) if calibrated else ()
            module: ReadersModule = build(node, backbone=backbone, vocabulary=data.vocabulary, unlabelled=unlabelled)
            trainer.test(module, data, verbose=False)
            metrics = {"ckpt": str(config.ckpt), "split": config.split, "rows": module.rows, "refused": module.refused}
            if trainer.is_global_zero:
                print_readers(module.rows, module.refused)
                write_readers(module.rows, output_dir / "readers.csv")
                if module.page is not None:
                    save_picture(module.page, output_dir / "pictures" / "readers.png")
                write_json(output_dir / "metrics.json", metrics)
                log.info("table, pictures and metrics.json are in %s", output_dir)
    return metrics
