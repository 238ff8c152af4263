"""Loggers that never ask anything on stdin."""

import netrc
import os
from pathlib import Path

from lightning.pytorch.loggers import WandbLogger


def wandb_logger(*, save_dir: str, project: str, name: str, group: str | None, offline: bool | None) -> WandbLogger:
    """A Weights & Biases logger; a resumed run in the same folder goes on in the same wandb run.

    Args:
        save_dir: output folder of the run; its run id is kept there.
        project: wandb project.
        name: name of the run.
        group: groups the runs of a sweep.
        offline: keep the run on disk (`wandb sync` uploads it later); None = offline when no account is set up on this machine.
    """
    folder = Path(save_dir)
    folder.mkdir(parents=True, exist_ok=True)
    id_file = folder / "wandb-id.txt"
    run_id = id_file.read_text().strip() if id_file.exists() else None
    if offline is None:
        offline = not _has_account()
    logger = WandbLogger(save_dir=save_dir, project=project, name=name, group=group, offline=offline, id=run_id, resume="allow")
    if run_id is None and logger.version:
        id_file.write_text(logger.version)
    return logger


def _has_account() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
