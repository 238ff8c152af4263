"""What it takes to repeat a run: the resolved configuration, library versions and the git revision."""

import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "lightning", "diffusers", "transformers", "peft", "hydra-core", "datasets", "torchmetrics")


def provenance() -> dict[str, Any]:
    """Library versions, Python, platform, command line and git revision ("unknown" outside a checkout)."""
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in LIBRARIES},
        "git_revision": _git("rev-parse", "HEAD"),
        "git_dirty": _git("status", "--porcelain") not in ("", "unknown"),
    }


def _git(*arguments: str) -> str:
    try:
        answer = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return answer.stdout.strip()
