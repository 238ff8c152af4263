"""Evaluate: `python evaluate.py ckpt=<run folder | .ckpt | LoRA folder | base>`."""

import hydra
from omegaconf import DictConfig

from seg4diff.console import main
from seg4diff.run import evaluate


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def run(config: DictConfig) -> None:
    evaluate(config)


if __name__ == "__main__":
    main(run)
