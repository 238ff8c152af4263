"""`python analyze.py`: a configuration becomes an analysis of every block of a model."""

from typing import Any

from omegaconf import DictConfig

from seg4diff.commands.console import hydra_main


def main() -> None:
    """The root script."""
    hydra_main("analyze", _run)


def _run(config: DictConfig) -> Any:
    from seg4diff.commands.analysis import analyze  # heavy; --help does without

    return analyze(config)
