"""Ratios of time and memory, measured side by side in one process: `python -m speed`, or one: `python -m speed.capture`."""

import os
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # torch's profiler, which counts the bytes, otherwise announces itself on the terminal

import seg4diff.backbones  # noqa: F401 - before diffusers, whose optional parts it keeps quiet

REPO = Path(__file__).parents[1]
