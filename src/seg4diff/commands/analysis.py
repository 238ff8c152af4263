"""`python analyze.py`: what every block of a model does with words, by several studies; docs/analyze.md shows how."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from seg4diff.analysis.display import print_verdict
from seg4diff.analysis.finder import find_expert
from seg4diff.analysis.module import AnalysisModule
from seg4diff.analysis.page import PAGE, write_report
from seg4diff.analysis.report import PICTURES, RESULT, figures, write_analysis, write_tables
from seg4diff.backbones.loading import quiet_hosts
from seg4diff.backbones.pipeline import PipelineBackbone
from seg4diff.commands.benchmark import LOADING
from seg4diff.commands.expert import identity_of
from seg4diff.commands.inherit import inherit, refuse_idle
from seg4diff.commands.keys import keys_named, naming
from seg4diff.commands.outputs import run_folder
from seg4diff.commands.run import build_all, load_lora, record, seed_everything
from seg4diff.commands.sweep import trained_blocks
from seg4diff.commands.trainers import build, open_trainer, trainer_precision
from seg4diff.commands.values import check_values
from seg4diff.disk import read_json, to_json, write_json
from seg4diff.errors import UserError, rename
from seg4diff.evaluation.progress import Progress
from seg4diff.generation.requests import prompts_of_file
from seg4diff.loggers import log_figures, log_picture
from seg4diff.presets import plain
from seg4diff.provenance import provenance

log = logging.getLogger(__name__)

IDLE = ("data", "split", "images")
"""Keys that say which images of a data set are analysed."""
IDENTITY = "identity.json"
"""What the counts of an unfinished analysis depend on."""


def analyze(config: DictConfig) -> dict[str, Any]:
    """Run the studies on the images of a split.

    Started again by the same command with the same hydra.run.dir, it goes on where it was stopped.

    Args:
        config: composed from conf/analyze.yaml.

    Returns:
        The content of analysis.json.
    """
    if config.prompts is not None:
        refuse_idle(config, IDLE, "images that are generated: leave it out with prompts=")
        config.analysis.trials.exact = None  # it knows prompts of its own alone
    trained = {} if config.layer_sweep is None else trained_blocks(Path(config.layer_sweep))
    lora, trained_for = inherit(config)
    OmegaConf.update(config, "data.test_images", "${images}", force_add=True)  # not of the run that a LoRA belongs to
    check_values(config)
    output_dir = Path(config.paths.output_dir)
    with keys_named(config), run_folder(output_dir):
        seed_everything(config.seed)
        data, backbone = _build(config)
        load_lora(config, backbone, lora, trained_for)
        about = {"model": identify(backbone, lora), "settings": settings(config, backbone)}
        with open_trainer(config) as trainer:
            _claim(output_dir, about)
            record(config, output_dir)
            progress = Progress(output_dir / "progress", trainer.global_rank, trainer.world_size)
            data.test_from(progress.images)
            given = {"backbone": backbone, "vocabulary": data.vocabulary, "images": data.tested(), "folder": output_dir / PICTURES}
            module = build(config.analysis, **given, progress=progress)
            module.skipped = {name: rename(sentence, naming(config)) for name, sentence in module.skipped.items()}
            return _run(trainer, module, data, output_dir, about | {"images": len(data.tested()), "provenance": provenance()}, trained)


def _build(config: DictConfig) -> tuple[Any, PipelineBackbone]:
    """The images and the model."""
    if config.prompts is None:
        (data,), backbone = build_all([config.data], config.backbone.model, [config.split])
        return data, backbone
    prompts = prompts_of_file(Path(str(config.prompts)))
    quiet_hosts()
    data, backbone = build(config.generation, prompts=prompts), build(config.backbone.model)
    data.check(backbone)
    return data, backbone


def _run(
    trainer: L.Trainer,
    module: AnalysisModule,
    data: L.LightningDataModule,
    folder: Path,
    about: dict[str, Any],
    trained: dict[str, dict[int, float]],
) -> dict[str, Any]:
    for sentence in module.skipped.values():
        if trainer.is_global_zero:
            log.info(sentence)
    trainer.test(module, data, verbose=False)
    content: dict[str, Any] = {}
    if trainer.is_global_zero:
        write_tables(folder, module.findings)
        verdict = find_expert(module.findings, module.setting, trained)
        log_figures(trainer.loggers, figures(module.findings, verdict["sigma"]), trainer.global_step)
        about["settings"]["analysis"]["sigmas"] = list(module.setting.sigmas)  # those that were read
        content = write_analysis(folder, module.findings, module.skipped, about | {"finder": verdict})
        shutil.rmtree(folder / "progress", ignore_errors=True)
        for name, picture in write_report(folder).items():
            log_picture(trainer.loggers, name, picture, trainer.global_step)
        print_verdict(verdict)
        log.info("tables, evidence, figures and %s are in %s; open %s", RESULT, folder, folder / PAGE)
    return content


def identify(backbone: PipelineBackbone, lora: Path | None) -> dict[str, Any]:
    """The model and its LoRA, as plain values; two analyses with the same are of the same model."""
    if backbone.source is None:
        raise UserError("a model that is built from scratch has no files by which its analysis is known: choose a pretrained backbone.")
    return identity_of(backbone.source, backbone.encoders, lora)


def settings(config: DictConfig, backbone: PipelineBackbone) -> dict[str, Any]:
    """Everything else that the findings depend on, as plain values."""
    whole = plain(config)
    own = {key: whole[key] for key in ("expert_layer", "analysis")} | {"sigma": whole["backbone"]["readout"]["sigma"]}
    own |= {"dtype": str(backbone.dtype).removeprefix("torch."), "quantize": backbone.runtime.quantize} | backbone.encoding()
    own["precision"] = trainer_precision(config)
    if config.prompts is not None:
        return own | {"prompts": prompts_of_file(Path(str(config.prompts))), "generation": whole["generation"]}
    data = {key: value for key, value in whole["data"].items() if key not in LOADING}
    return own | {"split": config.split, "data": data}


def _claim(folder: Path, about: dict[str, Any]) -> None:
    """Note what the counts of a new folder depend on, or compare it with a folder that is continued."""
    file, ours = folder / IDENTITY, json.loads(to_json(about))
    if file.is_file():
        earlier = read_json(file, f"delete {folder}")
        if odd := sorted(key for key in earlier.keys() | ours.keys() if earlier.get(key) != ours.get(key)):
            raise UserError(
                f"{folder} holds an unfinished analysis whose {' and '.join(odd)} differ: choose another hydra.run.dir, or delete it."
            )
    if rank_zero_only.rank == 0:
        write_json(file, ours)
