"""What an evaluation takes over: from the run that a LoRA belongs to, and from the authors' release where that is asked for."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from seg4diff.backbones import lora_files
from seg4diff.commands.expert import settle_expert
from seg4diff.errors import MissingFileError, UserError
from seg4diff.presets import plain, read_config, run_file_of
from seg4diff.training.checkpoints import read_checkpoint

log = logging.getLogger(__name__)


def inherit(config: DictConfig) -> tuple[Path | None, int | None]:
    """Complete an evaluation's configuration in place.

    Returns:
        The LoRA to evaluate, or None for the base model; the block that its run aligned, or None where it belongs to no run.
    """
    lora = find_lora(str(config.ckpt))
    trained_for = take_from_run(config, lora) if lora is not None else None
    if config.release_compat:
        take_from_release(config)
    settle_expert(config, lora)
    return lora, trained_for


def refuse_idle(config: DictConfig, groups: Sequence[str], where: str) -> None:
    """Refuse keys of these groups on the command line, because they have no effect.

    Args:
        config: with the command line in `chosen`.
        groups: first parts of the keys.
        where: what they have no effect on, and what to do.
    """
    for own in chosen(config):
        if own.package is None and own.key_or_group.split(".")[0] in groups:  # a group elsewhere, as in reader@benchmark..., has one
            raise UserError(f"{own.key_or_group} has no effect on {where}.")


def find_lora(ckpt: str) -> Path | None:
    """What `ckpt=` means: see `lora_files.find_lora`; None for "base".

    Raises:
        UserError: there is no such thing, or it cannot be read.
    """
    if ckpt == "base":
        return None
    if ckpt.endswith(".ckpt"):
        read_checkpoint(ckpt)
    try:
        return lora_files.find_lora(ckpt)
    except MissingFileError as error:
        raise MissingFileError(f"{str(error).removesuffix('.')}, nor the word base.") from error


def take_from_run(config: DictConfig, lora: Path) -> int | None:
    """Fill in backbone, data and expert_layer from the run that the LoRA belongs to; what the caller has chosen stays.

    Where `config.chosen` is null, that is all of the configuration, and nothing is taken.

    Returns:
        The block that the run aligned, or None where the LoRA belongs to no run.
    """
    run = read_run(config, lora)
    if run is None or config.chosen is None:
        return None if run is None else run.get("expert_layer")
    overrides = chosen(config)
    set_here = {override.key_or_group for override in overrides}
    OmegaConf.set_struct(config, False)
    for group in ("backbone", "data", "expert_layer", "protocol", "runtime"):
        if group in run and group in config and group not in set_here:
            config[group] = run[group]
    for override in overrides:
        if override.key_or_group.split(".")[0] in ("backbone", "data", "runtime") and "." in override.key_or_group:
            OmegaConf.update(config, override.key_or_group, override.value())
    if {"backbone", "backbone.dtype"} & set_here and "runtime.dtype" not in set_here:
        config.runtime.dtype = "auto"
    if "runtime.preferred" not in set_here:
        config.runtime.preferred = "${backbone.dtype}"
    if "runtime" in config.backbone.model:  # the run's file holds a copy
        config.backbone.model.runtime = "${runtime}"
    if "data" in config:
        config.data.test_split = config.split
    return run.get("expert_layer")


def read_run(config: DictConfig, lora: Path) -> DictConfig | None:
    """The configuration of the run that a LoRA belongs to, its places moved to the `paths` that are chosen here; None without a run."""
    run_file = run_file_of(lora)
    if run_file is None:
        return None
    run = read_config(run_file)
    if "runtime" not in run:
        raise UserError(f"{run_file} is of an earlier version and cannot be taken over: copy its LoRA folder elsewhere and give that.")
    set_here = {override.key_or_group for override in chosen(config)}
    every = config.chosen is None or not {"paths", "paths.root_dir"}.isdisjoint(set_here)
    names = [name for name in ("data_dir", "assets_dir") if every or f"paths.{name}" in set_here]
    return OmegaConf.create(relocate(OmegaConf.to_container(run), {run.paths[name]: config.paths[name] for name in names}))


def relocate(value: Any, moves: Mapping[str, str]) -> Any:
    """A configuration whose places below a key of `moves` are below its value instead; the longest key that fits counts."""
    if isinstance(value, dict):
        return {name: relocate(own, moves) for name, own in value.items()}
    if isinstance(value, list):
        return [relocate(own, moves) for own in value]
    if isinstance(value, str):
        for old in sorted(moves, key=len, reverse=True):
            if value == old or value.startswith(f"{old}/"):
                return moves[old] + value[len(old) :]
    return value


def other_base(config: DictConfig, lora: Path | None) -> tuple[str, str] | None:
    """The model that is evaluated and the one that the LoRA was trained on; None where they are the same."""
    run = read_run(config, lora) if lora is not None else None
    if run is None:
        return None
    here, there = _name_of(config.backbone.model), _name_of(run.backbone.model)
    return None if here == there else (here, there)


def _name_of(model: DictConfig) -> str:
    """Path and revision of a model."""
    path = str(model.get("path"))
    place = str(Path(path).resolve()) if Path(path).exists() else path
    return f"{place} ({model.revision})" if model.get("revision") else place


def take_from_release(config: DictConfig) -> None:
    """Lay the choices of the authors' release (conf/release) over the configuration and list them; what the command line sets stays.

    They are `release`, and `release` of the backbone, because some differ between the families of models.
    """
    set_here = {override.key_or_group for override in chosen(config)}
    parts = [OmegaConf.to_container(part) for part in (config.release, config.backbone.get("release")) if part]
    release: Any = OmegaConf.to_container(OmegaConf.merge(*parts))
    if "benchmark" in config:  # its entries have data and evaluation of their own
        own = {group: release.pop(group) for group in ("data", "evaluation")}
        release["benchmark"] = dict.fromkeys(config.benchmark, own)
    for key, value in _choices(config, release):
        if key not in set_here:
            OmegaConf.update(config, key, value)
            log.info("release_compat: %s=%s", key, "null" if value is None else value)


def _choices(config: DictConfig, release: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    """(key, value) of what a part of the release's choices sets.

    Where the configuration has one value and the release a mapping, the value is replaced by what it maps to. An entry of a benchmark takes
    only such choices: what else it says is what it measures, and it reads those that all entries share (geometry).
    """
    for name, value in release.items():
        key = f"{place}{name}"
        present = OmegaConf.select(config, key, default=_ABSENT)
        if isinstance(value, dict) and isinstance(present, DictConfig):
            yield from _choices(config, value, f"{key}.")
        elif isinstance(value, dict):
            if present in value:
                yield key, value[present]
        elif present is not _ABSENT and not place.startswith("benchmark."):
            yield key, value


_ABSENT = object()


def chosen(config: DictConfig) -> list[Override]:
    """What the caller has set by hand, as on a command line; empty where that is not known (`config.chosen` is null)."""
    lines = plain(config, resolve=False).get("chosen") or []
    return OverridesParser.create().parse_overrides(lines)
