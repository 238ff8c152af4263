"""Train: `python train.py experiment=quickstart` (conf/experiment lists the others)."""

import hydra
from omegaconf import DictConfig

from seg4diff.commands.console import main
from seg4diff.commands.run import train
from seg4diff.commands.sweep import search_figure


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def run(config: DictConfig) -> float | None:
    return search_figure(config, train(config))


if __name__ == "__main__":
    main(run)
