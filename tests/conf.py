"""The keys of the configuration."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from tests.conftest import REPO

CONF = REPO / "conf"
GROUPS = {folder.name for folder in CONF.iterdir() if folder.is_dir()}


def dotted(node: Any, name: str = "") -> Iterator[str]:
    """The dotted names of everything in a configuration."""
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{name}{key}"
        yield from dotted(value, f"{name}{key}.")


@cache
def keys() -> set[str]:
    """Every key that the command line takes: those of the root scripts, of every data set, and of every other file of a group."""
    found = {f"{file.relative_to(CONF).parts[0]}.{name}" for file in CONF.glob("*/**/*.yaml") for name in dotted(raw(file))}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = [compose("train", [f"data={file.stem}"]) for file in (CONF / "data").glob("*.yaml")] + [
            compose("evaluate"),
            compose("analyze"),
        ]
    return found.union(GROUPS, *(dotted(OmegaConf.to_container(config, resolve=False)) for config in composed))


def raw(file: Path) -> Any:
    """A file by itself, without the defaults that it names."""
    return OmegaConf.to_container(OmegaConf.load(file), resolve=False)
