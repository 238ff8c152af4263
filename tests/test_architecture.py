"""Imports go one way, and only the rooms that may know a library import it."""

import ast
from pathlib import Path

import pytest

from tests.conftest import REPO

PACKAGE = REPO / "src" / "seg4diff"
ORDER = [
    "errors",
    "provenance",
    "flow",
    "data",
    "backbones",
    "attention",
    "segmentation",
    "pictures",
    "evaluation",
    "training",
    "loggers",
    "sweep",
    "run",
]
"""A room imports only rooms to its left (and itself)."""
OWNERS = {"hydra": {"run", "sweep"}, "omegaconf": {"run", "sweep"}, "diffusers": {"backbones", "training"}, "peft": {"backbones"}}
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    if room(path) == "__init__":
        return
    own = ORDER.index(room(path))
    for name in imported(path):
        if name.startswith("seg4diff."):
            target = name.split(".")[1]
            assert ORDER.index(target) <= own, f"{path.name} ({room(path)}) imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_libraries_stay_in_their_rooms(path):
    for name in imported(path):
        owners = OWNERS.get(name.split(".")[0])
        assert owners is None or room(path) in owners, f"{path.name} imports {name}, which belongs to {owners}"


def test_importing_the_package_reads_no_data(tmp_path, monkeypatch):
    """A missing data folder is never an import error (the release's is)."""
    import importlib
    import pkgutil

    import seg4diff

    monkeypatch.chdir(tmp_path)
    for module in pkgutil.walk_packages(seg4diff.__path__, "seg4diff."):
        importlib.import_module(module.name)
    assert not list(tmp_path.iterdir())
