"""Evaluate: `python evaluate.py ckpt=<run folder | .ckpt | LoRA | base>`, on standard benchmarks with `benchmark=paper`."""

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from seg4diff.commands.benchmark import evaluate_benchmarks
from seg4diff.commands.console import main
from seg4diff.commands.run import evaluate
from seg4diff.commands.sweep import search_figure


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def run(config: DictConfig) -> float | None:
    config.chosen = list(HydraConfig.get().overrides.task)
    return search_figure(config, (evaluate_benchmarks if config.get("benchmark") else evaluate)(config))


if __name__ == "__main__":
    main(run)
