"""Check a data set: `python check.py data=<name> [decode=all]`; no model is loaded."""

import hydra
from omegaconf import DictConfig

from seg4diff.commands.check import check
from seg4diff.commands.console import main


@hydra.main(version_base="1.3", config_path="conf", config_name="check")
def run(config: DictConfig) -> None:
    """Hydra's entry point."""
    check(config)


if __name__ == "__main__":
    main(run)
