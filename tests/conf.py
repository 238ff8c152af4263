"""The keys of the configuration, read from its files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from tests.conftest import REPO

CONF = REPO / "conf"


def dotted(node: Any, name: str = "") -> Iterator[str]:
    """The dotted names of everything in a file."""
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{name}{key}"
        yield from dotted(value, f"{name}{key}.")


def keys_of(file: Path) -> set[str]:
    """The keys that a file gives values, with its group before them, and the group itself."""
    group = "" if file.parent == CONF else file.relative_to(CONF).parts[0]
    names = set(dotted(OmegaConf.to_container(OmegaConf.load(file), resolve=False)))
    return {f"{group}.{name}" for name in names} | {group} if group else names


KEYS = set().union(*map(keys_of, CONF.rglob("*.yaml")))
"""Every key that the command line takes."""
GROUPS = {folder.name for folder in CONF.iterdir() if folder.is_dir()}
