"""What an evaluation takes over: from the run that a LoRA belongs to, and from the authors' release where that is asked for."""

import logging
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from seg4diff.backbones.base import LORA_FILE
from seg4diff.backbones.lora_files import lora_file
from seg4diff.errors import MissingFileError, UserError
from seg4diff.training.checkpoints import lora_folder, read_checkpoint

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
    return lora, trained_for


def find_lora(ckpt: str) -> Path | None:
    """What `ckpt=` means: a run folder's last LoRA, the one beside a .ckpt, a LoRA folder or file itself; None for "base".

    Raises:
        UserError: there is no such thing, or it cannot be read.
    """
    path = Path(ckpt)
    if ckpt == "base":
        return None
    if path.suffix == ".ckpt":
        read_checkpoint(path)
        return lora_folder(path)
    if lora_file(path) is not None:  # reading it says what is wrong with it
        return path
    if (path / "checkpoints" / "last.ckpt").is_file():
        return lora_folder(path / "checkpoints" / "last.ckpt")
    raise MissingFileError(
        f"ckpt={ckpt} is neither a run folder (with checkpoints/last.ckpt), nor a .ckpt file, nor a LoRA folder (with {LORA_FILE}), nor "
        "a LoRA file (.safetensors, .pth of the release), nor the word base."
    )


def take_from_run(config: DictConfig, lora: Path) -> int | None:
    """Fill in backbone, data and expert_layer from the run that the LoRA belongs to; what the command line sets stays.

    Returns:
        The block that the run aligned, or None where the LoRA belongs to no run.
    """
    run_file = next((folder / "config.yaml" for folder in lora.resolve().parents[:2] if (folder / "config.yaml").is_file()), None)
    if run_file is None:
        return None
    run = OmegaConf.load(run_file)
    if "runtime" not in run:
        raise UserError(f"{run_file} is of an earlier version and cannot be taken over: copy its LoRA folder elsewhere and give that.")
    overrides = command_line()
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


def take_from_release(config: DictConfig) -> None:
    """Set the choices of the authors' release and list them; what the command line sets stays.

    They are `release_choices`, and `release` of the backbone, because some differ between the families of models.
    """
    set_here = {override.key_or_group for override in command_line()}
    for choice in [*config.release_choices, *config.backbone.get("release", [])]:
        for key in _places(config, choice):
            present = OmegaConf.select(config, key, default=_ABSENT)
            if present is not _ABSENT and key not in set_here and present == choice.get("instead_of", present):
                OmegaConf.update(config, key, choice.value)
                log.info("release_compat: %s=%s (%s)", key, choice.value, choice.why)


def _places(config: DictConfig, choice: DictConfig) -> list[str]:
    """Where the key of a choice stands: the entries of a benchmark have data and evaluation of their own.

    There, a choice without `instead_of` is left out: what an entry says is what it measures, and it reads those that all share (geometry).
    """
    if "benchmark" not in config or choice.key.split(".")[0] not in ("data", "evaluation"):
        return [choice.key]
    return [f"benchmark.{name}.{choice.key}" for name in config.benchmark] if "instead_of" in choice else []


_ABSENT = object()


def command_line() -> list[Override]:
    """What the command line sets."""
    return OverridesParser.create().parse_overrides(list(HydraConfig.get().overrides.task)) if HydraConfig.initialized() else []
