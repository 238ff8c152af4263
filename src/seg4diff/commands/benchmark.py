"""Several evaluations in one run, with the paper's figures beside ours: `python evaluate.py benchmark=paper ckpt=...`."""

import copy
import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from seg4diff.backbones.base import Backbone
from seg4diff.backbones.lora_files import lora_file
from seg4diff.commands.inherit import chosen, inherit, other_base, refuse_idle
from seg4diff.commands.keys import keys_named
from seg4diff.commands.outputs import run_folder
from seg4diff.commands.run import READING, build_all, evaluate_module, load_lora, needed_splits, record, seed_everything
from seg4diff.commands.trainers import open_trainer, trainer_precision
from seg4diff.commands.values import check_values
from seg4diff.data.datamodule import SegmentationDataModule
from seg4diff.disk import read_json, to_json, write_json
from seg4diff.errors import UserError
from seg4diff.evaluation.comparison import Entry, print_table, write_table
from seg4diff.evaluation.report import Report, read_metrics
from seg4diff.presets import plain

log = logging.getLogger(__name__)

LOADING = ("batch_size", "eval_batch_size", "num_workers")
"""Keys of a data configuration that change how fast a score is there, and not the score."""


def evaluate_benchmarks(config: DictConfig) -> dict[str, Any]:
    """Evaluate base and LoRA on every entry of `config.benchmark`, each into a folder of its own.

    Started again by the same command with the same hydra.run.dir, it goes on where it was stopped: finished entries are taken from
    their folders, and the one that was running continues with the images that it had not counted.

    Args:
        config: composed from conf/evaluate.yaml.

    Returns:
        The content of metrics.json.
    """
    if idle := [own.key_or_group for own in chosen(config) if own.key_or_group.split(".")[0] in ("data", "evaluation")]:
        raise UserError(f"{idle[0]} has no effect with benchmark=, whose entries have their own: set benchmark.<name>.{idle[0]} instead.")
    lora, trained_for = inherit(config)
    check_values(config)
    with keys_named(config), run_folder(Path(config.paths.output_dir)):
        return _evaluate_entries(config, lora, trained_for)


def _evaluate_entries(config: DictConfig, lora: Path | None, trained_for: int | None) -> dict[str, Any]:
    output_dir = Path(config.paths.output_dir)
    entries = {name: entry_config(config, name) for name in config.benchmark}
    _check_used(config, "geometry", [entry.data.geometry for entry in entries.values()])
    _check_used(config, "protocol", [entry.evaluation.get("protocol") for entry in entries.values()])
    if all("reader" not in entry.evaluation for entry in entries.values()):
        refuse_idle(config, READING, "segmentation without words: leave it out with this benchmark")
    data, backbone = build_all([own.data for own in config.benchmark.values()], config.backbone.model, needed_splits(config))
    load_lora(config, backbone, lora, trained_for)
    record(config, output_dir)
    reports = {}
    for (name, entry), source in zip(entries.items(), data, strict=True):
        identity = identify(entry, lora)
        identity["runtime"]["dtype"] = str(backbone.dtype).removeprefix("torch.")  # not "auto": another machine may take another
        report = finished_report(Path(entry.paths.output_dir), identity)
        if report is None:
            log.info("benchmark %s: %s", name, config.benchmark[name].title)
            report = _run_entry(entry, identity, backbone, source, other_base(config, lora))
        else:
            log.info("benchmark %s: finished before, taken from %s", name, entry.paths.output_dir)
        reports[name] = report
    return _conclude(config, output_dir, reports)


def _check_used(config: DictConfig, key: str, values: list[str]) -> None:
    if key in [own.key_or_group for own in chosen(config)] and config[key] not in values:
        raise UserError(f"{key}={config[key]} has no effect: every entry of this benchmark has its own, {', '.join(map(str, values))}.")


def entry_config(config: DictConfig, name: str) -> DictConfig:
    """The configuration of one entry: that of an evaluation by itself."""
    entry = copy.deepcopy(config)
    entry.data, entry.evaluation = entry.benchmark[name].data, entry.benchmark[name].evaluation
    entry.paths.output_dir, entry.task_name = f"{config.paths.output_dir}/{name}", f"{config.task_name}-{name}"
    OmegaConf.set_struct(entry, False)
    entry.pop("benchmark")
    return entry


def identify(entry: DictConfig, lora: Path | None) -> dict[str, Any]:
    """Everything that the scores of an entry depend on, as plain values."""
    whole = plain(entry)
    runtime = whole["backbone"]["model"].pop("runtime", {})
    identity = {key: whole[key] for key in ("split", "expert_layer", "backbone", "evaluation")}
    identity["data"] = {key: value for key, value in whole["data"].items() if _is_limited(entry) or key not in LOADING}
    identity["runtime"] = {"quantize": runtime.get("quantize")}
    identity["trainer"] = {"precision": trainer_precision(entry), "limit_test_batches": whole["trainer"].get("limit_test_batches")}
    if lora is not None:
        file = lora_file(lora)
        assert file is not None, "it has been loaded"
        identity["lora"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return identity


def _is_limited(entry: DictConfig) -> bool:
    """Whether only some batches are evaluated, so that their size says which images: 1 is one batch, 1.0 is all of them."""
    limit = entry.trainer.get("limit_test_batches")
    return limit is not None and not (isinstance(limit, float) and limit == 1.0)


def finished_report(folder: Path, identity: dict[str, Any]) -> Report | None:
    """The report of an entry that was finished earlier, or None.

    Raises:
        UserError: the folder belongs to another setting, or to an earlier version.
    """
    if not (folder / "identity.json").is_file():
        if (folder / "metrics.json").exists() or (folder / "progress").exists():
            raise UserError(
                f"{folder} holds scores without a record of their setting: choose another hydra.run.dir, or delete that folder."
            )
    else:
        earlier, ours = read_json(folder / "identity.json", f"delete {folder}"), json.loads(to_json(identity))
        if odd := sorted(key for key in earlier.keys() | ours.keys() if earlier.get(key) != ours.get(key)):
            raise UserError(
                f"{folder} holds scores of another setting ({', '.join(odd)} differ): choose another hydra.run.dir, or delete that folder."
            )
    return Report.of_metrics(read_metrics(folder / "metrics.json")) if (folder / "metrics.json").is_file() else None


def _run_entry(
    entry: DictConfig, identity: dict[str, Any], backbone: Backbone, data: SegmentationDataModule, bases: tuple[str, str] | None
) -> Report:
    folder = Path(entry.paths.output_dir)
    seed_everything(entry.seed)
    with open_trainer(entry) as trainer:
        if rank_zero_only.rank == 0:
            write_json(folder / "identity.json", identity)
        record(entry, folder)
        progress = None if _is_limited(entry) else folder / "progress"  # the limit would count from where an evaluation goes on
        report = evaluate_module(entry, trainer, backbone, data, progress_folder=progress, bases=bases)
        if trainer.is_global_zero:
            write_json(folder / "metrics.json", report.metrics())
            shutil.rmtree(folder / "progress", ignore_errors=True)
    return report


def _conclude(config: DictConfig, output_dir: Path, reports: dict[str, Report]) -> dict[str, Any]:
    """One table and one plot over all entries."""
    entries = [
        Entry(
            name=name,
            title=entry.title,
            geometry=entry.data.geometry,
            report=reports[name],
            paper={} if reports[name].reading else plain(entry.paper, resolve=False).get(config.backbone.get("paper"), {}),
        )
        for name, entry in config.benchmark.items()
    ]
    metrics = {"ckpt": str(config.ckpt), "split": config.split, "benchmarks": {name: report.metrics() for name, report in reports.items()}}
    for name, own in metrics["benchmarks"].items():
        metrics |= {key: own[key] for key in ("base_model", "lora/base_model") if key in own}
        metrics |= {f"{name}/{key}": own[key] for key in ("base/miou", "lora/miou") if key in own}
    if rank_zero_only.rank == 0:
        print_table(entries, config.backbone.get("paper"))
        write_table(entries, output_dir)
        write_json(output_dir / "metrics.json", metrics)
        log.info("the table, the plot and a folder for every benchmark are in %s", output_dir)
    return metrics
