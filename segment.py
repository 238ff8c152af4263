"""Segment your own pictures: `python segment.py image=<picture | folder> names=[cat,grass]`; docs/segment.md."""

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from seg4diff.console import main
from seg4diff.segment import segment


@hydra.main(version_base="1.3", config_path="conf", config_name="segment")
def run(config: DictConfig) -> None:
    """Hydra's entry point."""
    config.chosen = list(HydraConfig.get().overrides.task)
    segment(config)


if __name__ == "__main__":
    main(run)
