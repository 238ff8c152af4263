"""Errors of the library name parameters; here each becomes the key, or the option, that a person types."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import typer
from omegaconf import Container, DictConfig, OmegaConf

from seg4diff.errors import Naming, renamed
from seg4diff.presets import plain

MOST = 3
"""Number of keys that a message names for one parameter, at most."""


def keys_named(*nodes: DictConfig) -> AbstractContextManager[None]:
    """Within the block, errors name keys of these nodes of a configuration instead of parameters."""
    return renamed(naming(*nodes))


def naming(*nodes: DictConfig) -> Naming:
    """The keys that set a parameter of anything that is built from these nodes of a configuration."""

    def name(parameter: str) -> str | None:
        keys = [key for node in nodes for key in _arguments(OmegaConf.to_container(node, resolve=False), node._get_full_key(None))]
        found = {key_to_set(nodes[0]._get_root(), key) for key in keys if f".{key}".endswith(f".{parameter}")}
        return " or ".join(sorted(found)) if 0 < len(found) <= MOST else None

    return name


def _arguments(node: Any, key: str) -> Iterator[str]:
    """The keys of everything that is an argument of a constructor."""
    for name, value in node.items() if isinstance(node, dict) else ():
        below = f"{key}.{name}" if key else str(name)
        if "_target_" in node:
            yield below
        yield from _arguments(value, below)


def exactly(root: Container, place: str) -> Naming:
    """The keys that set the parameters of what is built from the node at one place of a configuration."""

    def name(parameter: str) -> str | None:
        node = OmegaConf.select(root, place)
        return key_to_set(root, f"{place}.{parameter}") if isinstance(node, DictConfig) and parameter in node else None

    return name


def options_named(context: typer.Context) -> AbstractContextManager[None]:
    """Within the block, errors name options of the console command that runs."""
    return renamed({own.name: own.opts[0] for own in context.command.params if own.param_type_name == "option"}.get)


def key_to_set(root: Container, key: str) -> str:
    """The key to set in order to set what stands at `key`: that which interpolations, also of the nodes above it, lead to."""
    found = ""
    for name in key.split("."):
        found = f"{found}.{name}" if found else name
        while (raw := _raw(root, found)) and (reference := re.fullmatch(r"\$\{([\w.]+)\}", raw)):
            found = reference[1]
    return found


def _raw(root: Container, key: str) -> str | None:
    folder, _, name = key.rpartition(".")
    parent = OmegaConf.select(root, folder) if folder else root
    if not isinstance(parent, DictConfig) or name not in parent or not OmegaConf.is_interpolation(parent, name):
        return None
    return plain(parent, resolve=False)[name]
