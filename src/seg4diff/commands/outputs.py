"""Whose output folder it is: a new run's, or that of the run that is continued."""

from pathlib import Path

from seg4diff.errors import UserError


def checkpoint_of(output_dir: Path, ckpt_path: str | None) -> str | None:
    """The checkpoint to continue from; "last" = the last one of this output folder, or none if the run is new.

    A run that is started with ckpt_path=last is thus continued by the same command, however often it is stopped.
    """
    if ckpt_path != "last":
        return ckpt_path
    last = output_dir / "checkpoints" / "last.ckpt"
    return str(last) if last.exists() else None


def check_output_dir(output_dir: Path, ckpt_path: str | None) -> None:
    """Refuse to write over another run; a run that is continued may write into its own folder."""
    if ckpt_path is not None and Path(ckpt_path).resolve().is_relative_to(output_dir.resolve()):
        return
    if (output_dir / "metrics.json").exists():
        raise UserError(f"{output_dir} holds a finished run: choose another hydra.run.dir, or continue it with ckpt_path=<a .ckpt of it>.")
    if (output_dir / "labels").exists():
        raise UserError(f"{output_dir} holds segmented pictures: choose another hydra.run.dir.")
    if (last := output_dir / "checkpoints" / "last.ckpt").exists():
        raise UserError(f"{output_dir} holds an unfinished run: continue it with ckpt_path={last}, or choose another hydra.run.dir.")
