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
    "finite",
    "disk",
    "screen",
    "provenance",
    "resources",
    "flow",
    "data",
    "backbones",
    "attention",
    "segmentation",
    "pictures",
    "presets",
    "results",
    "inputs",
    "generation",
    "model",
    "calibration",
    "loading",
    "loggers",
    "evaluation",
    "analysis",
    "training",
    "tiny",
    "app",
    "commands",
    "__main__",
]
"""A room imports only rooms to its left (and itself)."""
OWNERS = {
    "gradio": {"app"},
    "hydra": {"commands"},
    "typer": {"commands"},
    "omegaconf": {"commands", "presets"},
    "diffusers": {"backbones"},
    "peft": {"backbones"},
    "transformers": {"backbones", "evaluation", "tiny"},  # evaluation: networks that judge generated images, which are no backbones
    "lightning": {"data", "evaluation", "analysis", "training", "loggers", "tiny", "commands"},
}
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


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_pictures_are_decoded_in_one_place(path):
    """Every reader, whatever its data set, has the same picture and the same label map of a file."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Attribute)]
    opened = [node for node in calls if node.attr == "open" and isinstance(node.value, ast.Name) and node.value.id == "Image"]
    converted = [node for node in calls if node.attr in ("convert", "exif_transpose")]
    assert bool(opened or converted) == (path.name == "decoding.py"), "use read_image, read_labels or to_rgb"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_terminal_is_opened_in_one_place(path):
    assert "rich.console" not in imported(path) or path.name == "screen.py", "use screen(): names may hold what rich takes for markup"
