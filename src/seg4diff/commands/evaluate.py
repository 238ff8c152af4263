"""`python evaluate.py`: a configuration becomes an evaluation, or several with `benchmark=`."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from seg4diff.commands.console import hydra_main
from seg4diff.errors import UserError


def main() -> None:
    """The root script."""
    hydra_main("evaluate", _run)


def _run(config: DictConfig) -> Any:
    if OmegaConf.is_missing(config, "ckpt"):
        raise UserError("evaluate.py needs to know what to evaluate: add ckpt=<run folder | .ckpt | LoRA folder or file | base>.")
    from seg4diff.commands.benchmark import evaluate_benchmarks  # heavy; --help does without
    from seg4diff.commands.measure import evaluate_generation
    from seg4diff.commands.readers import compares_readers, evaluate_readers, fit_mixture, fits_mixture
    from seg4diff.commands.run import evaluate, measures_images
    from seg4diff.commands.sweep import search_figure

    if compares_readers(config):
        run = evaluate_readers
    elif fits_mixture(config):
        run = fit_mixture
    else:
        run = evaluate_benchmarks if config.get("benchmark") else evaluate_generation if measures_images(config) else evaluate
    return search_figure(config, run(config))
