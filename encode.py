"""Encode every prompt and image once: `python encode.py experiment=<name> runtime.cache=<folder>`, then train with the same cache."""

import hydra
from omegaconf import DictConfig

from seg4diff.commands.console import main
from seg4diff.commands.run import encode


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def run(config: DictConfig) -> None:
    encode(config)


if __name__ == "__main__":
    main(run)
