"""Small random models and data that the tests share."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; a run in this process has the bits of one by a root script
os.environ.setdefault("WANDB_MODE", "offline")

from pathlib import Path

import pytest

from seg4diff.backbones.sd3 import SD3Backbone
from tests.hosts import random_sd3

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture
def backbone() -> SD3Backbone:
    return random_sd3()


@pytest.fixture(scope="session")
def assets(tmp_path_factory) -> Path:
    from tests.runs import make_assets

    return make_assets(tmp_path_factory.mktemp("assets"))


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """Folder that keeps the drawn toy scenes of the whole test session."""
    return tmp_path_factory.mktemp("data")
