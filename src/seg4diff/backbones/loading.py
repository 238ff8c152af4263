"""Load diffusers models from a local folder or the hub, with errors a person can act on."""

from pathlib import Path
from typing import Any

import diffusers
import transformers
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

from seg4diff.errors import MissingFileError, UserError


def quiet_hosts() -> None:
    """Hide what the model libraries say about themselves; the progress of loading stays."""
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def load_pretrained(kind: type, path: str, revision: str | None, **options: Any):
    """`kind.from_pretrained(path)` from safetensors files only.

    Args:
        kind: a diffusers pipeline or model class.
        path: local folder or hub id "owner/name".
        revision: branch, tag or commit of a hub model.
        options: passed on.

    Raises:
        UserError: missing, gated, unreachable or unreadable.
    """
    if not Path(path).is_dir():
        if path.count("/") != 1 or path.startswith((".", "/", "~")):
            raise MissingFileError(
                f"no model folder at {path}: set backbone.model.path to a folder in the layout of diffusers or to a hub id."
            )
        options["revision"] = revision
    try:
        return kind.from_pretrained(path, use_safetensors=True, **options)
    except GatedRepoError as error:
        raise UserError(
            f"the model {path} is gated: accept its licence at https://huggingface.co/{path}, then run `hf auth login`, or set "
            "backbone.model.path to a local copy."
        ) from error
    except (RepositoryNotFoundError, LocalEntryNotFoundError) as error:
        raise MissingFileError(
            f"the model {path} was found neither as a folder nor on the hub: check backbone.model.path and your login."
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"the model {path} could not be loaded as {kind.__name__} ({reason}): check backbone.model.path, network and login."
        ) from error
