"""Load diffusers models from a local folder or the hub, with errors a person can act on."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import transformers
from diffusers import ConfigMixin, DiffusionPipeline, ModelMixin
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars

from seg4diff.errors import MissingFileError, UserError


def quiet_hosts() -> None:
    """Hide the bar that transformers draws for each encoder, for the commands; those of diffusers and of downloads stay."""
    downloads_are_shown = not are_progress_bars_disabled()
    transformers.utils.logging.disable_progress_bar()
    if downloads_are_shown:
        enable_progress_bars()  # which transformers has switched off too


FAMILIES = {
    "StableDiffusion3Pipeline": "sd3_medium, sd35_medium, sd35_large or tiny_sd3",
    "FluxPipeline": "flux1_dev or flux1_schnell",
    "Flux2KleinPipeline": "flux2_klein",
    "AuraFlowPipeline": "aura_flow",
    "ChromaPipeline": "chroma",
    "CogVideoXPipeline": "cogvideox_2b",
    "LongCatImagePipeline": "longcat_image",
    "Lumina2Pipeline": "lumina2",
    "PRXPipeline": "prx",
    "QwenImagePipeline": "qwen_image",
    "ZImagePipeline": "z_image or z_image_turbo",
}
"""Pipelines that have an adapter, and the files of conf/backbone that read them."""


def wrong_class(what: str, found: str, expected: type) -> UserError:
    """The error for a pipeline of another class than the adapter reads.

    Args:
        what: what to call the model.
        found: name of its class.
        expected: the class that the adapter reads.
    """
    advice = f"choose the preset {FAMILIES[found]}" if found in FAMILIES else f"there are adapters for {', '.join(FAMILIES)}"
    return UserError(f"{what} is a {found}, but this backbone reads a {expected.__name__}: {advice}.")


@dataclass(frozen=True)
class Source:
    """Where a model is: a local folder in the layout of diffusers, or a hub id with an optional revision."""

    path: str
    revision: str | None

    def load(self, kind: type[DiffusionPipeline | ModelMixin], **options: Any) -> Any:
        """A component or the whole pipeline, see `load_pretrained`."""
        return load_pretrained(kind, self.path, self.revision, **options)

    def vae_config(self) -> dict[str, Any]:
        """The configuration of the autoencoder; no weights are read."""
        return self._config("an autoencoder", subfolder="vae")

    def autoencoder_config(self) -> dict[str, Any]:
        """The configuration of a model that is an autoencoder itself; no weights are read."""
        return self._config("an autoencoder")

    def kind(self) -> tuple[str, dict[str, Any]]:
        """Name of the pipeline's class, and the configuration of its transformer with that of its scheduler; no weights are read."""
        name, transformer = self._pipeline_class(), self._config("a transformer", subfolder="transformer")
        scheduler = self._config("a scheduler", diffusers.FlowMatchEulerDiscreteScheduler, subfolder="scheduler")
        return name, transformer | {"scheduler": scheduler}

    def check_class(self, expected: type) -> None:
        """Raise UserError if the model is not of the class that the adapter reads."""
        if (found := self._pipeline_class()) != expected.__name__:
            raise wrong_class(f"the model {self.path}", found, expected)

    def _pipeline_class(self) -> str:
        """What model_index.json names."""
        found = self._config("a pipeline", DiffusionPipeline).get("_class_name")
        if not isinstance(found, str):
            raise UserError(
                f"the model_index.json of the model {self.path} names no pipeline (_class_name): it is damaged, fetch it again."
            )
        return found

    def _config(self, what: str, reader: type[ConfigMixin] = diffusers.AutoencoderKL, **options: Any) -> dict[str, Any]:
        """A configuration as its file holds it; the class of an autoencoder reads that of a model of any class."""
        config = _fetch(reader.load_config, what, self.path, self.revision, options)
        if not isinstance(config, dict):
            raise UserError(f"the configuration of the model {self.path} as {what} is no JSON object: it is damaged, fetch it again.")
        return config

    def identity(self) -> dict[str, str]:
        """Which model this is, however its path is written."""
        path = str(Path(self.path).resolve()) if Path(self.path).is_dir() else self.path
        return {"model": path, "revision": str(self.revision)}

    def commit(self) -> str | None:
        """The commit of a hub model; None for a folder."""
        if Path(self.path).is_dir():
            return None
        return Path(try_to_load_from_cache(self.path, "model_index.json", revision=self.revision)).parent.name

    def stamp(self, components: Sequence[str]) -> str:
        """Changes with these components and the tokenizers: the commit of a hub model; names, sizes and times of a folder's files."""
        folder = Path(self.path)
        if (commit := self.commit()) is not None:
            return commit
        folders = [folder / name for name in components] + sorted(folder.glob("tokenizer*"))
        files = sorted(file for part in folders for file in part.rglob("*") if file.is_file())
        state = [(str(file.relative_to(folder)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return hashlib.sha256(repr(state).encode()).hexdigest()


def load_pretrained(kind: type[DiffusionPipeline | ModelMixin], path: str, revision: str | None, **options: Any) -> Any:
    """`kind.from_pretrained(path)` from safetensors files only.

    Args:
        kind: a diffusers pipeline or model class.
        path: local folder or hub id "owner/name".
        revision: branch, tag or commit of a hub model.
        options: passed on.

    Raises:
        UserError: missing, gated, unreachable or unreadable.
    """
    return _fetch(kind.from_pretrained, kind.__name__, path, revision, options | {"use_safetensors": True})


def _fetch(function: Callable, what: str, path: str, revision: str | None, options: dict[str, Any]) -> Any:
    """Call a function that reads from a folder or from the hub, and explain its errors."""
    if not Path(path).is_dir():
        if path.count("/") != 1 or path.startswith((".", "/", "~")):
            raise MissingFileError(f"no model folder at {path}: set `path` to a folder in the layout of diffusers or to a hub id.")
        options = options | {"revision": revision}
    try:
        return function(path, **options)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _explain(error, what, path) from error


def _explain(error: BaseException, what: str, path: str) -> UserError:
    """The sentence for a failed load; diffusers wraps the hub's own errors, so the whole chain is looked at."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    if any(isinstance(link, GatedRepoError) for link in chain):
        return UserError(
            f"the model {path} is gated: accept its licence at https://huggingface.co/{path}, then run `hf auth login`, or set "
            "`path` to a local copy."
        )
    if any(isinstance(link, RepositoryNotFoundError) for link in chain):
        return MissingFileError(f"the hub has no model {path}, or not for you: check `path` and run `hf auth login`.")
    if isinstance(error, OSError) and not Path(path).is_dir():
        return MissingFileError(
            f"the model {path} is neither a folder nor complete in the local cache, and could not be fetched ({_first_line(chain[-1])}): "
            "check the network, or set `path` to a local copy."
        )
    return UserError(f"the model {path} could not be loaded as {what} ({_first_line(error)}): check `path` and the files there.")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
