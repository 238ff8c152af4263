"""`expert_layer=auto`: the block that a stored analysis of this very model names."""

import logging
from collections.abc import Mapping, Sequence
from inspect import isclass
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig

from seg4diff.analysis.report import RESULT
from seg4diff.backbones.loading import Source
from seg4diff.backbones.pipeline import PipelineBackbone
from seg4diff.commands.drawing import lora_hash
from seg4diff.disk import read_json
from seg4diff.errors import UserError
from seg4diff.presets import plain

log = logging.getLogger(__name__)

AUTO = "auto"
READOUT = ("sigma", "scores", "normalisation", "heads")
"""What the finder's verdict depends on, of how class maps are read."""


def identity_of(source: Source, encoders: Sequence[str], lora: Path | None) -> dict[str, Any]:
    """A model and its LoRA, as plain values; two analyses with the same are of the same model."""
    weights = source.stamp(["transformer", "scheduler", *encoders])
    return source.identity() | {"weights": weights, "lora": lora_hash(lora)}


def settle_expert(config: DictConfig, lora: Path | None) -> None:
    """Put the number of the block in the place of "auto", in place; any other value of `expert_layer` stays.

    Args:
        config: of a training or an evaluation.
        lora: the LoRA that the model is evaluated with.

    Raises:
        UserError: there is no analysis of this model with this readout, or it names no expert.
    """
    if config.get("expert_layer") != AUTO:
        return
    ours = _identify(config.backbone.model, lora)
    readout = plain(config.backbone.readout)
    given = config.get("expert_from")
    files = [_stored(Path(given))] if given else _newest_first(Path(config.paths.log_dir) / "analyze")
    found = {file: read_json(file, "run analyze.py again, into another folder") for file in files}
    of_model = {file: own for file, own in found.items() if own.get("model") == ours}
    if not of_model:
        raise UserError(_none_fits(config, found, ours))
    fitting = [file for file, own in of_model.items() if not _read_otherwise(own, readout)]
    if not fitting:
        file, own = next(iter(of_model.items()))
        odd = " and ".join(_read_otherwise(own, readout))
        raise UserError(f"{file} reads the model otherwise, its {odd} differ: run `python analyze.py` with the readout of this run.")
    file = next((file for file in fitting if found[file].get("finder", {}).get("rule")), fitting[0])
    finder = found[file].get("finder", {})
    if finder.get("expert") is None:
        raise UserError(f"{file} names no expert: set expert_layer to a block yourself. It says: {finder.get('sentence', 'nothing')}")
    config.expert_layer = finder["expert"]
    log.info("expert_layer=%s is block %d, by %s", AUTO, finder["expert"], file)


def _identify(model: DictConfig, lora: Path | None) -> dict[str, Any]:
    """As `identity_of`, from the configuration of a model."""
    kind = getattr(get_object(model._target_), "__self__", None)
    if "path" not in model or not (isclass(kind) and issubclass(kind, PipelineBackbone)):
        raise UserError("expert_layer=auto needs a pretrained backbone, since no analysis is of a model built from scratch: set a block.")
    return identity_of(Source(model.path, model.get("revision")), kind.encoders, lora)


def _read_otherwise(analysis: Mapping[str, Any], readout: Mapping[str, Any]) -> list[str]:
    """Which of `READOUT` differ from those of an analysis."""
    theirs = analysis["settings"]["analysis"]["readout"]
    return [name for name in READOUT if theirs.get(name) != readout.get(name)]


def _stored(place: Path) -> Path:
    file = place if place.is_file() else place / RESULT
    if not file.is_file():
        raise UserError(f"there is no analysis in {place}: set expert_from to the folder of a finished `python analyze.py`.")
    return file


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*/{RESULT}"), key=lambda file: file.stat().st_mtime, reverse=True)


def _none_fits(config: DictConfig, found: Mapping[Path, Mapping[str, Any]], ours: Mapping[str, Any]) -> str:
    """Why none of the analyses that were looked at is of this model."""
    if not config.get("expert_from"):
        folder = Path(config.paths.log_dir) / "analyze"
        return f"{folder} holds no analysis of this model for expert_layer=auto: run `python analyze.py` for it, or set expert_from."
    (file, other), *_ = found.items()
    odd = [name for name in ours if other.get("model", {}).get(name) != ours[name]]
    return f"{file} is the analysis of another model, its {' and '.join(odd)} differ: run `python analyze.py` for this one."
