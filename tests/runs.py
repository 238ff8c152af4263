"""Compose and run the root scripts on a random model of four blocks and a toy world of 32 pixels."""

import os
import subprocess
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from tests.conftest import REPO
from tests.hosts import random_sd3

SMALL_WORLD = [
    "data.source.side=32",
    "data.source.sizes={train: 16, validation: 6, test: 7}",
    "data.batch_size=4",
    "data.eval_batch_size=4",
]
SMALL_MODEL = ["backbone.expert_layer=1", "backbone.samples.size=[32,32]", "backbone.samples.steps=2"]
SMALL_RUN = ["trainer.max_steps=4", "trainer.val_check_interval=2", "trainer.log_every_n_steps=1", "trainer.accelerator=cpu"]

QUICK = ["~evaluation", "validate_first=false", "callbacks.samples=null", "callbacks.overlays=null", "model.lr=0.02"]


def make_assets(folder: Path) -> Path:
    """A folder that stands in for assets/: a random model under the name of the shipped one."""
    random_sd3(blocks=4).save_pretrained(folder / "tiny-sd3")
    return folder


def overrides(assets: Path, data: Path) -> list[str]:
    return [f"paths.assets_dir={assets}", f"paths.data_dir={data}", *SMALL_WORLD, *SMALL_MODEL]


def compose_config(name: str, output_dir: Path, *arguments: str) -> DictConfig:
    """The configuration that the command line `arguments` would give, outside a Hydra application."""
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        config = compose(name, [*arguments, f"paths.output_dir={output_dir}"])
    if "chosen" in config:
        config.chosen = list(arguments)
    return config


def command(script: str, output_dir: Path, *arguments: str) -> list[str]:
    return [sys.executable, str(REPO / script), f"hydra.run.dir={output_dir}", *arguments]


def run_script(script: str, output_dir: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"COLUMNS": "200"}
    return subprocess.run(command(script, output_dir, *arguments), capture_output=True, text=True, cwd=REPO, env=environment)
