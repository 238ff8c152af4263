"""`python train.py`: a configuration becomes a training, or the encodings that a training needs."""

from typing import Any

from omegaconf import DictConfig

from seg4diff.commands.console import hydra_main
from seg4diff.errors import UserError


def main() -> None:
    """The root script."""
    hydra_main("train", _run)


def _run(config: DictConfig) -> Any:
    from seg4diff.commands.readers import compares_readers, fits_mixture  # heavy; --help does without
    from seg4diff.commands.run import encode, train
    from seg4diff.commands.sweep import search_figure

    if config.mode not in ("train", "encode"):
        raise UserError(f"mode must be train or encode, found '{config.mode}'.")
    if compares_readers(config) or fits_mixture(config):
        raise UserError("readers are compared and fitted after the training: run evaluate.py with ckpt=<the run>.")
    return search_figure(config, train(config)) if config.mode == "train" else encode(config)
