"""Load diffusers models from a local folder or the hub, with errors a person can act on."""

from pathlib import Path
from typing import Any

import diffusers
import transformers
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

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
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _explain(error, kind, path) from error


def _explain(error: BaseException, kind: type, path: str) -> UserError:
    """The sentence for a failed load; diffusers wraps the hub's own errors, so the whole chain is looked at."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    if any(isinstance(link, GatedRepoError) for link in chain):
        return UserError(
            f"the model {path} is gated: accept its licence at https://huggingface.co/{path}, then run `hf auth login`, or set "
            "backbone.model.path to a local copy."
        )
    if any(isinstance(link, RepositoryNotFoundError) for link in chain):
        return MissingFileError(f"the hub has no model {path}, or not for you: check backbone.model.path and run `hf auth login`.")
    if isinstance(error, OSError) and not Path(path).is_dir():
        return MissingFileError(
            f"the model {path} is neither a folder nor complete in the local cache, and could not be fetched ({_first_line(chain[-1])}): "
            "check the network, or set backbone.model.path to a local copy."
        )
    return UserError(
        f"the model {path} could not be loaded as {kind.__name__} ({_first_line(error)}): check backbone.model.path and its files."
    )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
