"""Imports go one way, and only the rooms that may know a library import it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO

PACKAGE = REPO / "src" / "seg4diff"
ORDER = [
    "errors",
    "disk",
    "provenance",
    "flow",
    "data",
    "backbones",
    "attention",
    "segmentation",
    "pictures",
    "evaluation",
    "tiny",
    "training",
    "loggers",
    "outputs",
    "console",
    "sweep",
    "inherit",
    "run",
    "benchmark",
    "check",
    "segment",
]
"""A room imports only rooms to its left (and itself)."""
HYDRA = {"console", "run", "benchmark", "sweep", "inherit", "check", "segment"}
OWNERS = {"hydra": HYDRA, "omegaconf": HYDRA, "diffusers": {"backbones"}, "peft": {"backbones"}}
OWNERS["lightning"] = {"data", "evaluation", "training", "loggers", "run", "benchmark"}
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import: write the whole name"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "seg4diff" else {node.module}
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


def test_importing_the_package_needs_no_data_and_writes_nothing(tmp_path):
    """A missing data folder is never an import error (the release's is)."""
    code = (
        "import importlib, pkgutil, seg4diff\n"
        "for module in pkgutil.walk_packages(seg4diff.__path__, 'seg4diff.'): importlib.import_module(module.name)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
